"""``ailora data`` on one file of many rows, in this process, and the memory that it took.

python -m tests.load.one_file MODEL ROWS [keep]: a JSON line with the rows, the seconds and the most
bytes above what an empty Python with the same imports holds; ``keep`` holds every text on purpose.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import datasets

import ailora.lab.training.data_report
from ailora.lab.cli.main import main as ailora_main
from tests.load.measured import most_resident, resident

WORDS = "the film was fine and the plot was very good not a bad end at all " * 15


def write(path: Path, rows: int) -> None:
    """Rows of a thousand characters that all differ, in two classes."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            row = {"text": f"story {number} {WORDS}", "label": "pos" if number % 2 else "neg"}
            file.write(json.dumps(row) + "\n")


def keep_texts() -> None:
    """What a reader does that holds its rows."""
    inner, kept = datasets.Dataset.select, list[object]()

    def select(self: datasets.Dataset, *args: object, **options: object) -> datasets.Dataset:
        found = inner(self, *args, **options)
        kept.append(list(found["text"]))
        return found

    datasets.Dataset.select = select


def main() -> None:
    model, rows = sys.argv[1], int(sys.argv[2])
    if sys.argv[3:] == ["keep"]:
        keep_texts()
    assert ailora.lab.training.data_report
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, rows)
        before, began = resident(), time.monotonic()
        sys.argv = ["ailora", "data", str(path), "--model", model]
        with most_resident() as most:
            try:
                ailora_main()
            except SystemExit as end:
                assert not end.code, end.code
        seconds = round(time.monotonic() - began, 1)
        found = {"rows": rows, "seconds": seconds, "memory": most[0] - before}
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
