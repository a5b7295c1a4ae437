"""Sweep files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.plan import read_plan
from ailora.lab.training import RunConfig
from ailora.lab.training.settings import QA, Generation


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
        [common.generation]
        num_beams = 4
        [common.qa]
        null_threshold = 1
        [grid]
        method = ["lora", "ailora"]
        lr = [1e-3, 2]
        ranks = [{q = 8, v = 8}, {k = 16}]
        """,
    )
    (grid,) = read_plan(path)
    assert grid.common == RunConfig(
        task="cola",
        epochs=3.0,
        metrics=("mcc",),
        generation=Generation(num_beams=4),
        qa=QA(null_threshold=1),
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
        [common.generation]
        num_beams = 2
        max_new_tokens = 8
        [[grid]]
        seed = [0, 1]
        common = {rank = 2, generation = {num_beams = 1}}
        [[grid]]
        generation = [{num_beams = 3}]
        """,
    )
    first, second = read_plan(path)
    assert (first.common.rank, first.common.epochs) == (2, 1.0)
    assert first.common.generation == Generation(num_beams=1, max_new_tokens=8)
    assert second.common.rank == 4
    assert [run.generation for run in second.runs()] == [Generation(num_beams=3)]


def test_a_file_without_a_grid_is_one_run(tmp_path: Path) -> None:
    (grid,) = read_plan(written(tmp_path, "[common]\nrank = 4"))
    assert list(grid.runs()) == [RunConfig(rank=4)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[commom]\n", "'commom' is no setting; did you mean 'common'?"),
        ("[common]\nrnk = 3", "[common] 'rnk' is no setting; did you mean 'rank'?"),
        ("[common.generation]\nbeams = 3", "generation.'beams' is no setting; did you mean 'num_b"),
        ("[common]\ngeneration = 3", "generation must be a table"),
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
        ("[common]\nprecision = 16", "precision=16: must be one of auto, fp32, bf16"),
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
        read_plan(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_python_file_defines_grids(tmp_path: Path) -> None:
    text = "from ailora.lab.experiments import Grid\ngrids = Grid(axes={'seed': (0, 1)})\n"
    one = read_plan(written(tmp_path, text, "one.py"))
    several = read_plan(written(tmp_path, text + "grids = [grids, grids]\n", "several.py"))
    assert [run.seed for run in distinct(one)] == [run.seed for run in distinct(several)] == [0, 1]
    assert (len(one), len(several)) == (1, 2)


@pytest.mark.parametrize("text", ["", "grids = []", "grids = 3", "grids = [3]", "grids = 'abc'"])
def test_a_python_file_without_grids_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="defines no grids"):
        read_plan(written(tmp_path, text, "sweep.py"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml: no such file"):
        read_plan(tmp_path / "nowhere.toml")
