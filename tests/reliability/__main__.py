"""Every promise, and whether it holds: the tests of the list, its broken builds, and the page.

    python -m tests.reliability --out FOLDER

What is in FOLDER and of today's sources is not run again, so a run that was broken off goes on
where it was (a quarter of an hour in all). Writes ``results/reliability/summary.json`` and
``docs/reliability.md``, and ends with 1 if a test failed, a promise has no test that passed, or a
broken build was not caught.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import pytest

from ailora.files import write_atomic, write_json
from tests.lines import read_lines
from tests.reliability.page import PAGE, SUMMARY, not_held, render, summarise
from tests.reliability.promises import ROOT, Promise, missing, read_promises
from tests.reliability.recording import Recorder, of_today


def main() -> int:
    """Do what FOLDER lacks, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="a folder outside the sources")
    out = parser.parse_args().out.absolute()
    promises = read_promises()
    if not _run_tests(promises, out / "cases.jsonl"):
        return 130
    builds = out / "broken"
    command = [sys.executable, "-m", "tests.reliability.broken", "--out", str(builds)]
    if subprocess.run(command, check=False, cwd=ROOT).returncode not in (0, 1):
        return 130
    verdicts = read_lines(builds / "verdicts.jsonl")
    summary = summarise(promises, of_today(out / "cases.jsonl"), verdicts)
    write_json(SUMMARY, summary)
    write_atomic(PAGE, render(promises, summary))
    bad = not_held(summary)
    sys.stdout.write(f"{len(promises)} promises, {len(bad)} of them not held {bad or ''}\n")
    return int(bool(bad))


def _run_tests(promises: Sequence[Promise], record: Path) -> bool:
    """Run the tests that the record lacks; whether they came to their end."""
    tests = list(dict.fromkeys(test for one in promises for test in one.tests))
    assert not missing(tests)
    record.parent.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers", "--tb=short"]
    ended = pytest.main([*options, *tests], plugins=[Recorder(record, day)])
    return ended in (
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    )


if __name__ == "__main__":
    sys.exit(main())
