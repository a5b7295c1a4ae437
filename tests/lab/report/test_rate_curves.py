"""How sure a chosen rate is: which of its neighbours the selection rows tell apart from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from ailora.lab.experiments.fair import Protocol, fair
from ailora.lab.experiments.store import Failure, Store, Stored
from ailora.lab.report.rate_curves import Curve, curve_of
from ailora.lab.training import RunConfig
from tests.lab.report.runs import run as made_run

ROWS = 200
LORA = RunConfig(method="lora", lr=1e-3)
RATES = (3.16e-4, 5.62e-4, 1e-3, 1.78e-3, 3.16e-3)


def curve(
    folder: Path,
    scores: Mapping[float, float | None],
    *,
    seeds: Sequence[int] = (0,),
    keep: bool = True,
) -> Curve:
    """The curve of runs that answer the first rows right, so many as their score says."""

    def end(config: RunConfig) -> Stored:
        name, made_of = config.run_id("movies", "0"), asdict(config)
        score = scores[config.lr]
        if score is None:
            failure = Failure(config=made_of, kind="diverged", reason="nan")
            return Stored(run_id=name, state="failed", config=made_of, failure=failure)
        result = made_run("lora", config.seed, 0.7) | {"config": made_of}
        result["metrics"]["selection"]["accuracy"] = score + 0.001 * config.seed * (not keep)
        if keep:
            right = [place < round(score * ROWS) for place in range(ROWS)]
            rows = [{"label": "a", "predicted": "a" if one else "b"} for one in right]
            (folder / name).mkdir(parents=True)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / "predictions-selection.jsonl").write_text(lines, encoding="utf-8")
        return Stored(run_id=name, state="finished", config=made_of, result=result)

    asked = Protocol(settings=[LORA], choose=seeds, report=(7,))
    [search] = fair(asked, lambda runs: [(run, end(run)) for run in runs])
    found = curve_of("LoRA", "lora", search, asked, Store(folder))
    assert found is not None
    return found


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
def test_neighbours_within_the_noise_of_the_rows_are_not_told_apart(
    tmp_path: Path, seeds: tuple[int, ...]
) -> None:
    # 2 of 200 rows differ: t = 1.4 over rows. 12 of 200: t = 3.6.
    scores = dict(zip(RATES, (0.74, 0.79, 0.80, 0.79, 0.74), strict=True))
    found = curve(tmp_path, scores, seeds=seeds)
    assert found.alike == (5.62e-4, 1.78e-3)
    assert found.row(None)[3] == "0.000562 to 0.00178"
    assert found.sure == (
        "How sure the rate is: rates from 0.000562 to 0.00178 are not told apart from it on the "
        "selection rows."
    )


def test_where_the_rows_tell_every_rate_apart_or_none_it_says_so(tmp_path: Path) -> None:
    clear = dict(zip(RATES, (0.5, 0.6, 0.8, None, None), strict=True))
    assert curve(tmp_path / "a", clear).sure.endswith(
        "the rates beside it are told apart from it on the selection rows."
    )
    noise = dict(zip(RATES, (0.79, 0.79, 0.80, 0.79, 0.795), strict=True))
    assert "none of the 5 rates that were tried is told apart" in curve(tmp_path / "b", noise).sure


def test_without_rows_two_seeds_tell_and_one_tells_nothing(tmp_path: Path) -> None:
    scores = dict(zip(RATES, (0.7, 0.75, 0.80, 0.75, 0.7), strict=True))
    found = curve(tmp_path, scores, keep=False)
    assert (found.alike, found.sure, found.row(None)[3]) == (None, "", "-")
    assert curve(tmp_path, scores, seeds=(0, 1), keep=False).alike is not None
