"""Published settings make runs, cite every value, and say what could not be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from ailora.errors import UserError
from ailora.lab.settings import RunConfig
from ailora.lab.tasks.classification.glue import GLUE
from ailora.lab.training.published import Published, published, published_tasks

EVERY = [(task, family) for family, tasks in published_tasks().items() for task in tasks]


@pytest.fixture(params=EVERY, ids="-".join)
def recipe(request: pytest.FixtureRequest) -> Iterator[Published]:
    yield published(*request.param)


def test_the_paper_has_these_tasks_on_these_models() -> None:
    squad = {(name, "roberta-large") for name in ("squad_v1", "squad_v2")}
    summaries = {(name, "bart-large") for name in ("xsum", "cnn_dailymail")}
    glue = {(name, family) for name in GLUE for family in ("roberta-large", "deberta-v3-base")}
    assert set(EVERY) == glue | squad | summaries | {("arithmetic", "llama-2-7b")}


def test_settings_are_those_of_a_run(recipe: Published) -> None:
    config = RunConfig(**recipe.settings)
    for name, value in recipe.settings.items():
        assert getattr(config, name) == value


def test_every_value_has_a_source_and_every_source_a_value(recipe: Published) -> None:
    assert set(recipe.sources) == {*recipe.settings, "rates", "seeds"}
    for name, source in recipe.sources.items():
        assert any(work in source for work in ("AILoRA", "PiSSA", "AdaLoRA", "LLM-Adapters")), name


def test_what_could_not_be_read_says_so_and_nothing_else_does(recipe: Published) -> None:
    said = {name for name, source in recipe.sources.items() if "not verified" in source}
    assert said == recipe.unverified


def test_the_rate_of_a_single_run_is_one_of_the_grid(recipe: Published) -> None:
    assert recipe.settings["lr"] in recipe.rates
    assert list(recipe.rates) == sorted(set(recipe.rates))


def test_alpha_is_the_rank_and_is_said_to_be_chosen(recipe: Published) -> None:
    assert recipe.settings["lora_alpha"] == recipe.settings["rank"]
    assert "chosen here" in recipe.sources["lora_alpha"]


def test_a_recipe_cannot_be_changed(recipe: Published) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seeds = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        recipe.settings["rank"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("task", "model", "stated"),
    [
        ("cola", "roberta-large", {"rank": 8, "epochs": 20}),
        ("rte", "roberta-large", {"rank": 8, "epochs": 20}),
        ("squad_v1", "roberta-large", {"rank": 8, "epochs": 3}),
        ("squad_v2", "roberta-large", {"rank": 8, "epochs": 2}),
        ("arithmetic", "llama-2-7b", {"rank": 32, "epochs": 3, "lr": 3e-4, "warmup_ratio": 0.03}),
        ("xsum", "bart-large", {"rank": 8, "epochs": 15, "batch_size": 64}),
        ("cnn_dailymail", "bart-large", {"rank": 8, "epochs": 15, "batch_size": 32}),
    ],
)
def test_what_the_paper_states_is_taken_from_it(
    task: str, model: str, stated: dict[str, float]
) -> None:
    recipe = published(task, model)
    assert recipe.seeds == 5
    for name, value in stated.items():
        assert recipe.settings[name] == value
        assert recipe.sources[name].startswith("AILoRA ")
        assert name not in recipe.unverified


def test_the_papers_grids_and_beams_are_taken_from_it() -> None:
    assert published("squad_v2", "roberta-large").rates == (1e-4, 2e-4, 3e-4, 4e-4)
    assert published("xsum", "bart-large").rates == (5e-5, 1e-4, 5e-4)
    assert published("arithmetic", "llama-2-7b").rates == (3e-4,)
    assert published("xsum", "bart-large").settings["num_beams"] == 8
    assert published("cnn_dailymail", "bart-large").settings["num_beams"] == 4
    assert published("arithmetic", "llama-2-7b").settings["loss_on"] == "sequence"


def test_on_glue_epochs_and_batches_are_pissas() -> None:
    # PiSSA v4, appendix L, table 10: epochs, batch.
    deberta = {
        "mnli": (5, 16),
        "sst2": (20, 16),
        "mrpc": (20, 32),
        "cola": (20, 16),
        "qnli": (10, 32),
        "qqp": (10, 16),
        "rte": (50, 16),
        "stsb": (20, 8),
    }
    for task, expected in deberta.items():
        recipe = published(task, "deberta-v3-base")
        assert (recipe.settings["epochs"], recipe.settings["batch_size"]) == expected
        assert not recipe.unverified
    read = {"mnli", "sst2"}  # the rows of the RoBERTa-large table that another work restates whole
    assert {task for task in GLUE if not published(task, "roberta-large").unverified} == read


def test_conflicts_between_sources_are_noted() -> None:
    assert any("5e-5" in note for note in published("mnli", "deberta-v3-base").notes)
    assert any("1.33M" in note for note in published("rte", "deberta-v3-base").notes)
    assert any("25 for XSum" in note for note in published("xsum", "bart-large").notes)


def test_warm_up_in_steps_becomes_a_share_of_the_official_runs_steps() -> None:
    # 204,045 rows of XSum in batches of 64 are 3,189 steps an epoch; 287,113 of CNN in 32s 8,973.
    assert published("xsum", "bart-large").settings["warmup_ratio"] == pytest.approx(
        3000 / (15 * 3189), abs=1e-4
    )
    assert published("cnn_dailymail", "bart-large").settings["warmup_ratio"] == pytest.approx(
        3000 / (15 * 8973), abs=1e-4
    )


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("glue/cola", "FacebookAI/roberta-large"),
        ("cola", "models/RoBERTa-Large/"),
        ("sst2", "microsoft/deberta-v3-base"),
        ("arithmetic", "meta-llama/Llama-2-7b-hf"),
        ("xsum", "facebook/bart-large"),
    ],
)
def test_hub_names_and_folders_find_their_family(task: str, model: str) -> None:
    assert published(task, model).settings["rank"] in (8, 32)


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("movies", "roberta-large"),
        ("cola", "demo"),
        ("cola", "FacebookAI/roberta-large-mnli"),
        ("xsum", "facebook/bart-large-cnn"),
        ("squad_v1", "microsoft/deberta-v3-base"),
    ],
)
def test_what_is_not_published_is_answered_with_what_is(task: str, model: str) -> None:
    with pytest.raises(UserError) as caught:
        published(task, model)
    message = str(caught.value)
    assert repr(task) in message
    assert repr(model) in message
    assert "sst2" in message
    assert "xsum, cnn_dailymail on bart-large" in message
    assert "\n" not in message
