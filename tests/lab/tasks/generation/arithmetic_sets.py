"""Small sets in a folder, as the task reads them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TESTS = ("multiarith", "gsm8k", "addsub", "singleeq", "svamp")


def record(problem: str, answer: object, **more: Any) -> dict[str, Any]:
    return {
        "instruction": problem,
        "output": f"{answer} = {answer}\nThe answer is {answer}.",
        "answer": str(answer),
        **more,
    }


def write_set(folder: Path, split: str, records: Sequence[dict[str, Any]]) -> Path:
    """Write gzipped JSON lines and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in records)
    return path


def write_all(folder: Path) -> Path:
    """Eight rows of GSM8K and four of MAWPS to train on, three of dev, three to five a test."""
    write_set(folder / "gsm8k", "train", [record(f"Train {n}?", n) for n in range(8)])
    write_set(folder / "gsm8k", "dev", [record(f"Dev {n}?", n) for n in range(3)])
    write_set(folder / "mawps", "train", [record(f"Mawps {n} .", n + 0.5) for n in range(4)])
    for count, name in enumerate(TESTS, start=1):
        rows = [record(f"{name} {n}?", 10 * n) for n in range(count)]
        write_set(folder / name, "test", rows)
    return folder
