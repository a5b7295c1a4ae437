"""A task by one name: embedded, a local path, or a hub data set."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.tasks.base import Task, TextTask
from ailora.tasks.hub import is_hub_name
from ailora.tasks.movies import load_movies
from ailora.tasks.read import kind_of
from ailora.tasks.text import load_text_task

_EMBEDDED = ("movies", "movies-regression")
_FILES_ONLY = {"dev": None, "test": None, "text": None, "label": "label"}


def load_task(name: str | Path, *, data: Path | str | None = None, **options: Any) -> Task:
    """Load ``movies`` or ``movies-regression`` (embedded), a file or folder, or a hub data set.

    Args:
        name: The task. A local file or folder of that name goes before the hub, an embedded name
            before both (write ``./movies`` for a folder of your own).
        data: Folder that holds the paper's tasks, each in a folder of its name; None for the hub.
        options: Those of ``load_text_task``; for an embedded task those of ``load_movies``.

    Raises:
        UserError: Nothing of that name (with the nearest one there is), or as the loaders raise.
    """
    if str(name) in _EMBEDDED:
        return _embedded(str(name), options)
    path = Path(name).expanduser()
    if not path.exists():
        _refuse_missing(str(name), path)
    return load_text_task(name, **options)


def _embedded(name: str, options: dict[str, Any]) -> TextTask:
    given = {key for key, usual in _FILES_ONLY.items() if options.pop(key, usual) != usual}
    if given:
        raise UserError(f"task {name!r} takes no {', '.join(sorted(given))}: it has its own data")
    regression = options.pop("regression", None)
    return load_movies(regression=bool(regression) or name == "movies-regression", **options)


def _refuse_missing(name: str, path: Path) -> None:
    """Raise unless ``name`` can only be meant for the hub."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    if near:
        hint = f"did you mean '{path.parent / near[0]}'?"
    elif is_hub_name(name) and kind_of(path) is None:
        return
    else:
        embedded = difflib.get_close_matches(name, _EMBEDDED, n=1)
        hint = f"did you mean {embedded[0]!r}?" if embedded else "check the path"
    raise UserError(
        f"no task, file or folder is called {name!r}: {hint} (tasks: {', '.join(_EMBEDDED)}; "
        "a csv, tsv or jsonl file; a folder with train.*; a hub name as glue/cola)"
    )
