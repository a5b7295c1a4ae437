"""Your own CSV as a classifier: two columns, their names given; missing splits are made.

Run it:  python examples/classifier.py
The same on the command line:
    ailora train --task tickets.csv --text message --label team
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train

MESSAGES = {
    "billing": ("My card was charged twice", "Please send the invoice again", "Refund my payment"),
    "delivery": ("The parcel has not come", "It was sent to my old address", "The box is crushed"),
    "login": ("I forgot my password", "The code never reaches me", "My account is locked"),
}
ENDINGS = ("", " Can you help?", " This is urgent!", " Thank you.", " I wrote last week already.")


def write_tickets(path: Path, count: int = 120) -> Path:
    """Write a table of messages and of the team that each is for."""
    draw = random.Random(0)  # noqa: S311
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("message", "team"))
        for number in range(count):
            team = draw.choice(list(MESSAGES))
            message = draw.choice(MESSAGES[team]) + draw.choice(ENDINGS)
            table.writerow((f"#{number}: {message}", team))
    return path


def main(model: str, out: Path) -> None:
    """Train AILoRA on the table and print how well it sorts messages it has not seen."""
    with TemporaryDirectory() as folder:
        table = write_tickets(Path(folder) / "tickets.csv")
        config = RunConfig(
            model=model, task=str(table), text=("message",), label="team", lr=4e-3, epochs=3
        )
        task = load_task(config.task, **config.task_options())
        result = train(config, task, out)
    print(f"teams: {', '.join(result['data']['labels'])}")
    print(f"accuracy on {len(task.test)} messages: {result['metrics']['test']['accuracy']:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="an encoder: a folder or a hub name")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs")
    main(**vars(parser.parse_args()))
