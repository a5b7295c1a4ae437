"""Random mutants of a folder of ailora, each against the tests that cover its line.

In an environment with mutmut and pytest-cov beside the project's own, from the project's folder:

    python -m pytest tests/linalg -m "not slow" --cov=ailora --cov-context=test \
        --durations=0 --durations-min=0 -vv > durations.txt
    python -m tools.mutants linalg --count 61 --durations durations.txt --log linalg.jsonl

The changes are mutmut's, within functions, but not of words for people: strings with a space and
calls of a logger. mutmut by itself leaves decorated functions alone, `decompose` among them, and
runs every test that covers one. Each mutant is a changed copy of the sources in a fork of this
process, which has torch and PEFT. A log is continued; `--control` runs the tests that killed
against an unchanged copy, `--again LOG` judges the survivors of an older log in the sources as they
are now, where the code that they change is still there.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import importlib
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import libcst as cst
import pytest
from coverage import CoverageData
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import Mutation, MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode
from scipy.stats import binomtest

SOURCES = Path("src")
BUDGET = 20.0  # seconds of tests per mutant, as they took without one
WARM = ("peft", "transformers", "hypothesis", "safetensors.torch", "scipy.linalg.lapack")


class Mutant(NamedTuple):
    """A change to a file, at a line."""

    file: Path
    line: int
    module: cst.Module
    change: Mutation

    def code(self) -> str:
        """The changed file."""
        return deep_replace(self.module, self.change.original_node, self.change.mutated_node).code

    def lines(self) -> list[str]:
        """The changed lines, as a diff has them."""
        lines = (self.file.read_text().splitlines(), self.code().splitlines())
        return list(difflib.unified_diff(*lines, lineterm="", n=0))[3:]


class _Visitor(MutationVisitor):
    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False
        words = isinstance(node, cst.SimpleString) and " " in node.value
        call = cst.Module([]).code_for_node(node.func) if isinstance(node, cst.Call) else ""
        return words or call.startswith("logger.") or super()._skip_node_and_children(node)


def draw(folder: str, count: int, seed: int) -> list[Mutant]:
    """The first `count` of all its mutants in a seeded order."""
    found = []
    for file in sorted((SOURCES / "ailora" / folder).glob("*.py")):
        wrapper = MetadataWrapper(cst.parse_module(file.read_text()))
        visitor = _Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
        module, positions = wrapper.visit(visitor), wrapper.resolve(PositionProvider)
        found += [
            Mutant(file, positions[change.original_node].start.line, module, change)
            for change in visitor.mutations
            if change.contained_by_top_level_function and change.original_node in positions
        ]
    random.Random(seed).shuffle(found)  # noqa: S311 - not a secret
    return found[:count]


def again(folder: str, log: Sequence[Mapping[str, Any]]) -> dict[int, Mutant]:
    """The survivors of a log that can still be made, by their number there."""
    wanted = {
        (line["file"], *line["change"]): line["number"]
        for line in log
        if line["verdict"] == "survived"
    }
    texts = {text.removeprefix("-") for key in wanted for text in key[1:] if text[0] == "-"}
    found = {}
    for mutant in draw(folder, sys.maxsize, 0):
        source = mutant.file.read_text().splitlines()
        if texts.intersection(source[line - 1] for line in _statement(mutant)):
            number = wanted.get((str(mutant.file.relative_to(SOURCES)), *mutant.lines()))
            if number is not None:
                found[number] = mutant
    return dict(sorted(found.items()))


def tests_for(mutant: Mutant, data: CoverageData, seconds: dict[str, float]) -> list[str]:
    """Those that cover it, as many as the budget allows: its module's, then its folder's first.

    Of these the quickest. A line that runs at import alone is covered by all that cover its file.
    """
    (name,) = (name for name in data.measured_files() if name.endswith(str(mutant.file)))
    contexts = data.contexts_by_lineno(name)
    lines = _statement(mutant)
    seen = {name.partition("|")[0] for line in lines for name in contexts.get(line, ())}
    if not seen - {""}:
        seen = {name.partition("|")[0] for names in contexts.values() for name in names}
    own, left, chosen = f"tests/{mutant.file.parent.name}/", BUDGET, []

    def distance(test: str) -> tuple[bool, bool, float, str]:
        file = test.partition("::")[0]
        return not file.startswith(own), mutant.file.stem not in file, seconds[test], test

    for test in sorted(seen - {""}, key=distance):
        left -= seconds[test]
        if left < 0 and chosen:
            break
        chosen.append(test)
    return sorted(chosen, key=lambda test: test.partition("::")[0])  # files share fixtures


def _statement(mutant: Mutant) -> range:
    return min((s for s in _statements(mutant.file) if mutant.line in s), key=len)


@functools.cache
def _statements(file: Path) -> list[range]:
    """The lines of each statement; of a compound one, those before its body."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
            found.append(range(node.lineno, end + 1))
    return found


