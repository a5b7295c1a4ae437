"""Random mutants of linalg, roles and adapters, each against tests that cover its line.

In an environment with mutmut and pytest-cov beside the project's own, from the project's folder:

    python -m pytest tests/linalg tests/roles tests/adapters -m "not slow" --cov=ailora \
        --cov-context=test --durations=0 --durations-min=0 -vv > durations.txt
    python -m tools.mutants --count 300 --durations durations.txt --log mutants.jsonl

The changes are mutmut's, within functions, but not of words for people: strings with a space and
calls of a logger. mutmut by itself leaves decorated functions alone, `decompose` among them, and
runs every test that covers one. Each mutant is a changed copy of the sources, in a fork of a process
that has torch and PEFT. A broken-off log is continued; `--control` runs the tests that killed
against the unchanged copy.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import libcst as cst
import pytest
from coverage import CoverageData
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode
from scipy.stats import binomtest

SOURCES, FOLDERS = Path("src"), ("linalg", "roles", "adapters")
BUDGET = 30.0  # seconds of tests per mutant, as they took without one
WARM = ("peft", "transformers", "hypothesis", "safetensors.torch", "scipy.linalg.lapack")


class Mutant(NamedTuple):
    """A changed file; `lines` are those of the statement around the change."""

    file: Path
    lines: range
    code: str

    def diff(self) -> list[str]:
        """The changed lines, old and new."""
        old, new = self.file.read_text().splitlines(), self.code.splitlines()
        return list(difflib.unified_diff(old, new, lineterm="", n=0))[3:]


class _Visitor(MutationVisitor):
    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False
        words = isinstance(node, cst.SimpleString) and " " in node.value
        logged = isinstance(node, cst.Call) and cst.Module([]).code_for_node(node.func).startswith(
            "logger."
        )
        return words or logged or bool(super()._skip_node_and_children(node))


def draw(count: int, seed: int) -> list[Mutant]:
    """The first `count` of all mutants in a seeded order."""
    found = []
    for file in sorted(
        path for name in FOLDERS for path in (SOURCES / "ailora" / name).glob("*.py")
    ):
        wrapper = MetadataWrapper(cst.parse_module(file.read_text()))
        visitor = _Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
        module, positions = wrapper.visit(visitor), wrapper.resolve(PositionProvider)
        found += [
            (file, module, change, positions[change.original_node].start.line)
            for change in visitor.mutations
            if change.contained_by_top_level_function and change.original_node in positions
        ]
    random.Random(seed).shuffle(found)  # noqa: S311 - not a secret
    return [
        Mutant(
            file,
            _statement(file, line),
            deep_replace(module, change.original_node, change.mutated_node).code,
        )
        for file, module, change, line in found[:count]
    ]


def _statement(file: Path, line: int) -> range:
    """The lines of the innermost statement there; of a compound one, those before its body."""
    spans = [range(line, line + 1)] * 0
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
            spans += [range(node.lineno, end + 1)] if node.lineno <= line <= end else []
    return min(spans, key=len)


def tests_for(mutant: Mutant, data: CoverageData, seconds: dict[str, float]) -> list[str]:
    """The quickest that cover it, its folder's own before others, as many as the budget allows."""
    contexts = data.contexts_by_lineno(str(mutant.file.absolute()))
    seen = {name.partition("|")[0] for line in mutant.lines for name in contexts.get(line, ())}
    own, left, chosen = f"tests/{mutant.file.parent.name}/", BUDGET, []
    for test in sorted(seen - {""}, key=lambda t: (not t.startswith(own), seconds.get(t, 0.0), t)):
        left -= seconds.get(test, 0.0)
        if left < 0 and chosen:
            break
        chosen.append(test)
    return sorted(chosen, key=lambda test: test.partition("::")[0])  # files share fixtures


