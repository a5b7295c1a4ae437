"""Worker processes: that they do what this process would, and what happens when they die."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.experiments import Store, sweep
from ailora.lab.experiments.engines import local, worker
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.engines.local import Local
from ailora.lab.experiments.jobs import Ended, Event, Job, Step, Tasks
from ailora.lab.experiments.store import Failure
from ailora.lab.training import RunConfig
from tests.lab.experiments.conftest import at, ended, timeless
from tests.lab.experiments.engines.obedient import GIGABYTE


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers are stand-ins; a line here is an order: pid, seed, threads."""
    path = tmp_path / "log"
    stand_in = Path(__file__).with_name("obedient.py")
    monkeypatch.setattr(worker, "COMMAND", (sys.executable, str(stand_in), str(path)))
    return path


def jobs(count: int, **changes: object) -> list[Job]:
    runs = [RunConfig(seed=seed, **changes) for seed in range(count)]  # type: ignore[arg-type]
    return [Job(config=run, run_id=run.run_id("x", ""), rows=None) for run in runs]


def run(engine: Local, asked: list[Job], out: Path) -> list[Event]:
    events: list[Event] = []
    engine.run(asked, Store(out), events.append)
    return events


def orders(log: Path) -> list[tuple[str, str, str]]:
    return [tuple(line.split()) for line in log.read_text().splitlines()]  # type: ignore[misc]


def failures(events: list[Event]) -> list[Failure]:
    results = [event.result for event in events if isinstance(event, Ended)]
    return [result for result in results if isinstance(result, Failure)]


def test_every_run_is_ordered_once_and_told(log: Path, tmp_path: Path) -> None:
    asked = jobs(6)
    events = run(Local(3, 2), asked, tmp_path)
    assert Counter(seed for _, seed, _ in orders(log)) == Counter("012345")
    assert {threads for *_, threads in orders(log)} == {"2"}
    assert sorted(ended(events)) == sorted(job.run_id for job in asked)
    assert failures(events) == []
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.what for step in steps].count("training") == 6
    assert [step.what for step in steps].count("starting") == 6


def test_no_more_workers_than_runs_or_than_asked_for(log: Path, tmp_path: Path) -> None:
    run(Local(2, 1), jobs(6), tmp_path)
    assert len({pid for pid, *_ in orders(log)}) <= 2
    log.unlink()
    run(Local(4, 1), jobs(1), tmp_path)
    assert len(orders(log)) == 1


def test_workers_stay_for_the_rounds_of_an_open_engine_and_no_longer(
    log: Path, tmp_path: Path
) -> None:
    engine = Local(2, 1)
    with engine.open():
        for _ in range(3):
            assert len(ended(run(engine, jobs(4), tmp_path))) == 4
        assert len(orders(log)) == 12
        assert len({pid for pid, *_ in orders(log)}) == 2
        assert len(engine._workers) == 2
    assert engine._workers == []
    run(engine, jobs(4), tmp_path)
    assert engine._workers == [], "a single call keeps none"
    assert len({pid for pid, *_ in orders(log)}) > 2


def test_a_worker_that_died_between_two_rounds_is_replaced(log: Path, tmp_path: Path) -> None:
    engine = Local(1, 1)
    with engine.open():
        run(engine, jobs(1), tmp_path)
        os.kill(int(orders(log)[0][0]), signal.SIGKILL)
        events = run(engine, jobs(2), tmp_path)
    assert len(ended(events)) == 2 and failures(events) == []


def test_what_an_interrupted_round_left_is_not_heard_in_the_next(log: Path, tmp_path: Path) -> None:
    engine = Local(2, 1)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with engine.open():
        with pytest.raises(KeyboardInterrupt):
            engine.run(jobs(4), Store(tmp_path), interrupt)
        other = jobs(3, rank=4)
        assert sorted(ended(run(engine, other, tmp_path))) == sorted(job.run_id for job in other)


def test_workers_that_measured_do_not_work_beyond_the_layout(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Local(1, 1)
    for _ in range(3):  # as after measuring that three at a time are slower
        engine._start()
    run(engine, jobs(6), tmp_path)
    busy_at_once = {pid for pid, *_ in orders(log)}
    assert len(busy_at_once) == 1


def test_a_run_whose_worker_died_goes_back_once(log: Path, tmp_path: Path) -> None:
    dying = jobs(1, weight_decay=0.25)
    events = run(Local(1, 1), dying + jobs(3)[1:], tmp_path)
    assert [seed for _, seed, _ in orders(log)] == ["0", "1", "2", "0"]
    assert len(ended(events)) == 3
    assert failures(events) == []


@pytest.mark.parametrize(
    ("decay", "starved", "kind", "reason"),
    [
        (0.5, False, "error", "its process was killed (SIGKILL), twice"),
        (0.5, True, "memory", "out of memory: the kernel killed its process, twice"),
        (
            *(0.75, True, "error"),
            "its process ended (exit code 1): ImportError: no such library, twice",
        ),
    ],
)
def test_a_run_that_ends_two_workers_has_failed_and_the_others_go_on(
    decay: float,
    starved: bool,
    kind: str,
    reason: str,
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kills = iter(range(10**6)) if starved else iter([])
    monkeypatch.setattr(worker, "kills", lambda: next(kills, 0))
    dying = jobs(1, weight_decay=decay)
    events = run(Local(2, 1), dying + jobs(4)[1:], tmp_path)
    (failure,) = failures(events)
    assert (failure.kind, failure.reason) == (kind, reason)
    assert Store(tmp_path).failure(dying[0].run_id) == failure
    assert len(ended(events)) == 4
    assert Counter(seed for _, seed, _ in orders(log)) == Counter("00123")


def test_no_further_worker_starts_where_a_run_would_not_fit(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "available", lambda: GIGABYTE - 1)
    engine = Local(3, 1)
    engine._memory = GIGABYTE  # as measured
    events = run(engine, jobs(5), tmp_path)
    assert len(ended(events)) == 5
    assert len({pid for pid, *_ in orders(log)}) == 1, "one works, whatever there is"
    log.unlink()
    monkeypatch.setattr(local, "available", lambda: GIGABYTE)
    run(engine, jobs(5), tmp_path)
    assert len({pid for pid, *_ in orders(log)}) > 1


def test_no_worker_is_left_behind(log: Path, tmp_path: Path) -> None:
    engine = Local(2, 1)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(jobs(4), Store(tmp_path), interrupt)
    assert engine._workers == []
    assert len(ended(run(engine, jobs(4), tmp_path))) == 4


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (-1, None)])
def test_numbers_below_one_are_refused(numbers: tuple[int | None, int | None]) -> None:
    with pytest.raises(UserError, match="must be at least 1"):
        Local(*numbers)


def test_real_workers_end_as_this_process_does(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path: Path
) -> None:
    runs = (*four[:2], at(four[0], lr=1e30), at(four[0], rank=33))
    here = sweep(runs, Store(tmp_path / "here"), Here(tasks), tasks=tasks)
    there = sweep(runs, Store(tmp_path / "there"), Local(2, 1), tasks=tasks)
    assert [timeless(run) for run in there.runs] == [timeless(run) for run in here.runs]
    assert there.failed == here.failed
    assert [failed.kind for failed in there.failed] == ["diverged", "input"]
    assert there.rates == here.rates
    other = sweep([replace(four[0], seed=1)], Store(tmp_path / "here"), Here(tasks), tasks=tasks)
    assert timeless(other.runs[0]) != timeless(here.runs[0]), "the comparison can fail"
