"""The sweep file that a report holds does exactly the runs that it reports."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.plan import read_plan
from ailora.lab.experiments.repeat import repeat_plan
from ailora.lab.training import RunConfig
from ailora.lab.training.settings import QA, Generation

ODD = RunConfig(
    method="lora",
    model='fold"er \\ with\nline \x7f é',
    task="squad_v2",
    data="/data",
    ranks={"q": 8, "k": 4},
    lr=1e-05,
    alpha=3,
    generation=Generation(loss_on="sequence", num_beams=4),
    qa=QA(null_threshold=-1.5),
    text=("first", "second"),
    regression=True,
    seed=2**32 - 1,
    evaluations=4,
)


def again(configs: list[RunConfig], tmp_path: Path) -> list[RunConfig]:
    """The runs of the file, from settings as a result.json holds them."""
    path = tmp_path / "again.toml"
    stored: list[dict[str, Any]] = [json.loads(json.dumps(asdict(config))) for config in configs]
    path.write_text(repeat_plan(stored), encoding="utf-8")
    return distinct(read_plan(path))


def ids(configs: list[RunConfig]) -> list[str]:
    return sorted(config.run_id("t", "0") for config in configs)


def grid() -> list[RunConfig]:
    axes = itertools.product(("lora", "ailora"), ("movies", "cola"), (1e-3, 2e-3), (0, 1, 2))
    return [RunConfig(method=m, task=t, lr=lr, seed=s) for m, t, lr, s in axes]


@pytest.mark.parametrize("case", range(6))
def test_the_file_has_the_same_runs_however_many_of_a_grid_are_missing(
    tmp_path: Path, case: int
) -> None:
    draw = random.Random(case)  # noqa: S311
    configs = draw.sample(grid(), 3 + 4 * case)
    configs += [RunConfig(method="full", lr=1e-4, seed=s) for s in (0, 7)]
    assert ids(again(configs, tmp_path)) == ids(configs)


def test_settings_of_every_kind_come_back(tmp_path: Path) -> None:
    configs = [ODD, RunConfig()]
    assert ids(again(configs, tmp_path)) == ids(configs)


def test_a_whole_grid_is_one_grid(tmp_path: Path) -> None:
    text = repeat_plan(asdict(config) for config in grid())
    assert text.count("[[grid]]") == 1
    assert 'method = ["lora", "ailora"]' in text
    assert ids(again(grid(), tmp_path)) == ids(grid())


def test_another_setting_gives_another_file() -> None:
    one, other = asdict(RunConfig()), asdict(RunConfig(epochs=3))
    assert repeat_plan([one]) != repeat_plan([other])
    assert "epochs = 3.0" in repeat_plan([other])
