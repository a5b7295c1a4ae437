"""What each test row adds to a run's score, so that rows count as chance beside seeds.

Where the score is a mean over rows it is the row's own. Any other (F1, Matthews' and the other
correlations) is computed again without some rows: K blocks of rows are left out one after another,
and K s - (K - 1) s_k, with s the score and s_k the one without block k, stands for block k, as in
studies whose readers are compared by the area under a curve (Dorfman, Berbaum and Metz 1992).
On 60 real runs of one method, 1,000 comparisons of it with itself show a difference in Matthews'
correlation in 5 of 100, in Pearson's and in Spearman's in 4 to 6 (with 5 and with 10 seeds), and in
F1 in 5 with 10 seeds and in 2 with 5. That is not the blocks' doing: seeds alone show as few. F1 of
runs that fall back on one class is long-tailed, and there Student's t of five pairs is known to
reject less often than it may (Benjamini 1983); no test by ranks or signs could reject at all, since
five pairs give it no p below 0.06.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ailora.errors import MALFORMED, UserError
from ailora.files import parse_json, read_text
from ailora.lab.tasks import METRICS, compute

BLOCKS = 50
_Array = npt.NDArray[Any]


def row_scores(
    run: Mapping[str, Any], folder: Path, split: str = "test"
) -> npt.NDArray[np.float64] | None:
    """What the rows, or blocks of rows, of a split add to a run's headline score.

    Args:
        run: Content of its result.json.
        folder: The run's folder, with what was answered to each row.
        split: ``test`` or ``selection``.

    Returns:
        fp64 (rows,) or (blocks,), whose mean is the score. None where nothing is kept of single
        rows, or what is kept does not make up the score.
    """
    metric = run["data"]["metric"]
    try:
        rows = _read(folder / f"predictions-{split}.jsonl")
        found = _own(rows, metric) if metric in rows[0] else _computed(rows, run["data"])
    except (OSError, *MALFORMED):
        return None
    whole = abs(float(found.mean()) - float(run["metrics"][split][metric])) < 1e-9
    return found if whole else None


def always_positive(run: Mapping[str, Any], folder: Path) -> tuple[float, str] | None:
    """The F1 of answering the class that it is of to every test row, and that class.

    With p the share of its rows that is 2 p / (1 + p): far more than the commonest class scores
    where that is the other one.

    Args:
        run: Content of its result.json.
        folder: The run's folder, with the label of each row.

    Returns:
        None for other scores than the F1 of two classes, and where no rows are kept.
    """
    data = run["data"]
    labels: Sequence[str] = data.get("labels") or ()
    if data["metric"] != "f1" or len(labels) != 2:
        return None
    positive = str(data.get("positive") or labels[-1])
    try:
        found = [row["label"] == positive for row in _read(folder / "predictions-test.jsonl")]
        share = sum(found) / len(found)
    except (OSError, *MALFORMED):
        return None
    return 2 * share / (1 + share), positive


def pseudo_values(score: Callable[[_Array], float], rows: int) -> npt.NDArray[np.float64]:
    """What each block of rows adds to a score.

    The blocks are drawn at random and are the same for every run on so many rows.

    Args:
        score: The score of rows, by their numbers.
        rows: Number of rows.

    Returns:
        fp64 (blocks,), with the score of all rows as mean; each row is a block up to `BLOCKS` rows.
    """
    drawn = np.random.default_rng(0).permutation(rows)
    blocks, whole = np.array_split(drawn, min(BLOCKS, rows)), score(np.arange(rows))
    without = np.array([score(np.delete(np.arange(rows), block)) for block in blocks])
    values = len(blocks) * whole - (len(blocks) - 1) * without
    # Their own mean is the score less its bias, which is the same of both that are compared.
    return np.asarray(values + whole - values.mean(), dtype=np.float64)


def _read(path: Path) -> list[dict[str, Any]]:
    return [parse_json(line) for line in read_text(path).splitlines()]


def _own(rows: Sequence[Mapping[str, Any]], metric: str) -> npt.NDArray[np.float64]:
    """Scores that stand beside the answers; with groups, so weighed that their mean is theirs."""
    scores = np.array([float(row[metric]) for row in rows])
    sizes = Counter(row.get("group") for row in rows)
    weights = [len(rows) / (len(sizes) * sizes[row.get("group")]) for row in rows]
    return np.asarray(scores * weights, dtype=np.float64)


def _computed(
    rows: Sequence[Mapping[str, Any]], data: Mapping[str, Any]
) -> npt.NDArray[np.float64]:
    metric = data["metric"]
    if metric not in METRICS:
        raise UserError(f"{metric!r} is no metric of classes or numbers")
    if metric == "accuracy":
        return np.array([float(row["predicted"] == row["label"]) for row in rows])
    labels, predicted = ([row[name] for row in rows] for name in ("label", "predicted"))
    positive, names = 1, data.get("labels")
    if names:
        places = {name: place for place, name in enumerate(names)}
        positive = places[data["positive"]] if data.get("positive") else len(names) - 1
        right = np.array([places[name] for name in labels])
        answers = np.eye(len(names))[[places[name] for name in predicted]]
    else:
        right, answers = np.array(labels), np.array(predicted)

    def score(chosen: _Array) -> float:
        return compute([metric], answers[chosen], right[chosen], positive=positive)[metric]

    return pseudo_values(score, len(rows))
