"""Many faults by one command, which can be broken off and called again with the same log.

python -m tests.faults --cases 500 --log faults.jsonl [--summary results/faults/summary.json]
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.cases import Case

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def main() -> int:
    """Do the cases that the log lacks; 1 if any promise did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("faults.jsonl"))
    parser.add_argument("--summary", type=Path, help="a file for the counts, as JSON")
    parser.add_argument("--only", type=int, help="do this one case, whatever the log has")
    asked = parser.parse_args()

    import torch

    from ailora.files import write_json
    from tests.faults.cases import Ground, read_log
    from tests.lines import add_line

    torch.set_num_threads(1)
    done = [case for case in read_log(asked.log) if case.seed == asked.seed]
    missing = [n for n in range(asked.cases) if n not in {case.case for case in done}]
    if asked.only is not None:
        done, missing = [], [asked.only]
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        ground = Ground(Path(folder))
        for count, number in enumerate(missing, 1):
            case = ground.draw(asked.seed, number)
            add_line(asked.log, asdict(case))
            done.append(case)
            where = f"{case.operation}, {case.fault} at {case.at} of {case.of}"
            say(f"{count}/{len(missing)} {where}: {case.why or 'held'}")
    broken = [case for case in done if case.why]
    for line in summary(done):
        say(line)
    if asked.summary:
        write_json(asked.summary, counts(done))
    return int(bool(broken))


def summary(cases: list[Case]) -> list[str]:
    """A table in Markdown: cases by operation and fault, and what did not hold."""
    seen = Counter((case.operation, case.fault) for case in cases)
    kinds = sorted({case.fault for case in cases})
    rows = [("", *kinds), tuple("---" for _ in range(len(kinds) + 1))]
    rows += [
        (name, *(str(seen[name, kind] or "") for kind in kinds))
        for name in dict.fromkeys(case.operation for case in cases)
    ]
    broken = [case for case in cases if case.why]
    return [
        f"{len(cases)} cases, {len(broken)} of them broken.",
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
        *(f"- {one.operation}, {one.fault} at {one.at} of {one.of}: {one.why}" for one in broken),
    ]


def counts(cases: list[Case]) -> dict[str, Any]:
    """How many cases there were, of what, and how many of them were broken, today."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "seeds": sorted({case.seed for case in cases}),
        "cases": len(cases),
        "broken": sum(bool(case.why) for case in cases),
        "not_held": [
            f"{c.operation}, {c.fault} at {c.at} of {c.of}: {c.why}" for c in cases if c.why
        ],
        "operations": dict(Counter(case.operation for case in cases).most_common()),
        "faults": dict(Counter(case.fault for case in cases).most_common()),
    }


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
