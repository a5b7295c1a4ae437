"""The fair protocol asks for the right runs, and for no more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import pytest

from ailora.errors import UserError
from ailora.lab.experiments.fair import MOST, Protocol, Search, fair, first_rates, rate_at, stages
from ailora.lab.experiments.store import Failure, FailureKind, Stored
from ailora.lab.training import RunConfig

LORA, PISSA = RunConfig(method="lora"), RunConfig(method="pissa")
Score = Callable[[RunConfig], float]


def ended(config: RunConfig, score: float, kind: FailureKind = "diverged") -> Stored:
    """A run with this selection score; one that failed if it is no number."""
    made_of, name = asdict(config), f"{config.method}-movies-0123456789"
    if math.isfinite(score):
        scores = {split: {"accuracy": score} for split in ("selection", "test")}
        result = {"config": made_of, "metrics": scores, "data": {"metric": "accuracy"}}
        return Stored(run_id=name, state="finished", config=made_of, result=result)
    failure = Failure(config=made_of, kind=kind, reason="the loss is nan")
    return Stored(run_id=name, state="failed", config=made_of, failure=failure)


def done(protocol: Protocol, score: Score) -> tuple[list[Search], list[list[RunConfig]]]:
    """The protocol with runs whose selection score is a function; also the runs of each round."""
    rounds: list[list[RunConfig]] = []

    def do(runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
        rounds.append(list(runs))
        return [(run, ended(run, score(run))) for run in runs]

    return fair(protocol, do), rounds


def peak(at: float) -> Score:
    """A score that is best at a rate and falls to both sides."""
    return lambda run: 0.9 - 0.1 * abs(math.log10(run.lr / at))


def test_rates_are_quarters_of_a_decade_around_the_given_one() -> None:
    assert first_rates(2e-3) == [5.62e-4, 1e-3, 1.78e-3, 3.16e-3, 5.62e-3]


def test_a_best_in_the_middle_needs_no_more_rates() -> None:
    protocol = Protocol(settings=[LORA], choose=(0, 1), report=(2, 3, 4))
    [search], rounds = done(protocol, peak(1.78e-3))
    assert [len(runs) for runs in rounds] == [5 * 2, 3]
    assert (search.best, search.stopped) == (1.78e-3, "")
    assert {(run.lr, run.seed) for run in rounds[1]} == {(1.78e-3, seed) for seed in (2, 3, 4)}


@pytest.mark.parametrize("at", [1e-4, 1e-1])
def test_a_best_at_the_edge_widens_the_grid_until_it_has_two_on_either_side(at: float) -> None:
    [search], rounds = done(Protocol(settings=[LORA]), peak(at))
    place = search.rates.index(at)
    assert search.best == at
    assert min(place, len(search.rates) - 1 - place) == 2
    asked = [(run.lr, run.seed) for runs in rounds for run in runs]
    assert len(asked) == len(set(asked))  # nothing twice


def test_each_setting_has_a_grid_of_its_own() -> None:
    protocol = Protocol(settings=[LORA, PISSA])
    searches, _ = done(
        protocol, lambda run: peak(1.78e-3 if run.method == "lora" else 1.78e-4)(run)
    )
    assert [search.best for search in searches] == [1.78e-3, 1.78e-4]
    assert len(searches[0].rates) < len(searches[1].rates)


def test_a_rate_that_diverges_closes_the_grid_and_is_never_chosen() -> None:
    def score(run: RunConfig) -> float:
        return math.nan if run.lr > 2e-3 and run.seed == 1 else run.lr

    [search], _ = done(Protocol(settings=[LORA]), score)
    assert (search.best, search.rates[-1], search.stopped) == (1.78e-3, 5.62e-3, "")


def test_a_score_that_rises_for_ever_stops_and_says_so() -> None:
    [search], _ = done(Protocol(settings=[LORA]), lambda run: math.log10(run.lr))
    assert MOST - 2 <= len(search.rates) <= MOST
    assert "edge" in search.stopped


def test_what_diverges_everywhere_looks_lower_and_then_gives_up() -> None:
    [search], rounds = done(Protocol(settings=[LORA]), lambda run: math.nan)
    assert (search.best, min(search.rates)) == (None, rate_at(-11 - 2 - 12))
    assert "diverged at each" in search.stopped
    assert all(run.seed in (0, 1) for runs in rounds for run in runs)


def test_another_failure_chooses_no_rate() -> None:
    def do(runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
        return [(run, ended(run, math.nan, "memory")) for run in runs]

    with pytest.raises(UserError, match=r"the loss is nan.*no rate can be chosen"):
        fair(Protocol(settings=[LORA]), do)


def test_of_equal_rates_the_middle_is_chosen() -> None:
    [search], _ = done(Protocol(settings=[LORA]), lambda run: 0.5 if run.lr < 4e-3 else 0.4)
    assert (len(search.rates), search.best) == (6, 1e-3)


def test_rates_too_low_to_learn_at_do_not_end_the_search() -> None:
    def score(run: RunConfig) -> float:
        return peak(0.1)(run) if run.lr > 0.02 else 0.5

    [search], _ = done(Protocol(settings=[LORA]), score)
    assert search.best == 0.1
    assert max(search.rates) == 0.316
    [search], _ = done(Protocol(settings=[LORA]), lambda run: 0.5)
    assert MOST - 2 <= len(search.rates) <= MOST
    assert min(search.rates) == 5.62e-4
    [search], _ = done(Protocol(settings=[LORA], halving=True), lambda run: 0.5)
    assert MOST - 2 <= len(search.rates) <= MOST


def test_halving_runs_later_seeds_at_the_better_half() -> None:
    whole = Protocol(settings=[LORA], choose=(0, 1, 2, 3), report=(4, 5, 6, 7, 8))
    [plain], all_runs = done(whole, peak(1.78e-3))
    [halved], fewer = done(replace(whole, halving=True), peak(1.78e-3))
    assert plain.best == halved.best == 1.78e-3
    assert [len(runs) for runs in fewer] == [5, 3, 2 * 2, 5]
    assert sum(map(len, fewer)) < sum(map(len, all_runs))
    assert len(halved.dropped) == 3
    assert halved.best not in halved.dropped


def test_stages_of_halving_double() -> None:
    assert stages((0, 1), halving=False) == [[0, 1]]
    assert stages(range(6), halving=True) == [[0], [1], [2, 3], [4, 5]]


def test_a_seed_that_chooses_is_never_reported() -> None:
    with pytest.raises(UserError, match="seed 1 chooses the rate and is reported"):
        Protocol(settings=[LORA], choose=(0, 1), report=(1, 2))
    with pytest.raises(UserError, match="given twice"):
        Protocol(settings=[LORA, replace(LORA, lr=1.0, seed=5)])
    with pytest.raises(UserError, match="at least one"):
        Protocol(settings=[LORA], report=())


def test_a_second_call_asks_for_the_same_runs() -> None:
    first, rounds = done(Protocol(settings=[LORA, PISSA]), peak(1e-4))
    again, repeated = done(Protocol(settings=[LORA, PISSA]), peak(1e-4))
    assert (again, repeated) == (first, rounds)


def test_what_is_not_done_is_said_and_what_there_is_goes_as_far_as_it_can() -> None:
    protocol = Protocol(settings=[LORA, PISSA], choose=(0,), report=(1, 2))
    score = peak(1.78e-3)

    def do(runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
        known = [run for run in runs if run.method == "lora" and run.seed < 2]
        return [(run, ended(run, score(run))) for run in known]

    lora, pissa = fair(protocol, do)
    assert (lora.best, [run.seed for run in lora.missing]) == (1.78e-3, [2])
    assert (pissa.best, len(pissa.missing)) == (None, 5)
