"""A full disk ends a sweep in one line and fails no run: the same sweep finishes them later."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.experiments import Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.jobs import Tasks
from ailora.lab.training import RunConfig
from tests.lab.experiments.conftest import Break

COMMAND = "from ailora.lab.cli.main import main; main()"
ROOM = 64 << 20
WORKERS = "--workers 1 --threads 1 --no-estimate"


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_no_failure_of_the_run(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path: Path, breaking: Break
) -> None:
    store, engine = Store(tmp_path / "store"), Here(tasks)
    breaking(1, full())
    with pytest.raises(UserError, match=r"cannot write to .*: No space left on device; free"):
        sweep(four, store, engine, tasks=tasks)
    assert [run.state for run in store.runs()] == ["finished"]
    assert len(sweep(four, store, engine, tasks=tasks).runs) == 4


def test_another_error_of_the_system_is_a_failure_of_the_run(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path: Path, breaking: Break
) -> None:
    breaking(1, OSError(errno.EIO, os.strerror(errno.EIO)))
    found = sweep(four, Store(tmp_path), Here(tasks), tasks=tasks)
    assert (len(found.runs), len(found.failed)) == (3, 1)


def mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; its size is changed by remounting."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={ROOM}", "none", str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def swept(settings: str, out: Path) -> subprocess.CompletedProcess[str]:
    file = out.parent.parent / "sweep.toml"
    file.write_text(settings)
    command = [sys.executable, "-c", COMMAND, "sweep", str(file), "--out", str(out)]
    return subprocess.run(
        [*command, *WORKERS.split()], check=False, capture_output=True, text=True, timeout=200
    )


@pytest.mark.slow
def test_on_a_disk_that_fills_up_the_sweep_stops_and_the_same_sweep_finishes(
    tiny: RunConfig, disk: Path
) -> None:
    common = f'[common]\nmodel = "{tiny.model}"\ntask = "{tiny.task}"\nrank = 2\nepochs = 1\n'
    common += "batch_size = 8\n[grid]\n"
    out = disk / "store"
    one = swept(f"{common}seed = [0]\n", out)
    assert one.returncode == 0, one.stderr
    used = shutil.disk_usage(disk).used
    mount("-o", f"remount,size={used + used // 4}", str(disk))

    several = f"{common}seed = [0, 1, 2]\n"
    ended = swept(several, out)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "No space left on device; free some space and run it again" in ended.stderr
    assert not list(out.glob("*/failed.json"))
    assert "failed" not in {run.state for run in Store(out).runs()}

    mount("-o", f"remount,size={ROOM}", str(disk))
    again = swept(several, out)
    assert again.returncode == 0, again.stderr
    assert [run.state for run in Store(out).runs()] == ["finished"] * 3
