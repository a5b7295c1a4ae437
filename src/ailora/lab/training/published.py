"""Settings of the paper, and of the works it says it follows, from ``published_settings.toml``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ailora.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FILE = Path(__file__).with_name("published_settings.toml")
_OTHER_NAMES = {"llama-2-7b-hf": "llama-2-7b", "llama2-7b": "llama-2-7b"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """Settings for one task on one model.

    Attributes:
        settings: Fields of `ailora.lab.settings.RunConfig`, without method, model, task and data.
        rates: Learning rates of the grid search, ascending; ``settings["lr"]`` is one of them.
        seeds: Number of runs with different seeds whose mean a published figure is.
        sources: For each setting, for ``rates`` and for ``seeds``, where it is written.
        unverified: Those of them whose source could not be read.
        notes: One line each on conflicts between sources and on what differs here.
    """

    settings: Mapping[str, Any]
    rates: tuple[float, ...]
    seeds: int
    sources: Mapping[str, str]
    unverified: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def published(task: str, model: str) -> Published:
    """Return the settings published for a task on a model.

    Args:
        task: A task of the paper: a GLUE set, ``squad_v1``, ``squad_v2``, ``arithmetic``, ``xsum``
            or ``cnn_dailymail``; also ``glue/NAME``.
        model: roberta-large, deberta-v3-base, llama-2-7b or bart-large: a hub name or a folder
            counts by its last part, whatever its case. A model tuned further (roberta-large-mnli)
            is another.

    Raises:
        UserError: Nothing is published for the two together; the message lists what is.
    """
    name = task.removeprefix("glue/")
    last = model.rstrip("/").rsplit("/", 1)[-1].lower()
    every = published_tasks()
    found = every.get(_OTHER_NAMES.get(last, last), {})
    if name not in found:
        known = "; ".join(f"{', '.join(tasks)} on {one}" for one, tasks in every.items())
        raise UserError(
            f"no settings are published for task {task!r} on model {model!r}; there are {known}"
        )
    return found[name]


@functools.cache
def published_tasks() -> Mapping[str, Mapping[str, Published]]:
    """Everything that is published, by model and task."""
    content = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    phrases = content.pop("phrases")
    found: dict[str, dict[str, Published]] = {}
    for benchmark in content.values():
        for model, by_model in _inner(benchmark):
            for task, by_task in _inner(by_model):
                tables = (benchmark, by_model, by_task)
                found.setdefault(model, {})[task] = _published(tables, phrases)
    return found


def _published(tables: tuple[Mapping[str, Any], ...], phrases: Mapping[str, str]) -> Published:
    """The cited settings of some tables, each laid over those before it."""
    cited = {name: one for table in tables for name, one in table.items() if _is_cited(one)}
    settings = {name: one["value"] for name, one in cited.items()}
    return Published(
        rates=tuple(settings.pop("rates")),
        seeds=settings.pop("seeds"),
        settings=MappingProxyType(settings),
        sources=MappingProxyType(
            {name: one["source"].format(**phrases) for name, one in cited.items()}
        ),
        unverified=frozenset(name for name, one in cited.items() if not one.get("verified", True)),
        notes=tuple(note for table in tables for note in table.get("notes", ())),
    )


def _inner(table: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables within one that are not settings, by name."""
    return (
        (name, one) for name, one in table.items() if isinstance(one, dict) and not _is_cited(one)
    )


def _is_cited(value: Any) -> bool:
    return isinstance(value, dict) and "source" in value
