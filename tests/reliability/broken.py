"""Every broken build, one after another: do the promise's own tests fail there, and rightly?

    python -m tests.reliability.broken --out FOLDER [--only NAME ...]

One process imports what is large and not ours, and forks for each build: into a copy of the tree
with one defect, where pytest runs the tests that the build names. First all of them run in a copy
without a defect, where they must pass. FOLDER gets a line per build in ``verdicts.jsonl``; what it
has of today's sources is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lines import add_line, read_lines
from tests.reliability.promises import ROOT, Broken, Promise, read_promises
from tests.reliability.recording import Recorder, state_of

PARTS = ("src", "tests", "docs", "pyproject.toml", "README.md", "LICENSE")
SECONDS = 120.0  # that the tests of one build may take
# A defect that shows so has broken the build, and not the promise.
OF_THE_BUILD = re.compile(r"\b(Import|ModuleNotFound|Syntax|Name|Indentation)Error\b")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def main() -> int:
    """Try the builds; 1 if one is not caught, or a test fails without any defect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="a folder outside the sources")
    parser.add_argument("--only", nargs="*", help="names of promises; default: all")
    asked = parser.parse_args()
    os.environ |= ENVIRONMENT
    out = asked.out.absolute()
    promises = [one for one in read_promises() if not asked.only or one.name in asked.only]
    verdicts = out / "verdicts.jsonl"
    done = {(line["promise"], line["of"]): line["why"] for line in read_lines(verdicts)}
    whole = copied(out / "whole")
    warm()
    for name, tests, promise in _builds(promises):
        of = _state(tests, promise)
        if (name, of) not in done:
            began = time.monotonic()
            why, said = check(whole, tests, promise, out / (name or "no-defect"))
            done[name, of] = why
            seconds = round(time.monotonic() - began, 1)
            add_line(verdicts, {"promise": name, "of": of, "why": why, "seconds": seconds})
            sys.stdout.write(f"{seconds:5.1f} s  {name or 'no defect'}: {why or said}\n")
            sys.stdout.flush()
    return int(any(done[name, _state(tests, one)] for name, tests, one in _builds(promises)))


def _builds(promises: Sequence[Promise]) -> list[tuple[str, tuple[str, ...], Promise | None]]:
    """Name, tests and promise of each build; the first is without a defect."""
    every = tuple(dict.fromkeys(test for one in promises for test in one.broken.by))
    return [("", every, None), *((one.name, one.broken.by, one) for one in promises)]


def _state(tests: Sequence[str], promise: Promise | None) -> str:
    """A hash of what a verdict is of."""
    defect = repr(promise and promise.broken)
    return hashlib.sha256(repr([defect, *map(state_of, tests)]).encode()).hexdigest()[:16]


def check(
    whole: Path, tests: Sequence[str], promise: Promise | None, folder: Path
) -> tuple[str, str]:
    """Try one build.

    Args:
        whole: A copy of the tree without a defect.
        tests: The tests that run.
        promise: Whose broken build it is; None for none.
        folder: A folder for the build, its record and pytest's output.

    Returns:
        What is wrong with how it ended, empty if nothing; and what its tests said.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tree = with_defect(whole, promise.broken, folder / "tree") if promise else whole
    lines = run(tree, tests, folder, SECONDS if promise else 5 * SECONDS)
    if promise:
        shutil.rmtree(tree)
        said = next((line["said"] for line in lines if line.get("said")), "")
        return why_not_caught(lines, promise.broken), said.strip().partition("\n")[0][:200]
    bad = [f"{line['case']}: {line.get('said')}" for line in lines if line["outcome"] == "failed"]
    return "; ".join(bad) if lines else "nothing ran", f"{len(lines)} cases pass"


def why_not_caught(lines: Sequence[dict[str, Any]], broken: Broken) -> str:
    """What is wrong with how a broken build's tests ended; empty if they caught it."""
    if not lines:
        return f"{', '.join(broken.by)} did not run"
    failed = [line for line in lines if line["outcome"] == "failed"]
    if not failed:
        return f"{', '.join(broken.by)} did not notice it"
    for line in failed:
        said = line.get("said", "")
        right = broken.said in said if broken.said else not OF_THE_BUILD.search(said)
        if line["when"] != "call" or not line.get("assertion") or not right:
            return f"{line['case']} failed for another reason: {said[:300]}"
    return ""


# --- Copies of the tree, and what runs in them ------------------------------------------------


def copied(folder: Path) -> Path:
    """A new copy of the tree, without what tools leave."""
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "images")
    for part in PARTS:
        source, target = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy2(source, target)
    return folder


def with_defect(whole: Path, broken: Broken, folder: Path) -> Path:
    """A copy of a copy, with one file of its own and links to all others."""
    shutil.copytree(whole, folder, copy_function=os.link)
    path = folder / broken.file
    made = broken.applied(path.read_text(encoding="utf-8"))
    path.unlink()
    path.write_text(made, encoding="utf-8")
    return folder


def run(tree: Path, tests: Sequence[str], folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Run tests of a copy in a forked child, whose library is the copy's."""
    record = folder / "cases.jsonl"
    pid = os.fork()
    if pid == 0:
        _be_child(tree, tests, record)
    until = time.monotonic() + seconds
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
    return read_lines(record)


def _be_child(tree: Path, tests: Sequence[str], record: Path) -> None:
    try:
        os.setsid()
        output = os.open(record.with_name("output.txt"), os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name in [one for one in sys.modules if one == "tests" or one.startswith("tests.")]:
            del sys.modules[name]
        ours = {str(ROOT), str(ROOT / "src"), ""}
        sys.path[:] = [str(tree / "src"), str(tree), *(p for p in sys.path if p not in ours)]
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
        os.chdir(tree)
        import pytest

        import ailora

        assert Path(ailora.__file__).is_relative_to(tree)
        options = ["-q", "-c", "pyproject.toml", "--rootdir", ".", "-o", "addopts=", "--tb=short"]
        options += ["-p", "no:cacheprovider", "--basetemp", str(record.with_name("tmp"))]
        pytest.main([*options, *tests], plugins=[Recorder(record)])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def warm() -> None:
    """Import what is large, so that no child has to."""
    import datasets
    import hypothesis
    import matplotlib.pyplot
    import peft
    import pytest
    import sklearn.metrics
    import torch
    import transformers
    from transformers import Trainer
    from transformers.models.bert import modeling_bert
    from transformers.models.llama import modeling_llama

    del datasets, hypothesis, matplotlib, peft, pytest, sklearn, transformers, Trainer
    del modeling_bert, modeling_llama
    torch.set_num_threads(1)
    assert not any(name.partition(".")[0] == "ailora" for name in sys.modules)


if __name__ == "__main__":
    sys.exit(main())
