"""Sweep files: read as grids of runs, and written so that given runs can be done again."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.files import read_text
from ailora.lab.experiments.grid import Grid
from ailora.lab.experiments.wording import number_words
from ailora.lab.methods.table import METHODS
from ailora.lab.methods.variants import CONTROLS, read_variant, variant_of
from ailora.lab.settings import SETTINGS, RunConfig, check_name
from ailora.lab.tasks.registry import run_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PARTS = ("common", "grid", "search")
_MOST_RUNS = 10_000
_AXES = ("seed", "lr", "method", "rank", "task", "model")  # in the order in which runs are joined
_Part = tuple[str, dict[str, list[Any]]]  # shared settings as JSON, and axes


def read_sweep_file(path: Path) -> tuple[Grid, ...]:
    """Read the grids of a sweep file.

    A TOML file has ``[common]``, settings of a run, and ``[grid]``, a list of values by the name of
    a setting, or several ``[[grid]]``, each with a ``common`` of its own that is laid over the
    shared one. A Python file is run, and defines ``grids``: a `Grid` or a sequence of them.

    Raises:
        UserError: No such file, an unknown name (with the nearest known one), or values that make
            no sense.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a sweep file, .toml or .py")
    if path.suffix == ".py":
        return _of_python(path)
    content = _toml_of(path)
    try:
        return _grids(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_search_table(path: Path) -> Any:
    """What ``[search]`` says in a TOML sweep file; None if there is none."""
    return None if path.suffix == ".py" else _toml_of(path).get("search")


def _toml_of(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = tomllib.loads(read_text(path, "utf-8-sig"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}; correct it there") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply; correct it there") from error
    return found


def sweep_file_text(configs: Iterable[Mapping[str, Any]]) -> str:
    """TOML for `ailora sweep`: exactly these runs, by as few grids as joining axes gives.

    Only what differs from the defaults is written. The same data gives the same names of runs.

    Args:
        configs: Settings of runs as dictionaries, as their ``config.json`` and result hold them.
    """
    parts: list[_Part] = [(json.dumps(_with_variant(config)), {}) for config in configs]
    for axis in _AXES:
        parts = _joined(parts, axis)
    grids = [_with_scalars(json.loads(shared), axes) for shared, axes in parts]
    return "\n".join(_grid_text(_without_variant(common), axes) for common, axes in grids)


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
    if not common and not found and found != []:
        raise UserError("nothing to do: it has no settings in [common] and no values in [grid]")
    several = found if isinstance(found, list) else [found]
    if not several:
        raise UserError("grid=[]: give at least one, or leave it out for a single run")
    if not isinstance(found, list):  # one of several lays its values over the shared ones
        _check_once(common, _table(found, "[grid]"))
    tables = [_table(part, "[grid]") for part in several]
    runs = sum(
        math.prod(len(values) for values in table.values() if isinstance(values, list))
        for table in tables
    )
    if runs > _MOST_RUNS:
        raise UserError(
            f"[grid] asks for {runs:,} runs; give fewer values ({_MOST_RUNS:,} at most)"
        )
    return tuple(_grid(common, table) for table in tables)


def _grid(shared: Mapping[str, Any], part: Mapping[str, Any]) -> Grid:
    own = _table(part.get("common", {}), "common of [[grid]]")
    _check_once(own, part)
    common = RunConfig(**_settings({**shared, **own}, "[common] "))
    axes = {name: values for name, values in part.items() if name != "common"}
    return Grid(common=common, axes={name: _axis(name, values) for name, values in axes.items()})


def _check_once(common: Mapping[str, Any], axes: Mapping[str, Any]) -> None:
    for name in common.keys() & axes.keys():
        raise UserError(f"{name!r} stands in [common] and in [grid]; give it in one of them")


def _axis(name: str, values: Any) -> Any:
    check_name(name, where="[grid] ")
    if not isinstance(values, list):
        raise UserError(f"[grid] {name}={values!r}: give a list of values")
    return [_settings({name: value}, "[grid] ")[name] for value in values]


def _settings(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    for name in table:
        check_name(name, where=where)
    return {name: SETTINGS[name].checked(value, f"{where}{name}=") for name, value in table.items()}


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must be a table of names and values, not {value!r}")
    return value


def _with_variant(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the method's own in its name, so that variants can be values of one axis."""
    if config["method"] not in METHODS:
        return dict(config)
    others = {name: value for name, value in config.items() if name not in CONTROLS}
    return {**others, "method": variant_of(config)}


def _without_variant(common: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own settings as settings again, where it is no axis."""
    method, variant, _ = common.get("method", "").partition(":")
    is_variant = variant and method in METHODS  # another version's method is a name as it stands
    return {**common, **read_variant(common["method"])} if is_variant else dict(common)


def _joined(parts: Iterable[_Part], axis: str) -> list[_Part]:
    """Put parts that differ in one setting alone into one."""
    found: dict[str, tuple[_Part, list[Any]]] = {}
    for shared, axes in parts:
        rest = json.loads(shared)
        value = rest.pop(axis)
        part = (json.dumps(rest), axes)
        found.setdefault(json.dumps(part), (part, []))[1].append(value)
    return [(shared, {**axes, axis: values}) for (shared, axes), values in found.values()]


def _with_scalars(
    common: dict[str, Any], axes: dict[str, list[Any]]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """An axis of one value is no axis."""
    single = {name: values[0] for name, values in axes.items() if len(values) == 1}
    return {**common, **single}, {name: axes[name] for name in axes if name not in single}


def _grid_text(common: Mapping[str, Any], axes: Mapping[str, list[Any]]) -> str:
    own = {name: value for name, value in common.items() if value != SETTINGS[name].default}
    lines = ["[[grid]]", *(f"{name} = {_toml(values)}" for name, values in axes.items())]
    lines += ["[grid.common]", *(f"{name} = {_toml(value)}" for name, value in own.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float) and "e" in number_words(value):
        return number_words(value)
    # JSON's texts, numbers and truth values are TOML's too, but for this one sign.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
