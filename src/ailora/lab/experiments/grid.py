"""A grid of runs: settings that all share, and values of the settings that differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ailora.errors import UserError
from ailora.lab.methods.table import method_named
from ailora.lab.settings import RunConfig, check_name


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
            check_name(name)
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise UserError(f"{name}={values!r}: give a list of at least one value")
            if any(value in values[:index] for index, value in enumerate(values)):
                raise UserError(f"{name}={list(values)}: give each value once")
        for method in {run.method for run in self.runs()}:
            method_named(method)

    def runs(self) -> Iterator[RunConfig]:
        """Every run, as the axes are nested."""
        for values in itertools.product(*self.axes.values()):
            yield replace(self.common, **dict(zip(self.axes, values, strict=True)))


def distinct(grids: Sequence[Grid]) -> list[RunConfig]:
    """The runs of several grids in order, those in more than one of them once."""
    return distinct_runs(itertools.chain.from_iterable(grid.runs() for grid in grids))


def distinct_runs(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """Equal runs once, in order."""
    # By the hash of what they are made of: thousands of runs would be slow to compare in pairs.
    return list({run.run_id("", str(run.data)): run for run in runs}.values())
