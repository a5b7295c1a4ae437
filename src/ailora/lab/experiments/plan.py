"""A sweep file: TOML with common settings and axes, or Python that defines ``grids``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ailora.errors import UserError
from ailora.lab.experiments.grid import SETTINGS, Grid, check_name
from ailora.lab.tasks.own import run_file
from ailora.lab.training import RunConfig
from ailora.lab.training.settings import QA, Generation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NESTED: dict[str, type[Generation] | type[QA]] = {"generation": Generation, "qa": QA}
_PARTS = ("common", "grid")


def read_plan(path: Path) -> tuple[Grid, ...]:
    """Read the grids of a sweep file.

    A TOML file has ``[common]``, fields of `RunConfig` (``[common.generation]`` and
    ``[common.qa]`` among them), and ``[grid]``, a list of values by the name of a field, or
    several ``[[grid]]``, each with a ``common`` of its own that is laid over the shared one. A
    Python file is run, and defines ``grids``: a `Grid` or a sequence of them.

    Raises:
        UserError: No such file, an unknown name (with the nearest known one), or values that make
            no sense.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a sweep file, .toml or .py")
    if path.suffix == ".py":
        return _of_python(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}; correct it there") from error
    try:
        return _grids(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _of_python(path: Path) -> tuple[Grid, ...]:
    found = getattr(run_file(path), "grids", None)
    grids = (found,) if isinstance(found, Grid) else found
    right = isinstance(grids, Sequence) and all(isinstance(grid, Grid) for grid in grids)
    if not right or not grids:
        raise UserError(f"{path} defines no grids; write grids = Grid(...) or a list of them")
    return tuple(grids)


def _grids(content: Mapping[str, Any]) -> tuple[Grid, ...]:
    for name in content:
        check_name(name, _PARTS)
    common, found = _table(content.get("common", {}), "[common]"), content.get("grid", {})
    several = found if isinstance(found, list) else [found]
    if not several:
        raise UserError("grid=[]: give at least one, or leave it out for a single run")
    return tuple(_grid(common, _table(part, "[grid]")) for part in several)


def _grid(shared: Mapping[str, Any], part: Mapping[str, Any]) -> Grid:
    own = _table(part.get("common", {}), "common of [[grid]]")
    common = RunConfig(**_settings({**shared, **own, **_merged(shared, own)}, "[common] "))
    axes = {name: values for name, values in part.items() if name != "common"}
    return Grid(common=common, axes={name: _axis(name, values) for name, values in axes.items()})


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Tables within, laid over each other too."""
    both = (name for name in NESTED if name in shared and name in own)
    return {name: {**_table(shared[name], name), **_table(own[name], name)} for name in both}


def _axis(name: str, values: Any) -> Any:
    check_name(name, SETTINGS, "[grid] ")
    if not isinstance(values, list):
        raise UserError(f"[grid] {name}={values!r}: give a list of values")
    return [_settings({name: value}, "[grid] ")[name] for value in values]


def _settings(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {name: _setting(name, value, where) for name, value in table.items()}


def _setting(name: str, value: Any, where: str) -> Any:
    check_name(name, SETTINGS, where)
    if name not in NESTED:
        return _checked(RunConfig, name, value, where)
    kind, inner = NESTED[name], f"{where}{name}."
    table = _table(value, f"{where}{name}")
    for key in table:
        check_name(key, [field.name for field in fields(kind)], inner)
    return kind(**{key: _checked(kind, key, given, inner) for key, given in table.items()})


def _checked(owner: type, name: str, value: Any, where: str) -> Any:
    """The value as the field holds it; TOML has lists alone."""
    hint = get_type_hints(owner)[name]
    if not any(_fits(value, one) for one in _alternatives(hint)):
        raise UserError(f"{where}{name}={value!r}: must be {_words(hint)}")
    return tuple(value) if isinstance(value, list) else value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; Literal's are checked by the settings themselves."""
    return get_args(hint) if NoneType in get_args(hint) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return isinstance(value, str)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, dict)
    if origin is not None:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    kinds = [one for one in _alternatives(hint) if one is not NoneType]
    origin = get_origin(kinds[0])
    if origin is Literal:
        return "one of " + ", ".join(get_args(kinds[0]))
    if origin is not None:
        return "a table" if issubclass(origin, Mapping) else "a list of texts"
    return names[kinds[0]]


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must be a table of names and values, not {value!r}")
    return value
