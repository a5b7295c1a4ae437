"""``ailora train`` and ``ailora score`` on the paper's tasks, from local folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Call, check_refused
from tests.conftest import sentences, write_csv
from tests.lab.tasks.generation.arithmetic_sets import record, write_all
from tests.lab.training.decoders import save_decoder

QUICK = "--rank 2 --epochs 0.5 --batch-size 4 --max-new-tokens 2"


@pytest.fixture
def roberta(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that is called as one that settings are published for."""
    link = tmp_path / "roberta-large"
    link.symlink_to(tiny_model)
    return link


@pytest.fixture
def cola(tmp_path: Path) -> Path:
    """GLUE's CoLA in its own columns."""
    for seed, (part, count) in enumerate((("train", 60), ("dev", 20))):
        rows = [(text, int(feeling > 0)) for text, feeling in sentences(count, seed=seed)]
        write_csv(tmp_path / "glue" / "cola" / f"{part}.csv", ("sentence", "label"), rows)
    return tmp_path / "glue"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    return write_all(tmp_path / "sets")


def only_result(out: str = "runs") -> dict[str, Any]:
    (path,) = Path(out).glob("*/result.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_papers_settings_are_taken_where_none_are_given(
    call: Call, roberta: Path, cola: Path
) -> None:
    ended = call(f"train --task cola --data {cola} --model {roberta} --preset paper --epochs 1")
    assert ended.code == 0, ended.err
    config = only_result()["config"]
    # AILoRA section 4.1 (rank); PiSSA's table for RoBERTa-large, CoLA (batch, rate)
    published = {"rank": 8, "lora_alpha": 8.0, "lr": 4e-4, "batch_size": 16, "max_length": 128}
    assert {name: config[name] for name in published} == published
    assert (config["warmup_ratio"], config["weight_decay"]) == (0.0, 0.0)
    assert config["epochs"] == 1, "what the user gives goes before the published 20"
    assert next(iter(only_result()["metrics"]["test"])) == "mcc"
    told = " ".join(ended.out.split())
    assert "here nothing is chosen by the reported split" in told
    assert "batch_size: not verified: PiSSA v2/v3" in told


def test_there_is_one_preset_and_it_needs_a_model_that_something_is_published_for(
    call: Call, tiny_model: Path, roberta: Path, cola: Path
) -> None:
    where = f"train --task cola --data {cola} --model"
    check_refused(call(f"{where} {roberta} --preset pissa"), "--preset 'pissa': there is only")
    check_refused(call(f"{where} {tiny_model} --preset paper"), "no settings are published for")
    assert not Path("runs").exists()


def test_arithmetic_is_tested_on_the_sets_named(call: Call, decoder: Path, sets: Path) -> None:
    asked = f"--task arithmetic --data {sets} --model {decoder} --max-length 220"
    ended = call(f"train {asked} {QUICK} --tests svamp,addsub")
    assert ended.code == 0, ended.err
    assert list(only_result()["by_group"]["test"]) == ["svamp", "addsub"]
    (folder,) = Path("runs").iterdir()
    again = call(f"score {folder} --tests gsm8k")
    assert again.code == 0, again.err
    assert "gsm8k" in again.out
    assert "svamp" not in again.out
    check_refused(
        call(f"score {folder} --tests nosuch"),
        "nosuch does not exist; data is the folder that holds nosuch/",
    )


def test_a_comparison_has_the_same_options(call: Call, decoder: Path, sets: Path) -> None:
    asked = f"--task arithmetic --data {sets} --model {decoder} --max-length 220 --tests svamp"
    ended = call(f"compare {asked} {QUICK} --max-source-tokens 40 --methods lora --seeds 0")
    assert ended.code == 0, ended.err
    (path,) = Path("comparison/runs").glob("*/result.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert list(found["by_group"]["test"]) == ["svamp"]
    assert found["config"]["max_source_tokens"] == 40


def test_a_file_of_problems_is_learned_instead(
    call: Call, decoder: Path, sets: Path, tmp_path: Path
) -> None:
    own = tmp_path / "math10k.json"
    own.write_text(json.dumps([record(f"Own {n}?", n) for n in range(5)]))
    asked = f"--task arithmetic --data {sets} --model {decoder} --max-length 220 --tests svamp"
    ended = call(f"train {asked} {QUICK} --train-file {own}")
    assert ended.code == 0, ended.err
    assert only_result()["data"]["train"] == 5


def test_other_tasks_have_no_use_for_these_options(call: Call, cola: Path) -> None:
    ended = call(f"train --task cola --data {cola} --tests svamp")
    check_refused(ended, "task 'cola' takes no tests: leave it out")


def test_tokens_of_a_source_are_the_runs_setting(call: Call, decoder: Path, tmp_path: Path) -> None:
    rows = [{"document": f"news {n} " * 30, "summary": f"s {n}"} for n in range(12)]
    folder = tmp_path / "sets" / "scitldr"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = f"--task scitldr --data {folder.parent} --model {decoder} --metrics exact"
    ended = call(f"train {asked} {QUICK} --max-source-tokens 20")
    assert ended.code == 0, ended.err
    assert only_result()["config"]["max_source_tokens"] == 20
    # The set's own 512 tokens are more than this model reads.
    check_refused(
        call(f"train {asked} {QUICK} --out others"), "lower one of them, or max_source_tokens"
    )
    check_refused(
        call(f"train {asked} --max-source-tokens 0"), "--max-source-tokens 0: must be at least 1"
    )


@pytest.mark.parametrize("command", ["train", "compare --methods lora --seeds 0", "sweep"])
def test_what_was_read_is_said_before_the_runs(
    call: Call, tiny_model: Path, tmp_path: Path, command: str
) -> None:
    rows = [(f"{text} {n}", feeling > 0) for n, (text, feeling) in enumerate(sentences(40, seed=1))]
    write_csv(tmp_path / "mail.csv", ("body", "urgent"), rows)
    write_csv(tmp_path / "old.csv", ("body", "urgent"), [(rows[0][0].upper(), True), *rows[1:6]])
    settings = {"task": str(tmp_path / "mail.csv"), "dev": str(tmp_path / "old.csv")}
    settings |= {"model": str(tiny_model), "label": "urgent", "positive": "False"}
    if command == "sweep":
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        common = "\n".join(["[common]", *lines, 'text = ["body"]', "rank = 2", "epochs = 1"])
        Path("s.toml").write_text(f'{common}\n[grid]\nmethod = ["lora"]\n')
        ended = call("sweep s.toml --workers 1 --threads 1 --no-estimate")
    else:
        options = " ".join(f"--{name} {value}" for name, value in settings.items())
        ended = call(f"{command} {options} --text body --rank 2 --epochs 1")
    assert ended.code == 0, ended.err
    for said in (
        "mail.csv: classification on texts (text 'body', label 'urgent')",
        "f1 is of 'False'",
        "test rows have a text that train has too (case and spaces aside)",
        "no test split given: the 6 dev rows are the test split",
    ):
        assert ended.out.count(said) == 1, ended.out
    if command == "train":
        notes = only_result()["data"]["notes"]
        assert any("classes and their training rows: False" in note for note in notes)
        assert "f1 of False" in ended.out
