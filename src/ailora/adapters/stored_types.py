"""The types of what an adapter's files say: they may come from anyone, and JSON holds anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sized
from typing import Any

from peft import PeftConfig

from ailora.adapters.config import is_number
from ailora.adapters.factors import Block
from ailora.adapters.patterns import is_slow
from ailora.adapters.starts import STARTS
from ailora.files import is_finite

_LARGEST_RANK = 1 << 24
_MOST_ENTRIES = 5_000  # PEFT compares each with each of the model's modules


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _are_names(value: Any) -> bool:
    return value is None or (
        isinstance(value, list | tuple | set)
        and len(value) <= _MOST_ENTRIES
        and all(isinstance(one, str) for one in value)
    )


def _is_pattern_or_names(value: Any) -> bool:
    return _is_pattern(value) if isinstance(value, str) else _are_names(value)


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and not is_slow(value)
    except (re.error, RecursionError, OverflowError):
        return False


def _are_patterns(value: Any) -> bool:
    """Whether they are names that PEFT can take for patterns, as it does with some."""
    return _are_names(value) and all(map(_is_pattern, value or ()))


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_RANK


def _is_finite(value: Any) -> bool:
    return is_number(value) and abs(value) <= 1e30


def _by_name(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def all_fit(value: Any) -> bool:
        return value is None or (
            isinstance(value, dict)
            and len(value) <= _MOST_ENTRIES
            and all(_is_pattern(name) and fits(one) for name, one in value.items())
        )

    return all_fit


def _are_integers(value: Any) -> bool:
    several = isinstance(value, list | tuple) and all(type(one) is int for one in value)
    return value is None or several


def _are_tokens(value: Any) -> bool:
    return _are_integers(value) and all(token >= 0 for token in value or ())


def _are_layers(value: Any) -> bool:
    return type(value) is int or _are_integers(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


# Fields of PEFT's config that are read here, or by PEFT without a look at them.
_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, "a positive integer"),
    "lora_alpha": (_is_finite, "a number"),
    "lora_dropout": (lambda value: is_number(value) and 0 <= value <= 1, "in [0, 1]"),
    "rank_pattern": (_by_name(_is_rank), "a table of positive integers"),
    "alpha_pattern": (_by_name(_is_finite), "a table of numbers"),
    "target_modules": (_is_pattern_or_names, "a pattern or a list of names"),
    "exclude_modules": (_is_pattern_or_names, "a pattern or a list of names"),
    "modules_to_save": (_are_patterns, "a list of names"),
    "target_parameters": (_are_names, "a list of names"),
    "trainable_token_indices": (
        lambda value: _are_tokens(value) or _by_name(_are_tokens)(value),
        "a list of token ids, or a table of such lists",
    ),
    "layers_to_transform": (_are_layers, "an integer or a list of them"),
    "layers_pattern": (
        lambda value: _is_pattern(value) or _are_patterns(value),
        "a pattern or a list of names",
    ),
    "bias": (lambda value: value in ("none", "all", "lora_only"), "'none', 'all' or 'lora_only'"),
    "init_lora_weights": (
        lambda v: v is None or isinstance(v, bool | str),
        "true, false or a name",
    ),
    "alora_invocation_tokens": (_are_integers, "a list of integers"),
    "base_model_name_or_path": (_is_name, "a name"),
    "revision": (_is_name, "a name"),
    "task_type": (_is_name, "a name"),
    "use_rslora": (_is_bool, "true or false"),
    "use_dora": (_is_bool, "true or false"),
    "lora_bias": (_is_bool, "true or false"),
    "fan_in_fan_out": (_is_bool, "true or false"),
    "inference_mode": (_is_bool, "true or false"),
    "ensure_weight_tying": (_is_bool, "true or false"),
}


def config_damage(config: PeftConfig) -> str:
    """The first field of PEFT's config that is of another type; empty where none is.

    Patterns that may take minutes count as such, and more entries than any model has modules.
    """
    for name, (fits, what) in _FIELDS.items():
        value = getattr(config, name, None)
        if hasattr(config, name) and not fits(value):
            return f"{name} must be {what}, and is {str(value)[:60]!r}{_why_not(value)}"
    return ""


def _why_not(value: Any) -> str:
    several = isinstance(value, Sized) and not isinstance(value, str)
    if several and len(value) > _MOST_ENTRIES:
        return f" of {len(value)} entries"
    try:
        slow = [one for one in ([value] if not several else value) if is_slow(one)]
    except (re.error, TypeError, RecursionError, OverflowError):
        slow = []
    return ", which may take for ever to match: repeat nothing that repeats" if slow else ""


def block_of(stored: Mapping[str, Any]) -> Block:
    """A block as the marker holds it.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    rows = stored["rows"]
    made = Block(**{**stored, "rows": rows and tuple((start, stop) for start, stop in rows)})
    if not (
        isinstance(made.role, str)
        and isinstance(made.init, str)
        and made.init in STARTS
        and _is_rank(made.rank)
        and isinstance(made.anchored, bool)
        and _is_finite(made.lr_ratio)
        and (made.rows is None or _are_rows(made.rows))
        and (made.parameter is None or isinstance(made.parameter, str))
        and _is_rank(made.experts)
    ):
        raise ValueError(f"a block is {str(dict(stored))[:120]}")
    return made


def _are_rows(rows: tuple[tuple[Any, Any], ...]) -> bool:
    edges = [edge for pair in rows for edge in pair]
    indices = all(type(edge) is int and edge >= 0 for edge in edges)
    return bool(rows) and indices and edges == sorted(edges) and all(a < b for a, b in rows)


def number(value: Any) -> float:
    """A finite number. Raises a ValueError for anything else, a bool too."""
    if not is_number(value) or not is_finite(value):
        raise ValueError(f"{str(value)[:60]!r} is no number")
    return float(value)
