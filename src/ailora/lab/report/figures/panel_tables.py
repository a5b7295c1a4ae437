"""What the paper's figures show, as tables: from finished runs and what they did to weights.

Each function returns the panels of one figure by name, a pandas table each, and what it could not
measure. Tables are drawn by `ailora.lab.report.figures.gallery`, which needs nothing but them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ailora.lab.analysis.changes import Change
from ailora.lab.analysis.embedding import (
    FEWEST,
    Embedding,
    Point,
    factor_points,
    pca,
    tsne,
    weight_points,
)
from ailora.lab.analysis.forgetting import on_texts
from ailora.lab.analysis.layers import weight_norms
from ailora.lab.analysis.runs import read_run
from ailora.lab.analysis.similarity import random_level, similarities
from ailora.lab.experiments.wording import metric_label
from ailora.lab.report.comparison import Run, method_of, score_of, watched_of, words_of
from ailora.roles import RoleName

Row = dict[str, Any]
Tables = dict[str, pd.DataFrame]
_STARTS = (0, 1)  # seeds of t-SNE's start: what only one picture shows is an artefact


class Seen(NamedTuple):
    """A finished run: its result.json, and its folder."""

    result: Run
    folder: Path


Along = Callable[[Sequence[Seen]], Iterable[Seen]]  # may show how far one is


def weights(runs: Sequence[Seen], along: Along = iter) -> Tables:
    """Figure 1: W^Q and W^V before and after training as points, and ||dW||_F by role.

    Points are of full fine-tuning, as in the paper, and of LoRA, where both were done.
    """
    points, norms = [], []
    for seen in along(runs):
        changes = read_run(seen.folder).changes
        norms += [
            {**_of(seen), "role": row.role, "layer": row.layer, "norm": row.norm}
            for row in weight_norms(changes)
            if row.role in ("q", "v")
        ]
        if method_of(seen.result) in ("full", "lora") and _is_first(seen, runs):
            points += _weight_points(seen, changes)
    return {"figure1ab": pd.DataFrame(points), "figure1cd": pd.DataFrame(norms)}


def convergence(runs: Sequence[Seen], along: Along = iter) -> Tables:
    """Figure 3: training loss and selection score along the epochs."""
    rows = []
    for seen in along(runs):
        watched, label = watched_of(seen.result), words_of(seen.result)
        for entry in seen.result["history"]:
            values = {"epoch": entry["epoch"], "loss": entry["loss"], "score": entry[watched]}
            rows.append({**_of(seen), "metric": label, **values})
    whole = pd.DataFrame(rows)
    return {
        "figure3a": whole.drop(columns="score").dropna(subset="loss"),
        "figure3b": whole.drop(columns="loss"),
    }


def query_similarity(runs: Sequence[Seen], along: Along = iter) -> Tables:
    """Figure 4a: W^Q's subspace beside full fine-tuning's."""
    return {"figure4a": _similarity(runs, "q", along)}


def forgotten(runs: Sequence[Seen], texts: Sequence[str], on: str, along: Along = iter) -> Tables:
    """Figure 4b: how far the tuned models' predictions are from their base's, on a task's texts."""
    rows = [{**_of(seen), "on": on, **_forgetting(seen, texts)} for seen in along(runs)]
    return {"figure4b": pd.DataFrame(rows)}


def ranks(runs: Sequence[Seen], along: Along = iter) -> Tables:
    """Figure 5: last training loss and test score by rank."""
    rows = [
        {
            **_of(seen),
            "rank": seen.result["config"]["rank"],
            "loss": seen.result["history"][-1]["loss"],
            "score": score_of(seen.result),
        }
        for seen in along(runs)
    ]
    whole = pd.DataFrame(rows)
    return {"figure5a": whole.drop(columns="score"), "figure5b": whole.drop(columns="loss")}


def reverse(runs: Sequence[Seen], along: Along = iter) -> Tables:
    """Figure 6: test scores of AILoRA and its reverse."""
    rows = [{**_of(seen), "score": score_of(seen.result)} for seen in along(runs)]
    return {"figure6": pd.DataFrame(rows)}


def value_similarity(runs: Sequence[Seen], along: Along = iter) -> Tables:
    """Figure 7: W^V's subspace beside full fine-tuning's."""
    return {"figure7": _similarity(runs, "v", along)}


def factors(runs: Sequence[Seen], along: Along = iter) -> Tables:
    """Figure 8: the trained A and B of every layer and method as points, of one seed."""
    first = [seen for seen in runs if _is_first(seen, runs)]
    changes = {method_of(seen.result): read_run(seen.folder).changes for seen in along(first)}
    found: Tables = {}
    roles: tuple[RoleName, ...] = ("q", "v")
    for role in roles:
        rows: list[Row] = []
        for matrix in ("A", "B"):
            points = [
                point
                for method, own in changes.items()
                for point in factor_points(own, method, role, matrix)
            ]
            rows += _embedded({**_of(first[0]), "method": ""}, _of_one_size(points))
        found[f"figure8{role}"] = pd.DataFrame(rows)
    return found


