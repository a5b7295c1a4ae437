"""A method's difference to LoRA, taken apart: the rate, the size of its start, or its directions.

From LoRA to the method in steps that each change one thing: LoRA at the method's ratio of rates,
then random directions of the method's sizes in place of LoRA's start, then the method's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ailora.lab.methods.table import METHODS
from ailora.lab.methods.variants import controls_of, same_run, variant_of
from ailora.lab.report.comparison import (
    BASELINE,
    Comparison,
    difference_words,
    name_of,
    scores_by_seed,
)
from ailora.lab.report.text_tables import Rows
from ailora.lab.statistics import ENOUGH, Paired, paired

CAUSES_HEADER = ["method", "cause", "difference [95 % CI]", "n", "which runs", "shown"]


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One step from LoRA to a method.

    Attributes:
        method: The method that is explained, as `ailora.lab.methods.variants` writes it.
        what: ``rate``, ``size``, ``direction``, or ``all`` for the whole difference.
        ours, other: The two whose scores are subtracted, written so.
        by_seed: Difference of their test scores, by the seeds that both have.
        paired: Its mean with its interval.
    """

    method: str
    what: str
    ours: str
    other: str
    by_seed: Mapping[int, float]
    paired: Paired


def steps_of(method: str) -> list[tuple[str, str, str]]:
    """The steps from LoRA to a method: what changes, and the two variants that show it.

    >>> steps_of("ailora")[0]
    ('rate', 'lora:lr_ratio=2', 'lora')
    >>> steps_of("ailora")[1:]
    [('size', 'ailora:directions=random', 'lora:lr_ratio=2'), ('direction', 'ailora', 'ailora:directions=random')]
    """  # noqa: E501
    name = method.partition(":")[0]
    if name not in METHODS or (name != BASELINE and "directions" not in METHODS[name].controls):
        return []
    controls = controls_of(method)
    rates = {one: value for one, value in controls.items() if one.endswith("lr_ratio")}
    lora = variant_of({"method": BASELINE, **rates})
    random = variant_of({"method": name, **controls, "directions": "random"})
    found = [("rate", lora, BASELINE)] if lora != BASELINE else []
    if name == BASELINE:
        return found
    found.append(("size", random, lora))
    return found if method == random else [*found, ("direction", method, random)]


def causes_of(comparison: Comparison) -> list[Cause]:
    """The steps whose runs exist, method by method; empty without any run that tells causes apart.

    A step that several methods share stands below each of them. What is a step of another method
    is not explained on its own.
    """
    scores = {method: scores_by_seed(comparison, method) for method in comparison.methods}
    shared: set[str] = set()
    found: dict[str, list[Cause]] = {}
    for method in sorted(scores, key=lambda one: -len(steps_of(one))):
        if method in shared:
            continue
        steps = [
            step for step in _by_their_runs(method, comparison) if set(step[1:]) <= scores.keys()
        ]
        own = [_cause(method, step, scores) for step in steps]
        shared |= {one.ours for one in own}
        whole = [(one.ours, one.other) for one in own] == [(method, BASELINE)]
        if own and not whole and BASELINE in scores:
            own.append(_cause(method, ("all", method, BASELINE), scores))
        found[method] = own
    return [cause for method in comparison.methods for cause in found.get(method, ())]


def missing_of(comparison: Comparison) -> list[str]:
    """What is to be run as well, as ``--methods`` takes it, for every step of those explained."""
    explained = dict.fromkeys(cause.method for cause in causes_of(comparison))
    steps = (step for method in explained for step in _by_their_runs(method, comparison))
    needed = [one for step in steps for one in step[1:]]
    return [one for one in dict.fromkeys(needed) if one not in comparison.methods]


def _by_their_runs(method: str, comparison: Comparison) -> list[tuple[str, str, str]]:
    """The steps, by the variants that have runs where another's runs are the same."""
    present = {same_run(one): one for one in comparison.methods}
    return [
        (what, present.get(same_run(ours), ours), present.get(same_run(other), other))
        for what, ours, other in steps_of(method)
    ]


def causes_rows(causes: list[Cause]) -> Rows:
    """One row per step: the method, what changes, and the difference."""
    return [
        [
            name_of(cause.method),
            "all of it" if cause.what == "all" else cause.what,
            difference_words(cause.paired),
            str(cause.paired.n),
            f"{name_of(cause.ours)} minus {name_of(cause.other)}",
            _verdict(cause.paired),
        ]
        for cause in causes
    ]


def _verdict(pair: Paired) -> str:
    if pair.n < ENOUGH:
        return "too few seeds"
    words = pair.verdict("").strip()
    return {"above": "yes, a gain", "below": "yes, a loss"}.get(words, words)


def _cause(
    method: str, step: tuple[str, str, str], scores: Mapping[str, Mapping[int, float]]
) -> Cause:
    what, ours, other = step
    seeds = sorted(scores[ours].keys() & scores[other].keys())
    by_seed = {seed: scores[ours][seed] - scores[other][seed] for seed in seeds}
    pair = paired({ours: scores[ours], other: scores[other]}, other)[ours]
    return Cause(method=method, what=what, ours=ours, other=other, by_seed=by_seed, paired=pair)