def judge(file: Path, code: str, tests: list[str]) -> tuple[str, str]:
    """Whether it is "killed" or "survived", and the test that failed first."""
    with tempfile.TemporaryDirectory() as scratch:
        copy, answer = Path(scratch, "src"), Path(scratch, "answer")
        shutil.copytree(SOURCES, copy)
        (copy / file.relative_to(SOURCES)).write_text(code)
        pid = os.fork()
        if not pid:
            _run(file, tests, copy, answer)
        status = os.waitpid(pid, 0)[1]
        found = json.loads(answer.read_text()) if answer.exists() else ("killed", f"by {status}")
    return found[0], found[1]


def _run(file: Path, tests: list[str], copy: Path, answer: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(5 * BUDGET), int(5 * BUDGET)))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    sys.dont_write_bytecode = True
    sys.path[:] = [str(copy), *(path for path in sys.path if path != str(SOURCES.absolute()))]
    os.environ["PYTHONPATH"] = str(copy)
    failed: list[str] = []
    try:
        module = importlib.import_module(".".join(file.relative_to(SOURCES).with_suffix("").parts))
        assert str(module.__file__).startswith(str(copy))  # noqa: S101
        seen = type("Seen", (), {"pytest_runtest_logreport": _note(failed)})()
        code = int(pytest.main(["-qx", "-oaddopts=", "-pno:cacheprovider", *tests], [seen]))
        verdict = "killed" if code else "survived"  # 4: conftest.py could not be imported
        failed += [f"pytest ended with {code}"] if code > 1 else []
    except BaseException as error:
        verdict, failed = "killed", [f"at import: {error!r}"]
    answer.write_text(json.dumps([verdict, "".join(failed[:1])]))
    os._exit(0)


def _note(failed: list[str]) -> Any:
    return lambda _, report: failed.append(report.nodeid) if report.failed else None


def _read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.open()]


def main() -> None:
    """Judge the mutants that the log lacks, and print how many were killed."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants")
    parser.add_argument("folder", choices=("linalg", "roles", "adapters"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", default=".coverage")
    parser.add_argument("--durations", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--again", type=Path)
    asked = parser.parse_args()
    for name in WARM:
        importlib.import_module(name)
    log = _read(asked.log) if asked.log.exists() else []
    if asked.control:
        tests = sorted({line["by"] for line in log if "::" in line["by"]})
        file = SOURCES / "ailora/linalg/dense.py"
        print(len(tests), "tests, nothing changed:", judge(file, file.read_text(), tests))
        return
    seconds: dict[str, float] = defaultdict(float)
    for took, test in re.findall(r"^\s*([\d.]+)s \w+ +(.+)$", asked.durations.read_text(), re.M):
        seconds[test] += float(took)
    data = CoverageData(asked.coverage)
    data.read()
    done = {line["number"]: line for line in log}  # the last verdict counts
    drawn = (
        again(asked.folder, _read(asked.again))
        if asked.again
        else dict(enumerate(draw(asked.folder, asked.count, asked.seed)))
    )
    for number, mutant in drawn.items():
        if number in done:
            continue
        tests = tests_for(mutant, data, seconds)
        verdict, by = judge(mutant.file, mutant.code(), tests) if tests else ("survived", "no test")
        done[number] = {
            "number": number,
            "file": str(mutant.file.relative_to(SOURCES)),
            "line": mutant.line,
            "change": mutant.lines(),
            "verdict": verdict,
            "by": by,
            "tests": len(tests),
        }
        with asked.log.open("a") as stream:
            stream.write(json.dumps(done[number]) + "\n")
    counts = Counter(line["verdict"] for line in done.values())
    interval = binomtest(counts["killed"], max(1, counts.total())).proportion_ci(method="wilson")
    print(f"{dict(counts)}; killed {interval.low:.1%} to {interval.high:.1%} (95 %, Wilson)")


if __name__ == "__main__":
    main()
