"""One at a time in a folder, whoever dies when."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ailora import lock
from ailora.errors import UserError
from ailora.lock import LOCK, LockedError, Owner, _look, _this_process, held, holder
from ailora.termination import Terminated, at_once

HOLD = """
import sys, time
from pathlib import Path
from ailora.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
HALF = """
import os, signal, sys
from pathlib import Path
from ailora import lock
def half(content, stream):
    stream.write('{"host": "')
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
lock.json.dump = half
with lock.held(Path(sys.argv[1])):
    pass
"""
IN_TURN = """
import os, sys, time
from pathlib import Path
from ailora.lock import LockedError, held
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
until = time.monotonic() + seconds
while time.monotonic() < until:
    try:
        with held(folder):
            inside = os.open(folder / "inside", os.O_CREAT | os.O_WRONLY)
            os.write(inside, b"")
            os.lockf(inside, os.F_TLOCK, 0)  # fails where another process is inside
            time.sleep(0.001)
            os.close(inside)
            print("in", flush=True)
    except LockedError:
        pass
"""


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def first_line(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def write(folder: Path, owner: Owner, *, age: float = 0) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / LOCK
    path.write_text(json.dumps(asdict(owner)))
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead_owner() -> Owner:
    """Of this machine, with the pid of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return replace(_this_process(), pid=ended.pid)


def test_a_living_owner_keeps_others_out_and_is_named(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as other:
        assert first_line(other) == "held"
        with (
            pytest.raises(LockedError, match=f"process {other.pid} on ") as refused,
            held(tmp_path),
        ):
            pass
        assert "\n" not in str(refused.value)
        found = holder(tmp_path)
        assert found is not None
        assert found.pid == other.pid


def test_a_living_owner_of_this_machine_that_gave_no_sign_is_not_taken_for_dead(
    tmp_path: Path,
) -> None:
    """As after the machine slept."""
    with process(HOLD, tmp_path) as other:
        first_line(other)
        other.send_signal(signal.SIGSTOP)
        os.utime(tmp_path / LOCK, (0, 0))
        with pytest.raises(LockedError), held(tmp_path):
            pass


@pytest.mark.parametrize("ahead", [0, 40 * 365 * 86_400])
def test_the_lock_of_another_machine_that_gave_no_sign_is_taken_over_whatever_its_date(
    tmp_path: Path, ahead: float
) -> None:
    elsewhere = replace(dead_owner(), machine="elsewhere")
    write(tmp_path, elsewhere, age=30)
    with pytest.raises(LockedError), held(tmp_path):
        pass
    write(tmp_path, elsewhere, age=-ahead if ahead else time.time())  # 1970, or far ahead
    with held(tmp_path) as mine:
        assert mine.owner.pid == os.getpid()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_something_else_of_that_name_is_waited_for_no_longer_than_a_dead_owner(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """So is a lock of another user, who lets nobody read it."""
    make(tmp_path / LOCK)
    with pytest.raises(LockedError, match=r"machine .*it counts for 60 s"), held(tmp_path):
        pass
    os.utime(tmp_path / LOCK, (0, 0))
    try:
        with held(tmp_path):
            assert make is os.mkfifo
    except UserError as error:
        assert "cannot write" in str(error)
        assert make is Path.mkdir


def test_the_lock_of_a_killed_owner_is_taken_over_at_once(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as other:
        first_line(other)
        other.send_signal(signal.SIGKILL)
        while holder(tmp_path):  # until the kernel is done; it stays a zombie meanwhile
            time.sleep(0.01)
        with held(tmp_path) as mine:
            assert mine.owner.pid == os.getpid()
            assert holder(tmp_path) == mine.owner
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "age", "alive"),
    [
        ({"machine": "another"}, 0, True),
        ({"machine": "another"}, 3600, False),
        ({"started": 1.0}, 0, True),  # the clock was set
        ({"started": 1.0}, 3600, False),  # the pid was given to another process
        ({}, 3600, True),
    ],
)
def test_who_counts_as_alive(
    changes: dict[str, Any], age: float, alive: bool, tmp_path: Path
) -> None:
    owner = replace(_this_process(), **changes)
    write(tmp_path, owner, age=age)
    assert holder(tmp_path) == (owner if alive else None)
    if alive:
        with pytest.raises(LockedError), held(tmp_path):
            pass
    else:
        with held(tmp_path):
            pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 3}'])
def test_a_lock_that_cannot_be_read_is_somebody_s_until_it_is_old(
    content: str, tmp_path: Path
) -> None:
    path = tmp_path / LOCK
    path.write_text(content)
    with pytest.raises(LockedError, match="unknown machine"), held(tmp_path):
        pass
    os.utime(path, (0, 0))
    with held(tmp_path):
        pass


def test_who_saw_the_same_dead_owner_too_late_does_not_replace_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, dead_owner())
    winner, late, lives = _this_process(), _this_process(), lock._lives

    def slow(*seen: Any) -> bool:
        monkeypatch.setattr(lock, "_lives", lives)
        assert not lives(*seen)
        assert lock._take(path, winner) is None
        return False

    monkeypatch.setattr(lock, "_lives", slow)
    assert lock._take(path, late) == winner
    now = _look(path)
    assert now is not None
    assert now.owner == winner


def test_a_process_that_died_while_it_took_over_stands_in_nobody_s_way(tmp_path: Path) -> None:
    first, second = dead_owner(), dead_owner()
    write(tmp_path, first)
    (tmp_path / f"{LOCK}.{first.token}").write_text(json.dumps(asdict(second)))
    with held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_while_another_process_takes_over_it_counts_as_the_owner(tmp_path: Path) -> None:
    first = dead_owner()
    write(tmp_path, first)
    with process(HOLD, tmp_path / "elsewhere") as other:
        first_line(other)
        living = _look(tmp_path / "elsewhere" / LOCK)
        assert living is not None
        claim = tmp_path / f"{LOCK}.{first.token}"
        claim.write_text(json.dumps(asdict(living.owner)))
        with pytest.raises(LockedError, match=f"process {other.pid} on"), held(tmp_path):
            pass
        assert claim.exists()


def test_of_many_processes_some_of_them_killed_never_two_are_inside(tmp_path: Path) -> None:
    draw = random.Random(0)  # noqa: S311
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", IN_TURN, str(tmp_path), "4"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    time.sleep(1)
    for killed in runs[:3]:
        time.sleep(draw.random() / 2)
        killed.send_signal(signal.SIGKILL)
    said = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [-9] * 3 + [0] * 3, said
    assert all("in" in out for out, _ in said[3:])


def test_a_folder_that_stays_empty_is_removed_with_those_made_for_it(tmp_path: Path) -> None:
    with held(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["kept"]


def test_a_holder_is_let_in_again_but_not_another_thread(tmp_path: Path) -> None:
    refused: list[BaseException] = []

    def other() -> None:
        try:
            with held(tmp_path):
                pass
        except LockedError as error:
            refused.append(error)

    with held(tmp_path) as outer:
        with held(tmp_path) as inner:
            assert inner is outer
        assert holder(tmp_path) == outer.owner, "the inner end is not the hold's"
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert holder(tmp_path) is None


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with held(tmp_path):
        path = tmp_path / LOCK
        os.utime(path, (0, 0))
        until(lambda: path.stat().st_mtime > 0)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_while_it_lets_go_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BaseException]
) -> None:
    remove = lock._remove

    def interrupted(*args: Any) -> None:
        signal.raise_signal(number)
        remove(*args)

    monkeypatch.setattr(lock, "_remove", interrupted)
    with pytest.raises(kind), at_once(), held(tmp_path / "folder"):
        (tmp_path / "folder" / "file").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_was_taken_over_is_told_and_leaves_the_new_owner_s_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with held(tmp_path) as mine:
        mine.check()
        new = replace(_this_process(), machine="another")
        write(tmp_path, new)
        until(lambda: mine.lost)
        with pytest.raises(LockedError, match="taken over by another process"):
            mine.check()
    assert holder(tmp_path) == new


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), held(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="cannot write"), held(tmp_path / "file" / "below"):
        pass


def test_a_process_that_was_killed_as_it_wrote_its_lock_stands_in_nobody_s_way(
    tmp_path: Path,
) -> None:
    with process(HALF, tmp_path) as other:
        assert other.wait() == -signal.SIGKILL
    assert list(tmp_path.iterdir()) and not (tmp_path / LOCK).exists()
    with held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_it_keeps_others_out_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock.os, "link", refuse)
    with held(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        assert holder(tmp_path) is not None
        with process(HOLD, tmp_path) as other:
            assert other.wait() == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_one_line_and_leaves_no_empty_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.json, "dump", full)
    with pytest.raises(UserError, match="free some space"), held(tmp_path / "run"):
        pytest.fail("was let in")
    assert not list(tmp_path.rglob("lock.json*"))


def test_a_folder_is_let_go_when_the_disk_has_become_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(tmp_path / "run"), monkeypatch.context():
        monkeypatch.setattr(lock.json, "dump", full)
    monkeypatch.undo()
    with held(tmp_path / "run"):
        pass


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
