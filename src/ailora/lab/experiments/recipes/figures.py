"""How much is done for a figure: at the small scale less than for a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ailora.lab.experiments.grid import Grid
from ailora.lab.experiments.recipes import base
from ailora.lab.experiments.recipes.base import Scale
from ailora.lab.experiments.recipes.rates import rates_of

NOTE = (
    "small: 600 rows, three seeds and two rates a method, so that all figures take two hours; "
    "three seeds rank nothing"
)
_SMALL: Mapping[str, Any] = {"limit": 600, "eval_limit": 300, "seeds": 3}
_SMALL_RATES: Mapping[str, tuple[float, ...]] = {"full": (1e-4, 2e-4)}
_SMALL_REST = (2e-3, 4e-3)


def grid(
    scale: Scale,
    task: str,
    *,
    methods: Sequence[str],
    model: str,
    data: str | None,
    axes: Mapping[str, Sequence[Any]] | None = None,
    **changes: Any,
) -> Grid:
    """Methods on one task, which share their rates.

    Args:
        scale: How much is done.
        task: Name of the task.
        methods: Names of methods.
        model: For the paper's scale one that settings are published for.
        data: Folder of the paper's tasks; None for the hub, or what is embedded.
        axes: Further ones, by the name of a setting.
        changes: Settings instead of the scale's.
    """
    rates, settings = rates_of(methods[0], scale), changes
    if scale == "small":
        rates = _SMALL_RATES.get(methods[0], _SMALL_REST)
        settings = {**_SMALL, **changes}
    return base.grid(
        scale, task, methods=methods, model=model, data=data, rates=rates, axes=axes, **settings
    )


def notes(scale: Scale, tasks: Sequence[str], model: str) -> tuple[str, ...]:
    """What is to be known of the scale's settings, a line each."""
    more = (NOTE,) if scale == "small" else ()
    return (*base.scale_notes(scale, tasks, [model]), *more)
