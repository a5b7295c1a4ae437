"""What is told while a sweep goes on."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ailora.lab.cli import sweeps as module
from ailora.lab.cli.sweeps import Board
from ailora.lab.cli.words import run_words
from ailora.lab.experiments.jobs import Elsewhere, Ended, Job, Step
from ailora.lab.experiments.store import Failure
from ailora.lab.experiments.wording import duration, value_words
from ailora.lab.training import RunConfig

JOBS = [
    Job(config=RunConfig(method=method, seed=seed), run_id=f"{method}-{seed}", rows=None)
    for method in ("lora", "ailora")
    for seed in (0, 1)
]


def result(job: Job, score: float) -> dict[str, Any]:
    scores = {split: {"f1": score} for split in ("selection", "test")}
    config = {"method": job.config.method, "lr": job.config.lr, "seed": job.config.seed}
    return {"config": config, "metrics": scores, "data": {"metric": "f1"}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def told(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain() -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=False)


def test_the_time_left_is_told_by_what_runs_cost(clock: list[float]) -> None:
    board = Board(JOBS, {"lora-0": 10, "lora-1": 30, "ailora-0": 40, "ailora-1": 20}, plain())
    assert board.seconds_left() is None
    clock[0] += 20
    board.tell(Ended(JOBS[0], result(JOBS[0], 0.5)))  # 10 in 20 seconds; 90 are left
    assert board.seconds_left() == pytest.approx(180)
    board.tell(Step(JOBS[1], 1, 2, "training"))  # half of 30 is done
    assert board.seconds_left() == pytest.approx(150)
    assert board.counts() == "1 of 4 ended, 1 running, 0 failed"
    assert board.pace() == "180 runs an hour, about 2 min left"
    clock[0] += 15
    assert board.seconds_left() == pytest.approx(150)
    board.tell(Step(JOBS[1], 1, 9, "evaluating"))
    assert board.seconds_left() == pytest.approx(180)


def test_without_costs_no_time_is_told(clock: list[float]) -> None:
    board = Board(JOBS, {}, plain())
    board.tell(Ended(JOBS[0], result(JOBS[0], 0.5)))
    assert board.counts() == "1 of 4 ended, 0 running, 0 failed"
    assert board.pace() == ""


def test_runs_an_hour_are_of_what_this_sweep_finished(clock: list[float]) -> None:
    console = plain()
    board = Board(JOBS, {}, console)
    board.tell(Ended(JOBS[0], result(JOBS[0], 0.5), before=True))
    clock[0] += 10
    board.tell(Ended(JOBS[1], Failure(config={}, kind="memory", reason="out of memory")))
    assert board.runs_an_hour() is None
    board.tell(Ended(JOBS[2], result(JOBS[2], 0.5)))
    assert board.runs_an_hour() == pytest.approx(360)
    assert told(console).endswith("(3 of 4 ended, 0 running, 1 failed, 360 runs an hour)\n")
    clock[0] += 100_000
    assert board.pace() == "360 runs an hour", "it stands still until the next run ends"
    board.tell(Ended(JOBS[3], result(JOBS[3], 0.5)))
    assert board.pace() == "0.072 runs an hour"


def test_what_was_finished_before_counts_and_is_not_told(clock: list[float]) -> None:
    console = plain()
    board = Board(JOBS, {}, console)
    board.tell(Ended(JOBS[0], result(JOBS[0], 0.5), before=True))
    assert told(console) == ""
    failure = Failure(config={}, kind="memory", reason="out of memory [red]")
    board.tell(Ended(JOBS[1], failure))
    assert told(console).splitlines() == [
        "lora       lr 0.002   seed 1  failed (memory): out of memory [red]  "
        "(2 of 4 ended, 0 running, 1 failed)"
    ]


def test_a_run_elsewhere_is_told_once(clock: list[float]) -> None:
    console = plain()
    board = Board(JOBS, {}, console)
    for _ in range(3):
        board.tell(Elsewhere(JOBS[0], "process 3 on x"))
    assert told(console).splitlines() == ["lora       lr 0.002   seed 0  is done elsewhere"]


def test_the_board_shows_what_runs_and_the_best_so_far(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    board = Board(JOBS, {}, console)
    with board.shown():
        board.tell(Ended(JOBS[0], result(JOBS[0], 0.25)))
        board.tell(Ended(JOBS[1], result(JOBS[1], 0.75)))
        board.tell(Step(JOBS[2], 3, 7, "training"))
        console.print(board.render())
    shown = told(console)
    assert "ailora     lr 0.002   seed 0  training 3/7" in shown
    assert "0.5000 ± 0.3536" in shown  # the mean and the sample's standard deviation of 0.25, 0.75


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.4, "4 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (1e4, "2.8 h")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_settings_in_words() -> None:
    assert [value_words(x) for x in (1e-3, {"q": 8, "v": 4}, ["a", "b"], None, True)] == [
        *("0.001", "q8+v4", "a+b", "None", "True")
    ]
    config = {"method": "lora", "rank": 4, "lr": 1e-3, "seed": 2}
    assert run_words(config, ["method", "rank"]) == "lora       rank 4  lr 0.001   seed 2"


@pytest.mark.parametrize("width", [60, 40])
def test_methods_and_scores_of_a_sweep_are_whole_on_narrow_terminals(width: int) -> None:
    runs = [result(job, 0.5 + job.config.seed / 10) for job in JOBS]
    console = Console(file=io.StringIO(), width=width)
    console.print(module.standings_shown(runs, ["method"], "4 finished runs"))
    for method in ("lora", "ailora"):
        assert method in told(console)
    assert told(console).count("0.5500 ± 0.0707") == 2
    assert max(map(len, told(console).splitlines())) <= width
