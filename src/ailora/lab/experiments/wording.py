"""Counts, numbers, settings and times as tables, pages and messages write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ailora.lab.methods.variants import in_words, variant_of


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``, ``1,000 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def number_words(value: float) -> str:
    """A number in its one spelling: without noise, and with every digit that it has.

    >>> number_words(1e9), number_words(2.0), number_words(0.1234567)
    ('1e+09', '2', '0.1234567')
    """
    short = f"{value:g}"
    return short if float(short) == value or value != value else repr(value)


def value_words(value: Any) -> str:
    """A setting's value; ranks by role as ``q8+v8``, numbers without noise."""
    if isinstance(value, float):
        return number_words(value)
    if isinstance(value, Mapping):
        return "+".join(f"{key}{inner}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return "+".join(map(value_words, value))
    return str(value)


def setting_words(config: Mapping[str, Any], name: str) -> str:
    """A setting of a run; its method with what differs from it, as in ``lora, V at 2x``."""
    if name == "method":
        return in_words(variant_of(config))
    return value_words(config.get(name, ""))


def metric_label(data: Mapping[str, Any], name: str | None = None) -> str:
    """A metric as tables and axes call it: ``f1`` with the class, or the mean, that it is of.

    >>> metric_label({"metric": "f1", "labels": ["ham", "spam"], "positive": "spam"})
    'f1 of spam'
    >>> metric_label({"metric": "f1", "labels": ["a", "b", "c"]}), metric_label({"metric": "mcc"})
    ('macro f1', 'mcc')

    Args:
        data: What a result says of its data.
        name: The metric; None for the headline.
    """
    name = str(data["metric"] if name is None else name)
    labels = data.get("labels")
    if name != "f1" or not labels:
        return name
    if len(labels) > 2:
        return f"macro {name}"
    positive = str(data.get("positive") or labels[-1])
    return f"{name} of {positive if len(positive) <= 24 else positive[:21] + '...'}"


def duration(seconds: float) -> str:
    """A time in words, to two significant digits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
