"""A grid of runs: settings that all share, and values of the settings that differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from ailora.errors import UserError
from ailora.lab.training import RunConfig
from ailora.lab.training.methods import check_method

SETTINGS = tuple(setting.name for setting in fields(RunConfig))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of the axes' values, on top of the common settings.

    Attributes:
        common: The settings that all runs share.
        axes: Values to combine by the name of a `RunConfig` field: method, task, model, rank, lr,
            seed, or any other. The last axis changes fastest.

    Raises:
        UserError: A name that is no setting, an unknown method, an axis without values or with
            one twice, or values that do not go together.
    """

    common: RunConfig = field(default_factory=RunConfig)
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.axes.items():
            check_name(name, SETTINGS)
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise UserError(f"{name}={values!r}: give a list of at least one value")
            if any(value in values[:index] for index, value in enumerate(values)):
                raise UserError(f"{name}={list(values)}: give each value once")
        for method in {run.method for run in self.runs()}:
            check_method(method)

    def runs(self) -> Iterator[RunConfig]:
        """Every run, as the axes are nested."""
        for values in itertools.product(*self.axes.values()):
            yield replace(self.common, **dict(zip(self.axes, values, strict=True)))


def distinct(grids: Sequence[Grid]) -> list[RunConfig]:
    """The runs of several grids in order, those in more than one of them once."""
    every = itertools.chain.from_iterable(grid.runs() for grid in grids)
    # By the hash of what they are made of: thousands of runs would be slow to compare in pairs.
    return list({run.run_id("", str(run.data)): run for run in every}.values())


def check_name(name: str, known: Sequence[str], where: str = "") -> None:
    """Raise a UserError that says the nearest known name if this is not one."""
    if name in known:
        return
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise UserError(f"{where}{name!r} is no setting; {hint}")