def _of(seen: Seen) -> Row:
    config = seen.result["config"]
    return {
        "task": config["task"],
        "metric": _metric(seen),
        "method": method_of(seen.result),
        "lr": config["lr"],
        "seed": config["seed"],
    }


def _metric(seen: Seen) -> str:
    return metric_label(seen.result["data"])


def _is_first(seen: Seen, runs: Sequence[Seen]) -> bool:
    """Whether a run has the lowest seed of the first task: for panels that show one run."""
    config, task = seen.result["config"], runs[0].result["config"]["task"]
    method = method_of(seen.result)
    own = [one.result["config"] for one in runs if method_of(one.result) == method]
    seeds = [one["seed"] for one in own if one["task"] == task]
    return bool(config["task"] == task and config["seed"] == min(seeds))


def _weight_points(seen: Seen, changes: Sequence[Change]) -> list[Row]:
    roles: tuple[RoleName, ...] = ("q", "v")
    return [row for role in roles for row in _embedded(_of(seen), weight_points(changes, role))]


def _of_one_size(points: Sequence[Point]) -> list[Point]:
    """The points of the commonest size: VeRA's factors, say, do not compare with LoRA's."""
    sizes = Counter(point.values.numel() for point in points)
    commonest = sizes.most_common(1)[0][0] if sizes else 0
    return [point for point in points if point.values.numel() == commonest]


def _embedded(of: Row, points: Sequence[Point]) -> list[Row]:
    """The points in the plane, by PCA and by t-SNE; empty if they are too few."""
    if len(points) < FEWEST:
        return []
    return [row for one in (pca(points), *tsne(points, seeds=_STARTS)) for row in _rows(of, one)]


def _rows(of: Row, embedding: Embedding) -> Iterator[Row]:
    for point in embedding.points:
        yield {
            **of,
            "role": point.role,
            "layer": point.layer,
            "matrix": point.matrix,
            "group": point.group,
            "embedding": embedding.method,
            "start": embedding.seed,
            "perplexity": embedding.perplexity,
            "x": point.x,
            "y": point.y,
        }


def _similarity(runs: Sequence[Seen], role: RoleName, along: Along) -> pd.DataFrame:
    """Similarity phi of each run's B A with full fine-tuning's dW, by task and seed."""
    full = {_setting(seen): seen for seen in runs if method_of(seen.result) == "full"}
    compared = [seen for seen in runs if seen not in full.values() and _setting(seen) in full]
    rows: list[Row] = []
    for setting, group in groupby(along(sorted(compared, key=_setting)), key=_setting):
        changes = read_run(full[setting].folder).changes
        wanted = [change for change in changes if change.place.role == role]
        rows += [row for seen in group for row in _similar(seen, wanted)]
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _setting(seen: Seen) -> tuple[str, int]:
    return seen.result["config"]["task"], seen.result["config"]["seed"]


def _similar(seen: Seen, wanted: Sequence[Change]) -> Iterator[Row]:
    for one in similarities(read_run(seen.folder).changes, wanted):
        yield {
            **_of(seen),
            "role": one.role,
            "layer": one.layer,
            "rank": one.rank,
            "left": one.left,
            "right": one.right,
            **_chance(one.random_left, one.random_right, one.rank),
        }


def _chance(left: float, right: float, rank: int) -> Row:
    """Mean and upper 97.5 % point of phi between random subspaces of that size."""
    highs = [random_level(round(rank / mean), rank, rank).high for mean in (left, right)]
    return {
        "random_left": left,
        "random_right": right,
        "random_left_high": highs[0],
        "random_right_high": highs[1],
    }


def _forgetting(seen: Seen, texts: Sequence[str]) -> Row:
    """Cross-entropy and KL against the base's tokens; where it predicts none, the reason."""
    found = on_texts(read_run(seen.folder), texts)
    row: Row = {"texts": found.texts, "drift": found.drift.relative}
    if found.forgetting is None:
        return {**row, "reason": found.reason}
    one = found.forgetting
    return {
        **row,
        "cross_entropy": one.cross_entropy,
        "entropy": one.entropy,
        "kl": one.kl,
        "positions": one.positions,
    }


MEASURES: Mapping[str, Callable[[Sequence[Seen], Along], Tables]] = {
    "weights": weights,
    "convergence": convergence,
    "function": query_similarity,
    "ranks": ranks,
    "reverse": reverse,
    "value_similarity": value_similarity,
    "factors": factors,
}
