"""docs/reliability.md and the figures that it is made of, ``results/reliability/summary.json``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from platform import python_version
from typing import Any

from tests.reliability.promises import ROOT, Promise, holds

PAGE = ROOT / "docs" / "reliability.md"
SUMMARY = ROOT / "results" / "reliability" / "summary.json"
OUTCOMES = ("passed", "failed", "skipped")

_INTRODUCTION = """# Reliability

What is promised, the tests that hold each promise, how many cases they are and how they ended. Made by
`python -m tests.reliability --out DIR` from `tests/reliability/promises.toml`: it runs these tests and no others,
and then, for each promise, a build that breaks it. A broken build is a copy of the sources with one defect, in
which the promise's own tests must fail, by an assertion; in a copy without a defect they pass.

Run on {date} with Python {python}, torch {torch}, PEFT {peft} and transformers {transformers}, on a processor:
{promises} promises, {cases} cases, {failed} failed; {caught} of {promises} broken builds caught.
"""  # noqa: E501
_HEAD = """
## {part}

| promise | tests | cases | last result | a broken build that they catch |
|---|---|---|---|---|
"""
_LONG_RUNS = """
## Long runs

What takes too long for every change. Each command goes on where it was broken off.

| | command | cases | result | last run |
|---|---|---|---|---|
| Faults at drawn events of writing, training and saving: kills, SIGTERM, SIGHUP, SIGINT, files the system refuses, full and read-only disks, lack of memory, a clock that jumps, two processes at once, no network | `python -m tests.faults --cases 500` | {faults[cases]:,} | {faults[broken]} broken promises | {faults[date]} |
| Files of strangers, spoilt at random: adapters, models, indexes, caches, runs, data, sweeps, a Trainer's state | `python -m tests.hostile --cases 20000` | {hostile[cases]:,} | {hostile[broken]} broken promises, {hostile[endings]} distinct endings, {hostile[parsed]:,} files of a whole form | {hostile[date]} |
| The tests of PEFT {peft[peft]} itself, with anchored factors in LoRA's place | `python -m tests.peft_suite --out DIR` | {peft[cases]:,} | {bugs} bugs, {as_stock:,} as with stock LoRA; the others by design, or none of ours | {peft[date]} |

## What this page does not say

That there are no defects: only that these are noticed. Nothing here was run on a GPU. Which versions, trainers and
wrappers were tried is in [Trainers and wrappers](compatibility.md), what is known not to hold in [Limits](limits.md).
"""  # noqa: E501


def summarise(
    promises: Sequence[Promise],
    cases: Sequence[Mapping[str, Any]],
    verdicts: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The figures of a run.

    Args:
        promises: The list.
        cases: Lines as `tests.reliability.recording` writes them.
        verdicts: Lines as `tests.reliability.broken` writes them.
    """
    whys = {verdict["promise"]: verdict["why"] for verdict in verdicts}
    return {
        "date": max((case["day"] for case in cases), default=""),
        "python": python_version(),
        **{name: version(name) for name in ("torch", "peft", "transformers")},
        "promises": {
            one.name: {
                "tests": list(one.tests),
                **_counts(one, cases),
                "broken_build": one.broken.what,
                "caught": whys.get(one.name) == "",
            }
            for one in promises
        },
    }


def _counts(promise: Promise, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [case for case in cases if any(holds(test, case["case"]) for test in promise.tests)]
    count = Counter(case["outcome"] for case in own)
    last = max((case["day"] for case in own), default="")
    return {**{outcome: count[outcome] for outcome in OUTCOMES}, "last": last}


def not_held(summary: Mapping[str, Any]) -> list[str]:
    """Names of the promises of which a test failed or none passed, or a defect went unnoticed."""
    return [
        name
        for name, one in summary["promises"].items()
        if one["failed"] or not one["passed"] or not one["caught"]
    ]


def render(promises: Sequence[Promise], summary: Mapping[str, Any]) -> str:
    """The page, of the list, the figures, and those of the long runs."""
    found = summary["promises"]
    total = {key: sum(one[key] for one in found.values()) for key in (*OUTCOMES, "caught")}
    said = {name: value for name, value in summary.items() if name != "promises"}
    said |= {"promises": len(promises), "failed": total["failed"], "caught": total["caught"]}
    cases = sum(total[outcome] for outcome in OUTCOMES)
    lines = [_INTRODUCTION.format(cases=f"{cases:,}", **said)]
    for part, several in groupby(promises, key=lambda one: one.part):
        lines.append(_HEAD.format(part=part))
        lines += [_row(one, found[one.name]) for one in several]
    return "".join([*lines, _long_runs()])


def _row(promise: Promise, found: Mapping[str, Any]) -> str:
    tests = "<br>".join(f"`{test}`" for test in promise.tests)
    cases = sum(found[outcome] for outcome in OUTCOMES)
    result = ", ".join(f"{found[outcome]} {outcome}" for outcome in OUTCOMES if found[outcome])
    defect = promise.broken.what if found["caught"] else f"**not caught:** {promise.broken.what}"
    return f"| {promise.says} | {tests} | {cases} | {result}; {found['last']} | {defect} |\n"


def _long_runs() -> str:
    faults, hostile, peft = (
        json.loads((ROOT / "results" / name / "summary.json").read_text(encoding="utf-8"))
        for name in ("faults", "hostile", "peft-tests")
    )
    counts = peft["counts"]
    return _LONG_RUNS.format(
        faults=faults,
        hostile=hostile,
        peft=peft,
        bugs=counts.get("bug", 0),
        as_stock=counts["as stock"],
    )


def read_summary() -> dict[str, Any]:
    """The committed figures."""
    found: dict[str, Any] = json.loads(SUMMARY.read_text(encoding="utf-8"))
    return found
