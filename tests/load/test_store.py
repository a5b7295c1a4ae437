"""Ten thousand runs: listed and reported in the time of a few readings of their files.

Seconds of processor time are compared with those of a program that reads the same files and no
more, since a machine's speed and its other work change both alike.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train
from tests.conftest import one_thread
from tests.load.big_store import fill

COUNT = 10_000
READ = """
import json, pathlib, sys
found = pathlib.Path(sys.argv[1]).glob("*/result.json")
kept = [json.loads(path.read_text(encoding="utf-8")) for path in found]
"""
COMMAND = "from ailora.lab.cli.main import main; main()"


@pytest.fixture(scope="module")
def store(
    tiny_model: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """Runs of five methods at eight rates on ten tasks; and the seconds that reading takes."""
    out = tmp_path_factory.mktemp("load")
    config = RunConfig(model=str(tiny_model), task=str(reviews), rank=2, epochs=1, batch_size=8)
    with one_thread():
        train(config, load_task(config.task), out / "one")
    (run,) = (out / "one").iterdir()
    fill(out / "store", run, COUNT, tasks=10)
    seconds_of(READ, out / "store")  # the first fills the file system's cache
    return out / "store", seconds_of(READ, out / "store")[0]


def seconds_of(code: str, *arguments: object) -> tuple[float, str]:
    """Processor seconds of a program, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, done.stdout


@pytest.mark.slow
def test_ten_thousand_runs_are_listed_in_a_few_times_what_reading_them_takes(
    store: tuple[Path, float],
) -> None:
    path, reading = store
    used, said = seconds_of(COMMAND, "runs", path)
    lines = said.splitlines()
    assert lines[-1] == f"{COUNT - 2 * COUNT // 50} finished, 200 failed, 200 interrupted"
    assert sum(" finished " in line for line in lines) == COUNT - 2 * COUNT // 50
    assert used < 4 * reading, f"{used:.1f} s, and reading {reading:.1f} s"


@pytest.mark.slow
def test_ten_thousand_runs_are_reported_in_some_times_what_reading_them_takes(
    store: tuple[Path, float], tmp_path: Path
) -> None:
    path, reading = store
    used, _ = seconds_of(COMMAND, "report", path, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert page.count("<tr") > COUNT
    assert used < 40 * reading, f"{used:.1f} s, and reading {reading:.1f} s"