def judge(mutant: Mutant | None, tests: list[str]) -> tuple[str, str]:
    """ "killed" or "survived", and the test that failed first."""
    if not tests:
        return "survived", "no test covers it"
    with tempfile.TemporaryDirectory() as scratch:
        copy, answer = Path(scratch, "src"), Path(scratch, "answer")
        shutil.copytree(SOURCES, copy)
        if mutant:
            (copy / mutant.file.relative_to(SOURCES)).write_text(mutant.code)
        pid = os.fork()
        if not pid:
            _run(mutant, tests, copy, answer)
        status = os.waitpid(pid, 0)[1]
        found = json.loads(answer.read_text()) if answer.exists() else ("killed", f"by {status}")
    return found[0], found[1]


def _run(mutant: Mutant | None, tests: list[str], copy: Path, answer: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(4 * BUDGET), int(4 * BUDGET)))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1), os.dup2(nothing, 2)
    sys.dont_write_bytecode = True
    sys.path[:] = [str(copy), *(path for path in sys.path if path != str(SOURCES.absolute()))]
    os.environ["PYTHONPATH"] = str(copy)
    seen = _Seen()
    try:
        module = importlib.import_module("ailora.adapters")
        assert module.__file__ and module.__file__.startswith(str(copy))  # noqa: S101
        if mutant:
            name = ".".join(mutant.file.relative_to(SOURCES).with_suffix("").parts)
            importlib.import_module(name.removesuffix(".__init__"))
        code = int(pytest.main(["-qx", "-oaddopts=", "-pno:cacheprovider", *tests], [seen]))
        verdict = {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}")
    except BaseException as error:
        verdict, seen.failed = "killed", f"at import: {error!r}"
    answer.write_text(json.dumps([verdict, seen.failed]))
    os._exit(0)


class _Seen:
    failed = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def main() -> None:
    """Judge the mutants that the log lacks, and print how many were killed."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", default=".coverage")
    parser.add_argument("--durations", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no mutant after these")
    parser.add_argument("--again", type=int, nargs="*", default=[], help="judge these anew")
    parser.add_argument("--control", action="store_true")
    asked = parser.parse_args()
    began = time.monotonic()
    for name in WARM:
        importlib.import_module(name)
    log = [json.loads(line) for line in asked.log.open()] if asked.log.exists() else []
    if asked.control:
        tests = sorted({line["by"] for line in log if "::" in line["by"]})
        print(len(tests), "tests that killed, nothing changed:", judge(None, tests))
        return
    seconds: dict[str, float] = defaultdict(float)
    for took, test in re.findall(r"^\s*([\d.]+)s \w+ +(.+)$", asked.durations.read_text(), re.M):
        seconds[test] += float(took)
    data = CoverageData(asked.coverage)
    data.read()
    done = {line["number"]: line for line in log}
    for number, mutant in enumerate(draw(asked.count, asked.seed)):
        if time.monotonic() - began > asked.seconds:
            break
        if number in done and number not in asked.again:
            continue
        start, tests = time.monotonic(), tests_for(mutant, data, seconds)
        verdict, by = judge(mutant, tests)
        done[number] = {
            "number": number,
            "file": str(mutant.file.relative_to(SOURCES)),
            "line": mutant.lines.start,
            "change": mutant.diff(),
            "verdict": verdict,
            "by": by,
            "tests": len(tests),
            "seconds": round(time.monotonic() - start, 1),
        }
        with asked.log.open("a") as stream:
            stream.write(json.dumps(done[number]) + "\n")
    counts = Counter(line["verdict"] for line in done.values())
    interval = binomtest(counts["killed"], max(1, counts.total())).proportion_ci(method="wilson")
    print(f"{dict(counts)}; killed {interval.low:.1%} to {interval.high:.1%} (95 %, Wilson)")
    for line in done.values():
        if line["verdict"] != "killed":
            print(
                line["number"], line["file"], line["line"], line["by"], *line["change"], sep="\n  "
            )


if __name__ == "__main__":
    main()
