"""Published settings: values and, for each, where it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple


class Cited(NamedTuple):
    """A value and its source.

    Attributes:
        value: What to use.
        source: Who states it and where; for a choice of this library, what was chosen and why.
        verified: Whether the source, or a work that restates it, was read.
    """

    value: Any
    source: str
    verified: bool = True


@dataclass(frozen=True, kw_only=True)
class Published:
    """Settings for one task on one model.

    Attributes:
        settings: Fields of `ailora.lab.training.RunConfig`, without method, model, task and data.
        rates: Learning rates of the grid search, ascending; ``settings["lr"]`` is one of them.
        seeds: Runs with different seeds that a published figure is the mean of.
        sources: For each setting, for ``rates`` and for ``seeds``, where it is written.
        unverified: Those of them whose source could not be read.
        notes: One line each on conflicts between sources and on what differs here.
    """

    settings: Mapping[str, Any]
    rates: tuple[float, ...]
    seeds: int
    sources: Mapping[str, str]
    unverified: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def publish(
    *, rates: Cited, seeds: Cited, notes: tuple[str, ...] = (), **settings: Cited
) -> Published:
    """Put cited settings together."""
    cited = {**settings, "rates": rates, "seeds": seeds}
    return Published(
        settings=MappingProxyType({name: cite.value for name, cite in settings.items()}),
        rates=rates.value,
        seeds=seeds.value,
        sources=MappingProxyType({name: cite.source for name, cite in cited.items()}),
        unverified=frozenset(name for name, cite in cited.items() if not cite.verified),
        notes=notes,
    )


def scale_one(rank: int, others: str) -> Cited:
    """Alpha, which the paper states nowhere; ``others`` says what the works it follows have."""
    return Cited(
        float(rank),
        "chosen here: the AILoRA paper states no alpha; its equations 4 and 6 add B A unscaled, so "
        f"alpha is the rank and alpha / r is 1; {others}",
    )
