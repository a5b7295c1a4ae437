"""Each recipe is what the paper says it ran, and can be made without a network."""

from __future__ import annotations

import itertools
import socket
from dataclasses import replace
from functools import cache
from hashlib import sha256
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.recipes import (
    RECIPES,
    SCALES,
    TOY,
    Recipe,
    Scale,
    check_scale,
    make_recipe,
)
from ailora.lab.report.published import paper_table
from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig
from ailora.lab.training.published import published

TABLES = [name for name in RECIPES if name.startswith("table")]
FIGURES = [name for name in RECIPES if name.startswith("figure")]
# Number of runs at the smoke, small and paper scales, and a hash of the identities of all of them.
RUNS = {
    "table1": (8, 640, 2560, "6ddc16c8b8"),
    "table2": (8, 120, 160, "f2920e31c6"),
    "table3": (4, 40, 20, "7fcf5a0a91"),
    "table4": (7, 560, 720, "a9efd21760"),
    "table5": (8, 640, 1280, "820288afbb"),
    "table6": (4, 40, 120, "5a210642af"),
    "figure1": (2, 24, 110, "0c37f58eda"),
    "figure3": (4, 24, 160, "0db0b63204"),
    "figure4": (5, 30, 175, "ddaa1d83ce"),
    "figure5": (8, 144, 960, "f1573a9494"),
    "figure6": (3, 36, 480, "7069ae6b55"),
    "figure7": (5, 30, 175, "ddaa1d83ce"),
    "figure8": (4, 24, 160, "13a152d1f7"),
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a recipe asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@cache
def made(name: str, scale: Scale, **given: str) -> tuple[Recipe, list[RunConfig]]:
    recipe = make_recipe(name, scale, **given)
    return recipe, distinct(recipe.grids)


def family(model: str) -> str:
    """The paper tables' name of a model."""
    return model.rsplit("/", 1)[-1].lower().removesuffix("-hf")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_its_runs_at_every_scale(name: str, scale: Scale) -> None:
    recipe, runs = made(name, scale)
    assert recipe.name == name
    assert recipe.notes
    assert runs
    assert (recipe.beside is None) != (recipe.figure is None)
    if scale == "smoke":
        assert len(runs) <= 8
        assert {run.seed for run in runs} == {0}
    else:
        fewer = scale == "small" and name.startswith("figure")
        assert {run.seed for run in runs} == set(range(3 if fewer else 5))


def test_every_table_and_figure_of_results_has_a_recipe() -> None:
    assert set(TABLES) == {f"table{number}" for number in range(1, 7)}
    assert set(FIGURES) == {f"figure{number}" for number in (1, 3, 4, 5, 6, 7, 8)}


@pytest.mark.parametrize("name", RECIPES)
def test_the_runs_are_the_same_as_ever(name: str) -> None:
    """Finished runs are found by their identity, so a changed recipe costs them all."""
    runs = [made(name, scale)[1] for scale in SCALES]
    identities = " ".join(run.identity("") for one in runs for run in one)
    assert (*map(len, runs), sha256(identities.encode()).hexdigest()[:10]) == RUNS[name]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_at_the_papers_scale_has_its_models_methods_ranks_and_tasks(name: str) -> None:
    recipe, runs = made(name, "paper")
    assert recipe.beside == name
    table = paper_table(name)
    wanted = {
        (row.model, row.method, tuple((row.ranks or {}).items()), column.task)
        for row in table.rows
        for column in table.columns
    }
    planned = {
        (family(run.model), run.method, tuple((run.ranks or {}).items()), run.task) for run in runs
    }
    assert planned == wanted


@pytest.mark.parametrize("name", RECIPES)
def test_settings_at_the_papers_scale_are_the_published_ones(name: str) -> None:
    for run in made(name, "paper")[1]:
        settings = dict(published(run.task, run.model).settings)
        own = {"figure5": ["rank"], "table3": ["max_length"]}  # the notes say why
        for setting in ("lora_alpha", "lr", *own.get(name, [])):
            del settings[setting]
        assert {setting: getattr(run, setting) for setting in settings} == settings


@pytest.mark.parametrize("name", RECIPES)
def test_low_rank_methods_search_the_published_rates_with_every_seed(name: str) -> None:
    tried: dict[str, set[tuple[float, int]]] = {}
    wanted: dict[str, set[tuple[float, int]]] = {}
    for run in made(name, "paper")[1]:
        if run.method in ("full", "houlsby", "bitfit", "vera"):
            continue
        setting = replace(run, lr=1.0, seed=0).run_id("", "")
        tried.setdefault(setting, set()).add((run.lr, run.seed))
        rates = published(run.task, run.model).rates
        wanted[setting] = set(itertools.product(rates, range(5)))
    assert tried == wanted
    assert tried


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("scale", SCALES)
def test_no_alpha_is_set_so_the_scale_is_one_at_every_rank(name: str, scale: Scale) -> None:
    assert {run.lora_alpha for run in made(name, scale)[1]} == {None}


def test_what_the_text_states_of_the_figures() -> None:
    for name, task in (("figure3", "rte"), ("figure5", "cola")):
        runs = made(name, "paper")[1]
        assert {run.task for run in runs} == {task}
        assert {run.epochs for run in runs} == {20}
        assert {run.method for run in runs} == {"lora", "pissa", "milora", "ailora"}
    assert {run.rank for run in made("figure5", "paper")[1]} == {1, 2, 4, 8, 16, 32}
    assert {run.rank for run in made("figure3", "paper")[1]} == {8}
    assert {run.task for run in made("figure6", "paper")[1]} == {"cola", "mrpc", "rte", "stsb"}
    assert {"ailora", "reailora"} <= {run.method for run in made("figure6", "paper")[1]}
    assert {run.task for run in made("figure1", "paper")[1]} == {"cola", "sst2"}
    assert made("figure7", "paper")[1] == made("figure4", "paper")[1]


def test_figures_share_their_runs_with_the_tables() -> None:
    table = made("table1", "paper")[1]
    assert all(run in table for name in ("figure3", "figure8") for run in made(name, "paper")[1])
    four = [run for run in made("table4", "paper")[1] if run.method == "ailora"]
    assert four
    assert all(run in table for run in four)
    # The control: another number of epochs would make other runs.
    assert replace(four[0], epochs=1) not in table


def test_rank_settings_spend_one_budget() -> None:
    for run in made("table5", "paper")[1]:
        assert run.ranks is not None
        assert sum(run.ranks.values()) == 16


def test_what_could_not_be_verified_is_noted_at_the_papers_scale_alone() -> None:
    assert any("not verified" in note for note in made("table1", "paper")[0].notes)
    assert any("smoke" in note for note in made("table1", "smoke")[0].notes)
    assert not any("mnli on FacebookAI" in note for note in made("table1", "paper")[0].notes)


@pytest.mark.parametrize("name", RECIPES)
def test_data_and_model_are_the_ones_given(name: str) -> None:
    scales: tuple[Scale, ...] = ("smoke", "small")
    for scale in scales:
        runs = made(name, scale, data="sets", model="mine")[1]
        assert {run.data for run in runs} == {"sets"}
        assert {run.model for run in runs} == {"mine"}
    own = "models/llama-2-7b" if name == "table3" else "models/roberta-large"
    own = "models/bart-large" if name == "table6" else own
    assert {run.model for run in made(name, "paper", model=own)[1]} == {own}


def test_a_model_that_nothing_is_published_for_is_refused_at_the_papers_scale() -> None:
    with pytest.raises(UserError, match="no settings are published"):
        make_recipe("table1", "paper", model="demo")


@pytest.mark.parametrize("name", RECIPES)
def test_smoke_tests_have_their_rows_with_them(name: str) -> None:
    for run in made(name, "smoke")[1]:
        assert run.data in (None, str(TOY))
        assert run.task.startswith("movies") or run.data == str(TOY)


@pytest.mark.parametrize("task", ["squad_v1", "squad_v2", "arithmetic", "xsum", "cnn_dailymail"])
def test_the_rows_that_come_with_the_package_make_whole_tasks(task: str) -> None:
    found = load_task(task, data=TOY)
    assert found.train.num_rows >= 8
    assert found.selection.num_rows >= 2
    assert found.test.num_rows >= 2
    if task == "arithmetic":
        assert len(set(found.test["group"])) == 5
        assert any(note.startswith("0 training rows dropped") for note in found.notes)


def test_what_is_not_known_is_answered_with_what_is() -> None:
    with pytest.raises(UserError, match=r"'tabel1': did you mean 'table1'\?"):
        make_recipe("tabel1", "smoke")
    with pytest.raises(UserError, match="figure2"):
        make_recipe("figure2", "smoke")
    with pytest.raises(UserError, match="'big' is not known; there are smoke, small, paper"):
        check_scale("big")
