"""A grid of runs: settings that all share, and values of the settings that differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ailora.errors import UserError
from ailora.lab.methods.variants import CONTROLS, checked, read_variant, same_run, variant_of
from ailora.lab.settings import SETTINGS, RunConfig, check_name


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of the axes' values, on top of the common settings.

    Attributes:
        common: The settings that all runs share.
        axes: Values to combine by the name of a `RunConfig` field: method, task, model, rank, lr,
            seed, or any other. The last axis changes fastest. A method may have settings beside
            its name: ``"pissa:scale=unit"`` (`ailora.lab.methods.variants`).

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
        for text in self.axes.get("method", ()):
            for name in read_variant(text).keys() & self.axes.keys() - {"method"}:
                raise UserError(
                    f"{name} stands in method {text!r} and has values of its own; "
                    "give it in one of them"
                )
        list(self.runs())  # settings that a method cannot have are refused here

    def runs(self) -> Iterator[RunConfig]:
        """Every run, as the axes are nested."""
        for values in itertools.product(*self.axes.values()):
            given = dict(zip(self.axes, values, strict=True))
            if "method" in given:
                given |= read_variant(given["method"])
            yield checked(replace(self.common, **given))


def distinct(grids: Sequence[Grid]) -> list[RunConfig]:
    """The runs of several grids in order, those in more than one of them once."""
    return distinct_runs(itertools.chain.from_iterable(grid.runs() for grid in grids))


def distinct_runs(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """Equal runs once, in order; also those that differ in the name of their method alone."""
    # By the hash of what they are made of: thousands of runs would be slow to compare in pairs.
    found: dict[str, RunConfig] = {}
    for run in runs:
        found.setdefault(_made_of(run), run)
    return list(found.values())


def merged(grids: Sequence[Grid]) -> list[str]:
    """One sentence for each variant whose runs are another's, and which are done once."""
    texts = [text for grid in grids for text in grid.axes.get("method", ())]
    first = {same_run(text): text for text in reversed(texts)}
    return [
        f"{text} and {first[same_run(text)]} are the same runs: they are done once, as the latter"
        for text in dict.fromkeys(texts)
        if first[same_run(text)] != text
    ]


def _made_of(run: RunConfig) -> str:
    method = same_run(variant_of(asdict(run)))
    controls = {name: SETTINGS[name].first for name in CONTROLS} | read_variant(method)
    return replace(run, **controls).run_id("", str(run.data))
