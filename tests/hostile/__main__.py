"""Many cases by one command: ``python -m tests.hostile --cases 20000``.

Each case is appended to a file, so that the command can be broken off and goes on from there.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ailora.files import write_json
from tests.hostile.cases import Case, endings, run_case
from tests.hostile.guard import install
from tests.lines import add_line, read_lines


def main() -> int:
    """Run what is missing, print the distinct endings, and exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases")
    parser.add_argument("--log", type=Path, default=Path("hostile.jsonl"), help="one line per case")
    parser.add_argument("--summary", type=Path, help="a file for the counts, as JSON")
    parser.add_argument("--only", type=int, help="run this case alone, and show it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as scratch:
        if asked.only is not None:
            print(run_case(asked.only, asked.seed, Path(scratch)))  # noqa: T201
            return 0
        done = [Case(**line) for line in read_lines(asked.log)]
        install()
        known = {case.number for case in done}
        for number in tqdm([n for n in range(asked.cases) if n not in known]):
            done.append(run_case(number, asked.seed, Path(scratch)))
            add_line(asked.log, asdict(done[-1]))
    if asked.summary:
        write_json(asked.summary, counts(done, asked.seed))
    return _report(done)


def counts(cases: list[Case], seed: int) -> dict[str, Any]:
    """How many cases there were, of what, how they ended, and how many broke a promise, today."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "seed": seed,
        "cases": len(cases),
        "broken": sum(case.is_broken for case in cases),
        "parsed": sum(case.parsed for case in cases),
        "endings": len(endings(cases)),
        "subjects": dict(Counter(case.subject for case in cases).most_common()),
    }


def _report(cases: list[Case]) -> int:
    broken = [case for case in cases if case.is_broken]
    for (subject, ending), count in sorted(endings(cases).items()):
        print(f"{count:6d}  {subject}: {ending}")  # noqa: T201
    parsed = sum(case.parsed for case in cases)
    print(  # noqa: T201
        f"{len(cases)} cases, {parsed} of a whole form ({parsed / max(len(cases), 1):.0%}), "
        f"{len(endings(cases))} distinct endings, {len(broken)} broken promises"
    )
    for case in broken[:40]:
        print(f"  case {case.number}: {case.subject}, {case.file}: {case.ending}")  # noqa: T201
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
