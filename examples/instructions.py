"""Your own instruction set as JSONL: instruction, perhaps input, and output.

Run it:  python examples/instructions.py
The same on the command line:
    ailora train --task codes.jsonl --metrics exact,rougeL --max-new-tokens 12
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train

CITIES = ("Bern", "Oslo", "Lima", "Rome", "Cairo", "Delhi", "Quito", "Seoul", "Paris", "Dakar")
SHELVES = ("A", "B", "C", "D", "E", "F")


def write_codes(path: Path) -> Path:
    """Write instructions that only your own rows can teach: how your codes are written."""
    rows = [
        {
            "instruction": "Write the code of this box.",
            "input": f"city: {city}, shelf: {shelf}",
            "output": f"{city[:2].upper()}-{shelf}",
        }
        for city in CITIES
        for shelf in SHELVES
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def main(model: str, out: Path) -> None:
    """Train AILoRA on the rows and print scores and a few answers."""
    with TemporaryDirectory() as folder:
        rows = write_codes(Path(folder) / "codes.jsonl")
        config = RunConfig(
            model=model,
            task=str(rows),
            metrics=("exact", "rougeL"),
            epochs=2,
            batch_size=8,
            max_length=128,
            max_new_tokens=12,
        )
        task = load_task(config.task, **config.task_options())
        result = train(config, task, out)
    scores = result["metrics"]["test"]
    print(f"exact {scores['exact']:.3f}, rougeL {scores['rougeL']:.3f} on {len(task.test)} rows")
    answers = out / config.run_id(task.name, task.fingerprint) / "predictions-test.jsonl"
    for line in answers.read_text(encoding="utf-8").splitlines()[:3]:
        row = json.loads(line)
        print(f"{row['source'].splitlines()[-1]!r}: {row['answer']!r}, wanted {row['references']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a decoder: a folder or a hub name")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs")
    main(**vars(parser.parse_args()))
