"""Sweep files: what is read from them, and that a written one does exactly the given runs."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.experiments.grid import Grid, distinct
from ailora.lab.experiments.sweep_file import read_sweep_file, sweep_file_text
from ailora.lab.training import RunConfig


def written(tmp_path: Path, text: str, name: str = "sweep.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_common_settings_and_axes(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [common]
        task = "cola"
        epochs = 3
        metrics = ["mcc"]
        num_beams = 4
        null_threshold = 1
        [grid]
        method = ["lora", "ailora"]
        lr = [1e-3, 2]
        ranks = [{q = 8, v = 8}, {k = 16}]
        """,
    )
    (grid,) = read_sweep_file(path)
    assert grid.common == RunConfig(
        task="cola",
        epochs=3.0,
        metrics=("mcc",),
        num_beams=4,
        null_threshold=1,
    )
    assert list(grid.axes) == ["method", "lr", "ranks"]
    assert [run.lr for run in grid.runs()][::2] == [1e-3, 2.0, 1e-3, 2.0]
    assert len(distinct([grid])) == 8


def test_each_grid_s_common_is_laid_over_the_shared_one(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [common]
        rank = 4
        epochs = 1
        num_beams = 2
        max_new_tokens = 8
        [[grid]]
        seed = [0, 1]
        common = {rank = 2, num_beams = 1}
        [[grid]]
        num_beams = [3]
        """,
    )
    first, second = read_sweep_file(path)
    assert (first.common.rank, first.common.epochs) == (2, 1.0)
    assert (first.common.num_beams, first.common.max_new_tokens) == (1, 8)
    assert second.common.rank == 4
    assert [(run.num_beams, run.max_new_tokens) for run in second.runs()] == [(3, 8)]


def test_a_file_without_a_grid_is_one_run(tmp_path: Path) -> None:
    (grid,) = read_sweep_file(written(tmp_path, "[common]\nrank = 4"))
    assert list(grid.runs()) == [RunConfig(rank=4)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[commom]\n", "'commom' is no setting; did you mean 'common'?"),
        ("[common]\nrnk = 3", "[common] 'rnk' is no setting; did you mean 'rank'?"),
        ("[common]\nbeams = 3", "[common] 'beams' is no setting; did you mean 'num_beams'?"),
        ("[common.generation]\nnum_beams = 3", "[common] 'generation' is no setting; "),
        ("[grid]\nsede = [3]", "[grid] 'sede' is no setting; did you mean 'seed'?"),
        ("[grid]\nseed = 3", "[grid] seed=3: give a list of values"),
        ("[grid]\nseed = []", "seed=[]: give a list of at least one value"),
        ("[grid]\nseed = [1, 1]", "give each value once"),
        ("[grid]\nmethod = ['liora']", "liora"),
        ("[grid]\nlr = ['fast']", "[grid] lr='fast': must be a number"),
        ("[common]\nrank = 8.5", "[common] rank=8.5: must be a whole number"),
        ("[common]\nrank = true", "rank=True: must be a whole number"),
        ("[common]\nregression = 1", "regression=1: must be true or false"),
        ("[common]\ntext = 'body'", "text='body': must be a list of texts"),
        ("[common]\nranks = [1]", "ranks=[1]: must be a table"),
        ("[common]\nprecision = 16", "precision=16: must be auto or fp32 or bf16"),
        ("[common]\nepochs = -1", "epochs=-1"),
        ("common = 3", "[common] must be a table"),
        ("grid = []", "grid=[]"),
        ("grid = [3]", "[grid] must be a table"),
        ("[common", "cannot be read as TOML"),
        ("\xff", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_in_one_line(
    text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as refused:
        read_sweep_file(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_python_file_defines_grids(tmp_path: Path) -> None:
    text = "from ailora.lab.experiments import Grid\ngrids = Grid(axes={'seed': (0, 1)})\n"
    one = read_sweep_file(written(tmp_path, text, "one.py"))
    several = read_sweep_file(written(tmp_path, text + "grids = [grids, grids]\n", "several.py"))
    assert [run.seed for run in distinct(one)] == [run.seed for run in distinct(several)] == [0, 1]
    assert (len(one), len(several)) == (1, 2)


@pytest.mark.parametrize("text", ["", "grids = []", "grids = 3", "grids = [3]", "grids = 'abc'"])
def test_a_python_file_without_grids_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="defines no grids"):
        read_sweep_file(written(tmp_path, text, "sweep.py"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml: no such file"):
        read_sweep_file(tmp_path / "nowhere.toml")


ODD = RunConfig(
    method="lora",
    model='fold"er \\ with\nline \x7f é',
    task="squad_v2",
    data="/data",
    ranks={"q": 8, "k": 4},
    lr=1e-05,
    lora_alpha=3,
    loss_on="sequence",
    num_beams=4,
    null_threshold=-1.5,
    text=("first", "second"),
    regression=True,
    seed=2**32 - 1,
    evaluations=4,
)


def again(configs: list[RunConfig], tmp_path: Path) -> list[RunConfig]:
    """The runs of the file, from settings as a result.json holds them."""
    path = tmp_path / "again.toml"
    stored: list[dict[str, Any]] = [json.loads(json.dumps(asdict(config))) for config in configs]
    path.write_text(sweep_file_text(stored), encoding="utf-8")
    return distinct(read_sweep_file(path))


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
    text = sweep_file_text(asdict(config) for config in grid())
    assert text.count("[[grid]]") == 1
    assert 'method = ["lora", "ailora"]' in text
    assert ids(again(grid(), tmp_path)) == ids(grid())


VARIED = ("lora", "lora:lr_ratio=2", "pissa:directions=random:scale=unit", "milora:scale=0.5")


@pytest.mark.parametrize("methods", [VARIED, VARIED[1:2]], ids=["several", "one"])
def test_methods_with_settings_of_their_own_are_values_of_one_axis(
    methods: tuple[str, ...], tmp_path: Path
) -> None:
    configs = list(Grid(axes={"method": methods, "seed": (0, 1)}).runs())
    text = sweep_file_text(asdict(config) for config in configs)
    assert text.count("[[grid]]") == 1
    assert ("method = [" in text) == (len(methods) > 1)
    assert ids(again(configs, tmp_path)) == ids(configs)


def test_another_setting_gives_another_file() -> None:
    one, other = asdict(RunConfig()), asdict(RunConfig(epochs=3))
    assert sweep_file_text([one]) != sweep_file_text([other])
    assert "epochs = 3.0" in sweep_file_text([other])


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    path.write_bytes(b"\xef\xbb\xbf[common]\r\nrank = 4\r\n")
    assert [run.rank for run in distinct(read_sweep_file(path))] == [4]


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n", "[common]\n", "[common]\n[grid]\n"])
def test_a_file_that_asks_for_nothing_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.toml: nothing to do"):
        read_sweep_file(written(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "[common]\nrank = 4\n[grid]\nrank = [8, 16]\n",
        "[[grid]]\nrank = [8]\ncommon = {rank = 4}\n",
    ],
)
def test_a_setting_in_common_and_in_the_grid_is_refused_by_name(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'rank' stands in \[common\] and in \[grid\]"):
        read_sweep_file(written(tmp_path, text))


@pytest.mark.parametrize("rate", [1e9, 1e-5, 2.5e-3, 0.12345678901234, 3.0])
def test_a_rate_comes_back_to_the_last_digit(rate: float, tmp_path: Path) -> None:
    text = sweep_file_text([asdict(RunConfig(lr=rate))])
    assert [run.lr for run in distinct(read_sweep_file(written(tmp_path, text)))] == [rate]
