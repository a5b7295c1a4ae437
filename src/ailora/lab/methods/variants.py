"""A method with settings of its start and rates that differ: what a comparison's causes need.

A variant is written ``method:setting=value:setting=value``, as in ``pissa:scale=unit``, wherever
several methods are listed, and named by what differs from the method: "PiSSA, unit size". Runs
hold the settings themselves; this is the one place that puts the two together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ailora.errors import UserError
from ailora.lab.methods.table import METHODS, Look, method_named
from ailora.lab.settings import SETTINGS, RunConfig, check_name

CONTROLS = ("directions", "scale", "lr_ratio", "loraplus_lr_ratio")
_SYNTAX = f"write method:setting=value, with {', '.join(CONTROLS)}"
# No method of the table has one of these lines, or of these markers.
_LINES = ((0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2, 2, 2)))
_MARKERS = ("8", "H", "|", "_", "+", "x", 4, 5, 6, 7, 8, 9)


def read_variant(text: str) -> dict[str, Any]:
    """The settings that a variant stands for.

    >>> read_variant("pissa:scale=unit:lr_ratio=2")
    {'method': 'pissa', 'scale': 'unit', 'lr_ratio': 2.0}

    Raises:
        UserError: An unknown method or setting, or a value that the setting cannot have.
    """
    method, *parts = text.split(":")
    found: dict[str, Any] = {"method": method_named(method.strip()).name}
    for part in parts:
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise UserError(f"{text!r}: {part!r} is no setting with a value; {_SYNTAX}")
        check_name(name, CONTROLS, f"{text!r}: ")
        if name in found:
            raise UserError(f"{text!r}: has {name} twice; give it once")
        found[name] = SETTINGS[name].of_text(value, f"{text!r}: {name} ")
    return found


def variant_of(config: Mapping[str, Any]) -> str:
    """How the method of a run is written, from its settings: without what it does anyway.

    >>> variant_of({"method": "lora", "lr_ratio": 2.0, "scale": "sigma", "rank": 8})
    'lora:lr_ratio=2'
    """
    return _written(str(config.get("method", "")), tuple(map(config.get, CONTROLS)))


@functools.lru_cache(maxsize=1000)
def _written(method: str, values: tuple[str | float | None, ...]) -> str:
    """A method with the values of its `CONTROLS`; a report asks a hundred times for each run."""
    own = METHODS[method].own if method in METHODS else {}
    pairs = zip(CONTROLS, values, strict=True)
    differ = ((n, v) for n, v in pairs if v not in (None, SETTINGS[n].first, own.get(n)))
    return ":".join((method, *(f"{name}={_plain(value)}" for name, value in differ)))


def same_run(variant: str) -> str:
    """The first variant whose runs are the same to the bit; mostly the variant itself.

    Random directions of unit or matched size keep nothing of their method but the rate of v.

    >>> same_run("milora:directions=random:scale=unit"), same_run("milora:scale=unit")
    ('pissa:directions=random:scale=unit', 'milora:scale=unit')
    """
    _, controls = _split(variant)
    if controls.get("directions") != "random" or controls.get("scale") not in ("unit", "matched"):
        return variant
    first = next(name for name, method in METHODS.items() if "directions" in method.controls)
    return variant_of({"method": first, **controls_of(variant)})


def checked(config: RunConfig) -> RunConfig:
    """The run without settings that say what the method does anyway, so that equal runs are one.

    Raises:
        UserError: No such method, or it has no such setting.
    """
    method = method_named(config.method)
    same = {name for name, value in method.own.items() if getattr(config, name) == value}
    config = replace(config, **{name: SETTINGS[name].first for name in same})
    if config.lr_ratio is not None and config.ranks is not None and "v" not in config.ranks:
        raise UserError(
            f"lr_ratio={config.lr_ratio:g} is the rate of v, which ranks={dict(config.ranks)} "
            "leaves out; give v a rank, or leave out one of the two"
        )
    for name in CONTROLS:
        value = getattr(config, name)
        if value in (None, SETTINGS[name].first) or name in method.controls:
            continue
        have = [one.name for one in METHODS.values() if name in one.controls]
        raise UserError(
            f"{name}={value!r} is not for method {method.name!r}; "
            f"the methods that have it are {', '.join(have)}"
        )
    return config


def label_of(variant: str) -> str:
    """The name in tables and figures: the method's, and what differs from it.

    >>> label_of("ailora:scale=matched:lr_ratio=1"), label_of("lora:lr_ratio=2")
    ('AILoRA, matched size, one rate', 'LoRA, V at 2x')
    """
    method, _ = _split(variant)
    label = METHODS[method].label if method in METHODS else method
    return ", ".join((label, *_words(variant)))


def in_words(variant: str) -> str:
    """How lines of a terminal name it: as it is given there, and what differs in words.

    >>> in_words("lora:lr_ratio=2"), in_words("lora")
    ('lora, V at 2x', 'lora')
    """
    method, _ = _split(variant)
    return ", ".join((method, *_words(variant)))


def note_of(variant: str) -> str:
    """What it starts from or trains, in one line; empty for a method that is not known."""
    method, _ = _split(variant)
    note = METHODS[method].note if method in METHODS else ""
    return "; ".join(filter(None, (note, ", ".join(_words(variant)))))


def order_of(variant: str) -> tuple[int, str]:
    """Sort key of the one order in which they stand: known methods first, variants after each."""
    method, _ = _split(variant)
    known = list(METHODS)
    return (known.index(method) if method in known else len(known), variant)


def look_of(variant: str) -> Look | None:
    """Its look in figures: a variant has the method's colour. None for what is not known."""
    method, controls = _split(variant)
    if method not in METHODS:
        return None
    look = METHODS[method].look
    if not controls:
        return look
    scale, named = controls.get("scale", "sigma"), SETTINGS["scale"].choices
    kind = named.index(scale) if scale in named else len(named)
    kind += 4 * ("directions" in controls)
    kind += 8 * ("lr_ratio" in controls) + 16 * ("loraplus_lr_ratio" in controls)
    marker = _MARKERS[kind % len(_MARKERS)]
    return Look(look.color, _LINES[(kind + kind // len(_MARKERS)) % len(_LINES)], marker)


def controls_of(variant: str) -> dict[str, Any]:
    """What a variant sets, and the rate of v that its method has anyway.

    >>> controls_of("ailora:scale=unit")
    {'lr_ratio': 2.0, 'scale': 'unit'}
    """
    method, controls = _split(variant)
    own = METHODS[method].own if method in METHODS else {}
    return {"lr_ratio": own.get("lr_ratio", 1.0), **controls}


def _split(variant: str) -> tuple[str, dict[str, Any]]:
    method, *parts = variant.split(":")
    if method not in METHODS:  # another version's, or a user's own: a name as it stands
        return variant, {}
    pairs = (part.partition("=") for part in parts)
    return method, {name: SETTINGS[name].of_text(value) for name, _, value in pairs}


def _words(variant: str) -> list[str]:
    _, controls = _split(variant)
    return [_SAID[name](value) for name, value in controls.items()]


def _size_words(scale: str | float) -> str:
    return f"{scale} size" if isinstance(scale, str) else f"{_plain(scale)}x size"


_SAID: Mapping[str, Callable[[Any], str]] = {
    "directions": lambda value: f"{value} directions",
    "scale": _size_words,
    "lr_ratio": lambda value: "one rate" if value == 1 else f"V at {_plain(value)}x",
    "loraplus_lr_ratio": lambda value: f"B at {_plain(value)}x",
}


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else repr(float(value)).removesuffix(".0")
