"""A grid of runs."""

from __future__ import annotations

from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.experiments.grid import Grid, distinct, merged
from ailora.lab.training import RunConfig


def test_every_combination_once_and_the_last_axis_fastest() -> None:
    grid = Grid(
        common=RunConfig(epochs=1),
        axes={"seed": (0, 1), "method": ("lora", "ailora"), "lr": (1, 2)},
    )
    runs = [(run.seed, run.method, run.lr) for run in grid.runs()]
    assert runs[:3] == [(0, "lora", 1.0), (0, "lora", 2.0), (0, "ailora", 1.0)]
    assert len(set(runs)) == len(runs) == 8
    assert {run.epochs for run in grid.runs()} == {1.0}


def test_a_grid_without_axes_is_one_run() -> None:
    assert list(Grid(common=RunConfig(rank=4)).runs()) == [RunConfig(rank=4)]


def test_any_setting_can_be_an_axis() -> None:
    ranks: list[dict[Any, int]] = [{"q": 8, "v": 8}, {"k": 16}]
    assert [run.ranks for run in Grid(axes={"ranks": ranks}).runs()] == ranks


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"sed": (0,)}, "'sed' is no setting; did you mean 'seed'?"),
        ({"qqqqq": (0,)}, "there are method, rank"),
        ({"method": ("lora", "liora")}, "liora"),
        ({"seed": ()}, "at least one"),
        ({"seed": (1, 2, 1)}, "each value once"),
        ({"lr": (1e-3, -1)}, "lr=-1"),
        ({"method": "lora"}, "a list"),
        ({"seed": 3}, "a list"),
        ({"method": ("lora", "lora:scale=unit")}, "scale='unit' is not for method 'lora'"),
        ({"method": ("pissa:scale=unit",), "scale": (2, 3)}, "scale stands in method"),
    ],
)
def test_what_is_no_grid_is_named(axes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        Grid(axes=axes)


def test_runs_of_overlapping_grids_are_done_once() -> None:
    one, other = Grid(axes={"lr": (1e-3, 2e-3)}), Grid(axes={"lr": (2e-3, 4e-3)})
    assert [run.lr for run in distinct([one, other])] == [1e-3, 2e-3, 4e-3]


def test_a_method_has_settings_of_its_own_and_what_is_equal_is_done_once() -> None:
    texts = ("pissa", "pissa:scale=unit", "pissa:lr_ratio=1", "ailora:lr_ratio=1")
    runs = [
        (run.method, run.scale, run.lr_ratio) for run in distinct([Grid(axes={"method": texts})])
    ]
    assert runs == [
        ("pissa", "sigma", None),
        ("pissa", "unit", None),
        ("ailora", "sigma", 1.0),
    ]


def test_variants_that_are_the_same_runs_are_done_once_and_said() -> None:
    one, other = "pissa:directions=random:scale=unit", "milora:directions=random:scale=unit"
    twice = "ailora:directions=random:scale=unit:lr_ratio=1"
    grid = Grid(axes={"method": [other, "pissa", one, twice], "seed": [0, 1]})
    assert [(run.method, run.seed) for run in distinct([grid])] == [
        ("milora", 0), ("milora", 1), ("pissa", 0), ("pissa", 1),
    ]  # fmt: skip
    assert merged([grid]) == [
        f"{text} and {other} are the same runs: they are done once, as the latter"
        for text in (one, twice)
    ]
    own = Grid(axes={"method": ["ailora:directions=random:scale=unit", one]})
    assert (len(distinct([own])), merged([own])) == (2, [])
