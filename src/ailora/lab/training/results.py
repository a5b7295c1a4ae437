"""How a run ended: a result, its schema, how older ones are read, what damage is; or diverged.

Schema 3 has today's settings. Schema 2 had other names for some (`current_settings`). Schema 1
(0.1.0) has no number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.files import is_finite, parse_json, read_text
from ailora.html_table import html_table
from ailora.lab.methods.variants import in_words, variant_of
from ailora.lab.settings import SETTINGS, current_settings

SCHEMA = 3
_OURS = {"config", "schema"}


class Result(dict[str, Any]):
    """What stands in a run's ``result.json``, as a dictionary; notebooks show its scores."""

    def _repr_html_(self) -> str:
        config, data, metrics = (self[name] for name in ("config", "data", "metrics"))
        names = dict.fromkeys(name for own in metrics.values() for name in own)
        rows = [
            (str(name), *(f"{own[name]:.4f}" if name in own else "" for own in metrics.values()))
            for name in names
        ]
        counts = ("rows", *(str(data.get(split, "")) for split in metrics))
        return html_table(
            ("", *metrics),
            [counts, *rows],
            title=f"{in_words(variant_of(config))} on {config['task']}",
            notes=[self._trained()],
        )

    def _trained(self) -> str:
        parameters = self.get("parameters", {})
        found = {name: parameters[name] for name in ("adapter", "head") if name in parameters}
        words = " + ".join(f"{value:,} ({name})" for name, value in found.items())
        return f"{words} trainable parameters" if words else ""


class DivergedError(UserError):
    """Training ended in NaN or infinity."""


class DamagedError(UserError):
    """A result was written whole and cannot be read: it was changed, or is of a later version."""


def read_result(path: Path) -> Result | None:
    """The result in a file; None where there is none, or one that is half-written or foreign.

    Raises:
        DamagedError: Something in it is missing, or is not what a run writes there; or it is of a
            schema that this version does not know.
    """
    try:
        result = parse_json(read_text(path))
    except (OSError, ValueError):
        return None
    if not (isinstance(result, dict) and ("metrics" in result or result.keys() >= _OURS)):
        return None
    schema = result.get("schema", 1)
    if schema not in (1, 2, SCHEMA):
        raise DamagedError(
            f"{path}: has schema {schema!r}, which is not known (up to {SCHEMA} are); update ailora"
        )
    if not _OURS & result.keys():
        return None
    if isinstance(result.get("config"), dict):
        result["config"] = current_settings(result["config"])
    damage = _damage(result)
    if damage:
        raise DamagedError(
            f"{path}: is damaged: {damage}; mend it, or remove the run's folder to do it again"
        )
    return stamped(result)


def stamped(result: Mapping[str, Any]) -> Result:
    """The result as it is written: with the number of today's schema."""
    return Result({**result, "schema": SCHEMA})


def settings_damage(config: Any) -> str:
    """What is wrong with settings that were read from a file; empty where nothing is.

    A name that is no setting is no damage: another version may have it.
    """
    if not isinstance(config, Mapping):
        return "its config is no table"
    for name, value in config.items():
        if name not in SETTINGS:
            continue
        plain = value is None or isinstance(value, str | int | float)
        if damage := (_known_damage if plain else _setting_damage)(name, value):
            return damage
    return ""


def _setting_damage(name: str, value: Any) -> str:
    try:
        SETTINGS[name].checked(value)
    except UserError as error:
        return f"its config has {error}"
    return ""


@functools.lru_cache(maxsize=10_000, typed=True)
def _known_damage(name: str, value: Any) -> str:
    """The same, asked once of the values that a folder's runs share; 1, 1.0 and true are three."""
    return _setting_damage(name, value)


def _damage(result: Mapping[str, Any]) -> str:
    """The first thing in a result that is not as a run writes it; empty where nothing is."""
    for name in ("config", "data", "metrics"):
        if name not in result:
            return f"it has no {name}"
    wrong = settings_damage(result["config"]) or _scores_damage(result["data"], result["metrics"])
    if wrong:
        return wrong
    for name, (fits, what) in _SHAPES.items():
        if name in result and not fits(result[name]):
            return f"its {name} must be {what}"
    return ""


def _scores_damage(data: Any, metrics: Any) -> str:
    metric = data.get("metric") if isinstance(data, dict) else None
    if not isinstance(metric, str):
        return "its data names no metric"
    for split in ("selection", "test"):
        scores = metrics.get(split) if isinstance(metrics, dict) else None
        if not isinstance(scores, dict) or metric not in scores:
            return f"it has no {metric} on the {split} split"
        for name, score in scores.items():
            if not _is_number(score):
                return f"{name} on the {split} split is {score!r}, which is no number"
    return ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and is_finite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_history(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, dict) for entry in value)
        and all(_is_number(entry.get(name)) for entry in value for name in ("step", "epoch"))
        and all(_is_number(v) for entry in value for v in entry.values() if v is not None)
    )


def _are_updates(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("role"), str)
        and _is_number(one.get("norm"))
        and _is_number(one.get("relative"))
        for one in value
    )


# What a run writes elsewhere; a part that is not there was not written by every version.
_SHAPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "majority": (lambda value: value is None or _is_number(value), "a number or null"),
    "history": (_is_history, "a list of tables with step, epoch and numbers"),
    "parameters": (_are_numbers, "a table of numbers"),
    "seconds": (_are_numbers, "a table of numbers"),
    "step0_deviation": (_is_number, "a number"),
    "updates": (_are_updates, "a list of tables with role, norm and relative"),
    "environment": (lambda value: isinstance(value, dict), "a table"),
}
