"""What is run, what is kept when something goes wrong, and what is not run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.experiments import Outcome, Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.jobs import Elsewhere, Event, Step, Tasks, unread_id
from ailora.lab.experiments.sweep import AGENDA, Agenda
from ailora.lab.training import RunConfig
from ailora.lab.training.folder import FAILED
from ailora.lab.training.results import DivergedError
from ailora.lock import LOCK, held
from tests.conftest import sentences, write_csv
from tests.lab.experiments.conftest import Break, at, ended, timeless

Runs = tuple[RunConfig, ...]


def run_all(
    runs: Runs, out: Path, tasks: Tasks, *, retry: bool = False
) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    outcome = sweep(runs, Store(out), Here(tasks), tasks=tasks, retry=retry, on_event=events.append)
    return outcome, events


def test_what_is_finished_is_not_run_again(four: Runs, tasks: Tasks, tmp_path: Path) -> None:
    first, events = run_all(four, tmp_path, tasks)
    assert [run["config"]["lr"] for run in first.runs] == [config.lr for config in four]
    assert len(list(tmp_path.glob("*/result.json"))) == len(ended(events)) == 4
    assert {run["config"]["lr"] for run in first.reported} <= {1e-2, 2e-2}
    assert len(first.rates) == 2
    second, events = run_all(four, tmp_path, tasks)
    assert second == first
    assert len(ended(events, before=True)) == len(events) == 4


KILLED_AFTER_ITS_RESULT = """
import os, sys
from pathlib import Path
from ailora.lab.experiments.sweep import AGENDA, Agenda
from ailora.lock import LOCK, held
with held(Path(sys.argv[1])):
    Path(sys.argv[1], "checkpoints", "checkpoint-1").mkdir(parents=True)
    os._exit(9)
