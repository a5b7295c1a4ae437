"""Your own questions on your own texts, answered by a span of the text.

Run it:  python examples/questions.py
The same on the command line:
    ailora train --task opening_hours.jsonl --max-length 96 --doc-stride 32
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train

PLACES = ("museum", "library", "market", "swimming pool", "town hall", "station", "theatre", "zoo")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
CLOSING = ("four", "five", "six", "eight")


def write_questions(path: Path) -> Path:
    """Write one question per row, and where in its context the answer begins, in characters."""
    rows = []
    for number, place in enumerate(PLACES):
        for day in DAYS:
            hour = CLOSING[(number + len(day)) % len(CLOSING)]
            context = f"The {place} opens at nine on {day}, and closes at {hour}."
            for question, answer in (("closes at which hour", hour), ("is open on which day", day)):
                rows.append(
                    {
                        "id": str(len(rows)),
                        "question": f"The {place} {question}?",
                        "context": context,
                        "answers": {"text": [answer], "answer_start": [context.index(answer)]},
                    }
                )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def main(model: str, out: Path) -> None:
    """Train AILoRA on the rows and print how many answers it finds in texts it has not seen."""
    with TemporaryDirectory() as folder:
        rows = write_questions(Path(folder) / "opening_hours.jsonl")
        config = RunConfig(
            model=model,
            task=str(rows),
            lr=8e-3,
            epochs=6,
            batch_size=8,
            max_length=96,
            doc_stride=32,
        )
        task = load_task(config.task, **config.task_options())
        result = train(config, task, out)
    scores = result["metrics"]["test"]
    print(f"exact match {scores['exact_match']:.3f}, F1 {scores['f1']:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="an encoder: a folder or a hub name")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs")
    main(**vars(parser.parse_args()))
