"""The embedded task: sentences of film reviews and what people felt in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from datasets import Dataset, Features, Value

from ailora.lab import demo
from ailora.lab.tasks.classification.metrics import metric_names
from ailora.lab.tasks.classification.text import build_text_task
from ailora.lab.tasks.tables.read import read_table
from ailora.lab.tasks.tables.repeats import comparable
from ailora.lab.tasks.tables.split import Sampling, SingleRows, hold_out
from ailora.lab.tasks.task import TextTask

SELECTION_ROWS = 1000
TEST_ROWS = 2000
_LABELS = ("negative", "positive")


def load_movies(
    *,
    regression: bool = False,
    metrics: Sequence[str] | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
) -> TextTask:
    """Return the film-review task, from the demo's pinned file of 10,605 sentences.

    Classification takes the sign of the mean rating (``negative`` 0, ``positive`` 1) and drops the
    37 rows rated exactly 0; regression takes the mean itself, from -4 to 4. Of texts that are equal
    but for case and spacing only the first is kept (2 rows go), so no two splits share one. 1,000
    rows are for selection, 2,000 for test, the rest to train on.

    Args:
        regression: Predict the mean rating instead of its sign.
        metrics: By default accuracy, f1, mcc; or pearson, spearman.
        split_seed: Seed of the split and of the rows that the limits keep.
        limit: Most rows to train on.
        eval_limit: Most rows of selection and of test each.

    Raises:
        UserError: The file cannot be had, a metric is unknown, or a limit is less than 1.
    """
    names = metric_names(metrics, regression=regression)
    data, notes = _sentences(regression)
    draw = SingleRows(stratify=not regression)
    tested = hold_out(data, TEST_ROWS, seed=split_seed, draw=draw)
    chosen = hold_out(tested.kept, SELECTION_ROWS, seed=split_seed, draw=draw)
    task = build_text_task(
        "movies-regression" if regression else "movies",
        {"train": chosen.kept, "dev": chosen.held_out, "test": tested.held_out},
        labels=None if regression else _LABELS,
        metrics=names,
        sampling=Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit),
        notes=notes,
    )
    # What was dropped of the embedded file is for the result, not for the screen of each run.
    statement = task.statement
    return replace(task, statement=statement and replace(statement, remarks=(), made=()))


def _sentences(regression: bool) -> tuple[Dataset, tuple[str, ...]]:
    texts: dict[str, str] = {}
    labels: list[float] = []
    neutral = repeated = 0
    for _, row in read_table(demo.movie_reviews()).rows:
        key, rating = comparable(row["text"], punctuation=True), float(row["sentiment"])
        if key in texts:
            repeated += 1
        elif rating == 0 and not regression:
            neutral += 1
        else:
            texts[key] = row["text"]
            labels.append(rating if regression else int(rating > 0))
    notes = [f"{repeated} rows dropped that repeat an earlier text"]
    if neutral:
        notes.append(f"{neutral} rows dropped whose mean rating is exactly 0")
    label = Value("float64" if regression else "int64")
    features = Features({"text": Value("string"), "label": label})
    columns = {"text": list(texts.values()), "label": labels}
    return Dataset.from_dict(columns, features=features), tuple(notes)
