"""A task by one name: embedded, of the paper, a local path, or a hub data set."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.lab.tasks.base import Task
from ailora.lab.tasks.named import EMBEDDED, NAMED, PAPER, canonical
from ailora.lab.tasks.own import load_python, loader_of
from ailora.lab.tasks.tables.hub import is_hub_name
from ailora.lab.tasks.tables.sources import is_local

_UNSAID: Mapping[str, Any] = {"label": "label"}  # what an option is when nobody gave it; else None


def load_task(name: str | Path, *, data: Path | str | None = None, **options: Any) -> Task:
    """Load a task by its name, or from a file or folder of your own.

    Args:
        name: ``movies`` or ``movies-regression`` (embedded); a task of the paper (``cola`` and the
            rest of GLUE, ``squad_v1``, ``squad_v2``, ``xquad_en``, ``arithmetic``, ``xsum``,
            ``cnn_dailymail``, ``dialogsum``, ``scitldr``); a csv, tsv, jsonl or json file or a
            folder with ``train.*``, whose columns tell the kind of task; a Python file with a
            function ``load(**options)``; or a hub data set. A named task goes before a folder of
            that name (write ``./cola`` for one), a local path before the hub.
        data: Folder that holds the paper's tasks, each in a folder of its name; None for the hub.
        options: Of the task's loader (`load_text_task`, `load_squad`, ...); None is left out.

    Raises:
        UserError: Nothing of that name (with the nearest one there is), an option that the task
            has no use for, or as the loaders raise.
    """
    text = str(name)
    path = Path(name).expanduser()
    if text in NAMED or (canonical(text) in NAMED and not path.exists()):
        return _named(canonical(text), data, options)
    if data is not None:
        raise UserError(f"task {text!r} is no task of the paper, so it takes no data folder")
    if path.suffix == ".py" and path.exists():
        return load_python(path, **_given(options))
    if not is_local(text) or not path.exists():
        _refuse_missing(text, path)
    return _call(loader_of(name), text, options, name)


def _named(name: str, data: Path | str | None, options: Mapping[str, Any]) -> Task:
    if name in EMBEDDED:
        if data is not None:
            raise UserError(f"task {name!r} takes no data folder: it has its own")
        return _call(EMBEDDED[name], name, options)
    return _call(PAPER[name], name, {**options, "data": data})


def _call(
    loader: Callable[..., Task], name: str, options: Mapping[str, Any], *arguments: Any
) -> Task:
    given, known = _given(options), inspect.signature(loader).parameters
    odd = sorted(given.keys() - known.keys())
    if odd:
        raise UserError(f"task {name!r} takes no {', '.join(odd)}: leave it out")
    return loader(*arguments, **given)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value != _UNSAID.get(key)}


def _refuse_missing(name: str, path: Path) -> None:
    """Raise unless ``name`` can only be meant for the hub."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    if near:
        hint = f"did you mean '{path.parent / near[0]}'?"
    elif is_hub_name(name) and not is_local(name):
        return
    else:
        known = difflib.get_close_matches(name, NAMED, n=1)
        hint = f"did you mean {known[0]!r}?" if known else "check the path"
    raise UserError(
        f"no task, file or folder is called {name!r}: {hint} (tasks: {', '.join(NAMED)}; "
        "a csv, tsv, jsonl, json or py file; a folder with train.*; a hub name as owner/name)"
    )
