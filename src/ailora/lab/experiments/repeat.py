"""The sweep file that does given runs again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ailora.lab.experiments.plan import NESTED
from ailora.lab.training import RunConfig

_AXES = ("seed", "lr", "method", "rank", "task", "model")  # in the order in which runs are joined
_Part = tuple[str, dict[str, list[Any]]]  # settings that its runs share, as JSON, and its axes


def repeat_plan(configs: Iterable[Mapping[str, Any]]) -> str:
    """TOML for `ailora sweep`: exactly these runs, by as few grids as joining axes gives.

    Only what differs from the defaults is written. The same data gives the same names of runs.

    Args:
        configs: Settings of runs as dictionaries, as their ``config.json`` and result hold them.
    """
    parts: list[_Part] = [(json.dumps(dict(config)), {}) for config in configs]
    for axis in _AXES:
        parts = _joined(parts, axis)
    grids = [_with_scalars(json.loads(shared), axes) for shared, axes in parts]
    return "\n".join(_table(common, axes) for common, axes in grids)


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


def _table(common: Mapping[str, Any], axes: Mapping[str, list[Any]]) -> str:
    usual = asdict(RunConfig())
    own = {name: value for name, value in common.items() if value != usual[name]}
    lines = ["[[grid]]", *(f"{name} = {_value(values)}" for name, values in axes.items())]
    plain = {name: value for name, value in own.items() if name not in NESTED}
    lines += ["[grid.common]", *(f"{name} = {_value(value)}" for name, value in plain.items())]
    for name in (name for name in NESTED if name in own):
        inner = {key: value for key, value in own[name].items() if value != usual[name][key]}
        lines.append(f"[grid.common.{name}]")
        lines += [f"{key} = {_value(value)}" for key, value in inner.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    # JSON's texts, numbers and truth values are TOML's too, but for this one sign.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