"""


def test_what_a_killed_process_left_in_a_finished_run_is_removed(
    four: Runs, tasks: Tasks, tmp_path: Path
) -> None:
    first, _ = run_all(four[:2], tmp_path, tasks)
    dead, alive = (tmp_path / tasks.job(config).run_id for config in four[:2])
    whole = set(dead.iterdir())
    command = [sys.executable, "-c", KILLED_AFTER_ITS_RESULT, str(dead)]
    assert subprocess.run(command, check=False).returncode == 9
    assert {path.name for path in set(dead.iterdir()) - whole} == {LOCK, "checkpoints"}
    with held(alive):
        second, _ = run_all(four[:2], tmp_path, tasks)
        assert (alive / LOCK).exists()
    assert second == first
    assert set(dead.iterdir()) == whole


def test_a_run_asked_for_twice_is_done_once(four: Runs, tasks: Tasks, tmp_path: Path) -> None:
    outcome, events = run_all((four[0], four[0]), tmp_path, tasks)
    assert len(outcome.runs) == len(ended(events)) == 1


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (DivergedError("training diverged: it"), "diverged", "training diverged: it"),
        (RuntimeError("CUDA out of memory.\nat 0x0"), "memory", "CUDA out of memory."),
        (MemoryError(), "memory", "MemoryError"),
        (UserError("no such model"), "input", "no such model"),
        (KeyError("x"), "error", "KeyError: 'x'"),
    ],
    ids=["diverged", "torch's memory", "memory", "input", "error"],
)
def test_a_failed_run_is_written_down_and_the_others_go_on(
    error: Exception,
    kind: str,
    reason: str,
    four: Runs,
    tasks: Tasks,
    tmp_path: Path,
    breaking: Break,
) -> None:
    breaking(1, error)
    outcome, _ = run_all(four[:3], tmp_path, tasks)
    assert len(outcome.runs) == 2
    (failed,) = outcome.failed
    assert (failed.config, failed.kind, failed.reason) == (asdict(four[1]), kind, reason)
    (written,) = tmp_path.glob(f"*/{FAILED}")
    content = json.loads(written.read_text())
    assert (content["kind"], content["reason"]) == (kind, reason)
    assert content["config"]["method"] == four[1].method
    assert ("Traceback" in content["details"]) is (kind == "error")


def test_a_failed_run_is_tried_again_only_if_asked(
    four: Runs, tasks: Tasks, tmp_path: Path, breaking: Break
) -> None:
    breaking(0, MemoryError("not enough"))
    first, _ = run_all(four[:1], tmp_path, tasks)
    again, events = run_all(four[:1], tmp_path, tasks)
    assert again.failed == first.failed
    assert [type(event).__name__ for event in events] == ["Ended"]
    retried, _ = run_all(four[:1], tmp_path, tasks, retry=True)
    assert len(retried.runs) == 1
    assert retried.failed == ()
    assert list(tmp_path.glob(f"*/{FAILED}")) == []


def test_a_rate_that_really_diverges_fails_and_is_not_chosen(
    four: Runs, tasks: Tasks, tmp_path: Path
) -> None:
    outcome, _ = run_all((four[0], at(four[0], lr=1e30)), tmp_path, tasks)
    (failed,) = outcome.failed
    assert (failed.kind, failed.config["lr"]) == ("diverged", 1e30)
    assert "training diverged" in failed.reason
    assert list(outcome.rates.values()) == [four[0].lr]


def test_missing_data_is_a_failed_run_until_it_is_there(
    tiny: RunConfig, tasks: Tasks, tmp_path: Path
) -> None:
    missing = at(tiny, task=str(tmp_path / "later.csv"))
    out = tmp_path / "out"
    outcome, _ = run_all((missing, tiny), out, Tasks())
    (failed,) = outcome.failed
    assert failed.kind == "input"
    assert "later.csv" in failed.reason
    assert len(outcome.runs) == 1
    assert Store(out).read(unread_id(missing)).state == "failed"
    rows = [(text, "pos" if feeling > 0 else "neg") for text, feeling in sentences(60)]
    write_csv(Path(missing.task), ("text", "label"), rows)
    outcome, _ = run_all((missing, tiny), out, Tasks())
    assert len(outcome.runs) == 2
    assert {run.state for run in Store(out).runs()} == {"finished"}


def test_a_result_cut_off_is_made_again_and_equal(four: Runs, tasks: Tasks, tmp_path: Path) -> None:
    first, _ = run_all(four[:1], tmp_path, tasks)
    (path,) = tmp_path.glob("*/result.json")
    whole = path.read_text()
    for broken in ("", whole[: len(whole) // 2], "[]", "{}"):
        path.write_text(broken)
        again, events = run_all(four[:1], tmp_path, tasks)
        assert any(isinstance(event, Step) for event in events)
        assert timeless(again.runs[0]) == timeless(first.runs[0])


def test_bad_input_stops_a_strict_engine_and_leaves_nothing(
    tiny: RunConfig, tasks: Tasks, tmp_path: Path
) -> None:
    wrong = [at(tiny, rank=33)]
    with pytest.raises(UserError, match="r=33"):
        sweep(wrong, Store(tmp_path / "out"), Here(tasks, strict=True), tasks=tasks)
    assert not (tmp_path / "out").exists()
    outcome = sweep(wrong, Store(tmp_path / "out"), Here(tasks), tasks=tasks)
    assert [failed.kind for failed in outcome.failed] == ["input"]


def test_an_interruption_leaves_the_finished_runs_whole(
    four: Runs, tasks: Tasks, tmp_path: Path, breaking: Break
) -> None:
    breaking(2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_all(four, tmp_path, tasks)
    done = {path: path.read_bytes() for path in tmp_path.glob("*/result.json")}
    assert len(done) == 2
    breaking(99, KeyboardInterrupt())
    outcome, events = run_all(four, tmp_path, tasks)
    assert len(ended(events)) == len(ended(events, before=True)) == 2
    assert len(outcome.runs) == 4
    assert all(path.read_bytes() == content for path, content in done.items())


def test_a_run_that_another_process_does_is_waited_for(
    four: Runs, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never ends there, so this sweep does it in the end: after the other runs."""
    monkeypatch.setattr(sweep.__globals__["time"], "sleep", lambda _: released.wait(0.05))
    busy = tasks.job(four[0]).run_id
    holding, release, released = threading.Event(), threading.Event(), threading.Event()

    def other() -> None:
        with held(tmp_path / busy):
            holding.set()
            release.wait(60)
        released.set()

    thread = threading.Thread(target=other)
    thread.start()
    holding.wait()
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if len(ended(events)) == 1:
            release.set()

    outcome = sweep(four[:2], Store(tmp_path), Here(tasks), tasks=tasks, on_event=tell)
    thread.join()
    first = next(event for event in events if isinstance(event, Elsewhere))
    assert first.job.run_id == busy
    assert f"process {os.getpid()}" in first.owner
    assert ended(events) == [tasks.job(four[1]).run_id, busy]
    assert len(outcome.runs) == 2


def test_a_result_that_another_process_made_is_taken(
    four: Runs, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, _ = run_all(four[:1], tmp_path / "elsewhere", tasks)
    run_id = tasks.job(four[0]).run_id

    def other() -> None:
        with held(tmp_path / run_id):
            holding.set()
            told.wait(60)
            (tmp_path / "elsewhere" / run_id / "result.json").rename(
                tmp_path / run_id / "result.json"
            )

    holding, told = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    holding.wait()
    monkeypatch.setattr(sweep.__globals__["time"], "sleep", lambda _: told.set())
    outcome, events = run_all(four[:1], tmp_path, tasks)
    thread.join()
    assert outcome == finished
    assert not any(isinstance(event, Step) for event in events)


def test_time_left_is_by_the_pace_since_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.__globals__["time"], "time", lambda: 130.0)
    made = Agenda(runs=tuple("abcdef"), ended=1, began=100.0)
    assert made.left("abc") == 3
    assert made.seconds_left("abc") == pytest.approx(3 * 30 / 2)  # two ended in 30 s
    assert made.seconds_left("abcx") == made.seconds_left("abc")  # x is not one of its runs
    assert made.seconds_left("a") is None
    assert made.seconds_left("abcdef") == 0


def test_it_comes_back_as_written(tmp_path: Path) -> None:
    made = Agenda(runs=("a", "b"), ended=1, began=5.5)
    made.write(tmp_path)
    assert Agenda.read(tmp_path) == made


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": 3, "ended": 0, "began": 0}', "\udcff"])
def test_anything_else_in_its_place_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / AGENDA).write_text(text, encoding="utf-8", errors="surrogateescape")
    assert Agenda.read(tmp_path) is None
