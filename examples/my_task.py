"""A task as one small file: a function that returns it. No edit anywhere else.

Run it:  ailora train --task examples/my_task.py
         ailora compare --task examples/my_task.py --methods lora,ailora

Here: is a number that is written out in words even or odd?
"""

from __future__ import annotations

import random

from datasets import Dataset

from ailora.lab.tasks import TextTask, fingerprint_of

TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LABELS = ("even", "odd")


def load(*, limit: int | None = None, eval_limit: int | None = None) -> TextTask:
    """Return the task.

    Args:
        limit: Most rows to train on (`ailora train --limit`).
        eval_limit: Most rows of selection and of test each (`--eval-limit`).
    """
    numbers = [
        {"text": f"{hundred} hundred and {ten}-{one}", "label": (ONES.index(one) + 1) % 2}
        for hundred in ONES
        for ten in TENS
        for one in ONES
    ]
    random.Random(0).shuffle(numbers)  # noqa: S311
    rows = Dataset.from_list(numbers)
    train = rows.select(range(400)).take(limit or 400)
    selection = rows.select(range(400, 500)).take(eval_limit or 100)
    test = rows.select(range(500, len(rows))).take(eval_limit or 148)
    return TextTask(
        name="even-or-odd",
        train=train,
        selection=selection,
        test=test,
        labels=LABELS,
        metrics=("accuracy",),
        fingerprint=fingerprint_of((train, selection, test), LABELS),
    )
