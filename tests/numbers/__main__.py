"""Many hard matrices by one command, which can be broken off and called again with the same log.

python -m tests.numbers --cases 10000 --log numbers.jsonl
"""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from ailora.files import write_json
from ailora.linalg import SOLVER_VERSION
from tests.lines import add_line
from tests.numbers.cases import REFUSED, SAID, SOLVED, WRONG, Case, as_line, read_log, run_case


def main() -> int:
    """Do the cases that the log lacks, print a table, and exit with 1 if any is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.numbers", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases")
    parser.add_argument("--log", type=Path, default=Path("numbers.jsonl"), help="one line per case")
    parser.add_argument("--part", default="0/1", help="I/N: every Nth case, for N processes")
    parser.add_argument("--summary", type=Path, help="write the counts there, as JSON")
    parser.add_argument("--only", type=int, help="do this case alone, and show it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    if asked.only is not None:
        print(as_line(run_case(asked.only, asked.seed)))  # noqa: T201
        return 0
    done = [case for case in read_log(asked.log) if case.seed == asked.seed]
    part, parts = map(int, asked.part.split("/"))
    missing = sorted(set(range(part, asked.cases, parts)) - {case.number for case in done})
    for number in tqdm(missing):
        done.append(run_case(number, asked.seed))
        add_line(asked.log, asdict(done[-1]))
    if asked.summary:
        write_json(asked.summary, counts(done, asked.seed))
    for line in summary(done):
        print(line)  # noqa: T201
    return int(any(case.verdict == WRONG for case in done))


def counts(cases: list[Case], seed: int) -> dict[str, object]:
    """What is kept of a run."""
    methods = Counter(method for case in cases for method in case.methods)
    return {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "solver": SOLVER_VERSION,
        "seed": seed,
        "cases": len(cases),
        "decompositions": methods.total(),
        "verdicts": dict(Counter(case.verdict for case in cases)),
        "methods": dict(methods),
        "kinds": dict(sorted(Counter(kind for case in cases for kind in case.kinds).items())),
    }


def summary(cases: list[Case]) -> list[str]:
    """Tables in Markdown: verdicts by kind of matrix, the methods, and what is wrong."""
    verdicts = (SOLVED, SAID, REFUSED, WRONG)
    total = Counter(case.verdict for case in cases)
    seen = Counter((kind, case.verdict) for case in cases for kind in set(case.kinds))
    methods = Counter(method for case in cases for method in case.methods)
    return [
        f"{len(cases)} cases, {methods.total()} decompositions: {total[SOLVED]} solved, "
        f"{total[SAID]} where the check says that tol was missed, "
        f"{total[REFUSED]} refused, {total[WRONG]} wrong.",
        ", ".join(f"{method} {count}" for method, count in methods.most_common()),
        "",
        f"| cases with one that is | {' | '.join(verdicts)} |",
        f"|---|{'---|' * len(verdicts)}",
        *(
            f"| {kind} | {' | '.join(str(seen[kind, verdict] or '') for verdict in verdicts)} |"
            for kind in sorted({kind for case in cases for kind in case.kinds})
        ),
        *(
            f"- case {case.number}, {' and '.join(case.kinds)}: {case.how}: {case.why}"
            for case in cases
            if case.verdict == WRONG
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
