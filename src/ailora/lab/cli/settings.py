"""From the options of a command to the settings of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import typer

from ailora.errors import UserError
from ailora.lab.cli import options

if TYPE_CHECKING:
    from ailora.lab.training import RunConfig
    from ailora.lab.training.published import Published

GENERATION = ("loss_on", "max_new_tokens", "num_beams", "max_source_tokens")
_QA = ("doc_stride", "null_threshold")


def given_on(context: typer.Context) -> frozenset[str]:
    """Names of the options that the user gave."""
    return frozenset(
        name
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"
    )


def run_config(
    values: Mapping[str, Any], given: Collection[str], found: Published | None
) -> RunConfig:
    """A run's settings: the user's, then the published ones, then the defaults.

    Args:
        values: All options that are settings of a run, as typed.
        given: Those that the user gave.
        found: What is published for the task and model, if that was asked for.

    Raises:
        UserError: A value that makes no sense.
    """
    from ailora.lab.training import RunConfig

    flat = {name: value for name, value in values.items() if name not in (*GENERATION, *_QA)}
    flat["text"] = options.optional_names("--text", values.get("text"))
    flat["metrics"] = options.optional_names("--metrics", values.get("metrics"))
    flat["tests"] = options.optional_names("--tests", values.get("tests"))
    flat["ranks"] = _ranks(values.get("ranks"))
    settings = {
        **flat,
        **(found.settings if found else {}),
        **{name: value for name, value in flat.items() if name in given},
    }
    return RunConfig(**{**settings, **_nested(values, settings)})


def published_for(preset: str | None, task: str, model: str) -> Published | None:
    """The published settings, if ``preset`` asks for them.

    Raises:
        UserError: An unknown preset, or nothing is published for the task on the model.
    """
    if preset is None:
        return None
    if preset != "paper":
        raise UserError(f"--preset {preset!r}: there is only 'paper'")
    from ailora.lab.tasks.named import canonical
    from ailora.lab.training.published import published

    return published(canonical(task), model)


def _nested(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The kinds' own settings, where the user gave any."""
    from dataclasses import replace

    from ailora.lab.training.settings import QA, Generation

    generation = {name: values[name] for name in GENERATION if values.get(name) is not None}
    qa = {name: values[name] for name in _QA if values.get(name) is not None}
    return {
        "generation": replace(settings.get("generation") or Generation(), **generation),
        "qa": replace(settings.get("qa") or QA(), **qa),
    }


def _ranks(value: str | None) -> dict[str, int] | None:
    if value is None:
        return None
    try:
        pairs = [part.split("=") for part in options.names("--ranks", value)]
        return {role.strip(): int(rank) for role, rank in pairs}
    except ValueError as error:
        raise UserError(f"--ranks {value!r}: give roles and ranks, such as q=8,k=8") from error
