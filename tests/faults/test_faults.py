"""Operations that are struck at a seeded draw of events end as they would have, or say why not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ailora import files
from tests.faults.cases import Case, Ground, _misspoken, read_log
from tests.faults.child import Child, Ending, Fault
from tests.faults.operations import Operation
from tests.lines import add_line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, mounts and /proc")
CASES = 60


@pytest.mark.slow
def test_a_seeded_draw_of_faults_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "faults.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", f"--cases={CASES}", "--seed=0", f"--log={log}"],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    cases = read_log(log)
    assert [case for case in cases if case.why] == []
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(cases) == CASES


def write(folder: Path) -> None:
    """Two files, one after the other."""
    for name in ("a.json", "b.json"):
        files.write_json(folder / "out" / name, {"x": list(range(50))})


def a_writer(run: Callable[[Path], None]) -> Operation:
    return Operation(
        name="write",
        run=run,
        result=lambda folder: {
            path.name: path.read_bytes() for path in (folder / "out").glob("[!.]*")
        },
        exact=True,
    )


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    with patch("tests.faults.cases.make_inputs"):
        return Ground(tmp_path)


def whys(ground: Ground, operation: Operation, kind: str = "kill") -> list[str]:
    """What does not hold, over all events."""
    events = ground.reference(operation).events
    assert events > 4
    found = [ground.strike(operation, Fault(kind=kind, at=at)) for at in range(1, events + 1)]
    if kind == "kill":
        assert {code for code, _ in found} == {-9}
    return broken(found)


def broken(found: list[tuple[int, str]]) -> list[str]:
    """What does not hold, but for the temporary file of a process that was killed."""
    parts = [part for _, why in found for part in why.split("; ") if why]
    return [part for part in parts if not part.endswith(".tmp is left over")]


def test_the_atomic_writer_holds_at_every_event(ground: Ground) -> None:
    assert whys(ground, a_writer(write)) == []


def test_the_atomic_writer_holds_at_any_byte(ground: Ground) -> None:
    """Between its events, where a write is torn."""
    operation = a_writer(write)
    size = max(map(len, ground.reference(operation).files.values()))
    found = [ground.strike(operation, Fault(kind="torn", at=n)) for n in range(1, size, size // 6)]
    assert {code for code, _ in found} == {-25}
    assert broken(found) == []


@contextmanager
def plainly(path: Path) -> Any:
    """A broken build of the library's writer: under the final name from the first byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def test_a_writer_that_is_not_atomic_is_seen(ground: Ground) -> None:
    def torn(folder: Path) -> None:
        with patch.object(files, "written_whole", plainly):
            write(folder)

    operation = a_writer(torn)
    ground.reference(operation)
    code, why = ground.strike(operation, Fault(kind="torn", at=100))
    assert code == -25
    assert "a.json is half written" in why


def test_work_that_is_not_done_again_is_seen(ground: Ground) -> None:
    def once(folder: Path) -> None:
        if not (folder / "out").exists():
            write(folder)

    assert any("b.json differs" in why for why in whys(ground, a_writer(once)))


def test_a_fault_that_is_swallowed_is_seen(ground: Ground) -> None:
    def loud(folder: Path) -> None:
        try:
            write(folder)
        except ValueError as error:
            raise RuntimeError("something") from error

    assert any("ended with 1" in why for why in whys(ground, a_writer(loud), "nospace"))


def test_events_are_counted_and_a_kill_comes_at_the_one_asked_for(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    whole = Child(lambda: write(tmp_path), tmp_path).end()
    cut = Child(lambda: write(tmp_path), tmp_path, Fault(kind="kill", at=3)).end()
    assert (whole.code, cut.code, cut.events) == (0, -9, 3)
    assert whole.events > 6


def test_a_log_that_was_cut_off_is_read_without_its_last_line(tmp_path: Path) -> None:
    one = Case(
        seed=0, case=1, operation="x", fault="kill", at=1, of=2, code=-9, seconds=0.1, why=""
    )
    log = tmp_path / "log"
    add_line(log, asdict(one))
    log.write_text(log.read_text() + log.read_text()[:-6])
    assert read_log(log) == [one]
    add_line(log, asdict(one))  # on a line of its own
    assert read_log(log) == [one, one]


@pytest.mark.parametrize(
    ("said", "held"),
    [
        (
            "seed 0  failed (error): OSError: [Errno 5] Input/output error: '/out/x/failed.json'",
            True,
        ),
        (
            "seed 0  failed (error): OSError: [Errno 5] Input/output error: '/out/x/rows.json'",
            False,
        ),
        ("seed 0  failed (error): KeyError: 'failed.json'", False),
    ],
)
def test_a_sweep_may_end_with_1_where_it_says_which_run_could_not_be_written(
    said: str, held: bool
) -> None:
    ended = Ending(code=1, said=f"ailora {said}\n", events=1)
    whys = list(_misspoken(Fault(kind="refused", at=1), ended))
    assert (whys == []) is held
