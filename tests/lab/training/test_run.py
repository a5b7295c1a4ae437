"""A run from settings to a folder whose contents can be checked without this library."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy import stats
from sklearn import metrics as sk
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ailora.files import write_json
from ailora.lab.tasks import TextTask, load_task
from ailora.lab.training import RunConfig, run, train
from ailora.lock import LOCK
from tests.conftest import sentences, write_csv
from tests.other_process import run_elsewhere


def folder_of(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def stock_logits(adapter: Path, model: str, task: TextTask) -> np.ndarray[Any, Any]:
    """Logits of the test split, row by row without padding, from stock transformers and PEFT."""
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=task.num_outputs)
    tuned = PeftModel.from_pretrained(base, str(adapter)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    logits = []
    for row in task.test:
        texts = [row["text"]] + ([row["text_pair"]] if task.has_pair else [])
        with torch.no_grad():
            logits.append(tuned(**tokenizer(*texts, return_tensors="pt")).logits[0])
    return torch.stack(logits).double().numpy()


@pytest.fixture(scope="module")
def done(
    config: RunConfig, task: TextTask, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("runs")
    return train(config, task, out), folder_of(out)


def test_a_finished_folder_holds_the_settings_the_curve_the_scores_and_the_adapter(
    done: tuple[dict[str, Any], Path], config: RunConfig
) -> None:
    result, folder = done
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter",
        "config.json",
        "metrics.jsonl",
        "predictions-selection.jsonl",
        "predictions-test.jsonl",
        "result.json",
    ]
    assert json.loads((folder / "result.json").read_text()) == result
    settings = json.loads((folder / "config.json").read_text())
    assert settings["config"] == result["config"]
    assert settings["config"]["lr"] == config.lr
    assert settings["data"] == result["data"]["fingerprint"]
    answers = (folder / "predictions-test.jsonl").read_text().splitlines()
    right = [row["label"] == row["predicted"] for row in map(json.loads, answers)]
    assert len(right) == result["data"]["test"]
    assert sum(right) / len(right) == result["metrics"]["test"]["accuracy"]
    # A package's own version lacks the "+cu130" that some builds of torch add.
    assert torch.__version__.startswith(settings["environment"]["torch"])
    assert settings["environment"]["torch"].startswith("2.")


def test_the_result_says_all_that_a_comparison_needs(done: tuple[dict[str, Any], Path]) -> None:
    result, _ = done
    assert result["data"]["train"] == 48
    assert result["data"]["test"] == 20
    assert result["data"]["labels"] == ["neg", "pos"]
    assert result["data"]["metric"] == "accuracy"
    assert list(result["metrics"]) == ["selection", "test"]
    assert list(result["metrics"]["test"]) == ["accuracy", "f1", "mcc"]
    # two layers, q and v: D_A (2 x 32) and D_B (32 x 2) each; the head is 2 x 32 and a bias
    assert result["parameters"]["adapter"] == 2 * 2 * 2 * 64
    assert result["parameters"]["head"] == 66
    assert result["step0_deviation"] == 0.0
    assert [update["role"] for update in result["updates"]] == ["q", "v", "q", "v"]
    assert all(update["norm"] > 0 for update in result["updates"])
    assert all(seconds > 0 for seconds in result["seconds"].values())


def test_the_curve_has_the_start_and_every_epoch(done: tuple[dict[str, Any], Path]) -> None:
    result, folder = done
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == result["history"]
    assert [line["step"] for line in lines] == [0, 6, 12, 18]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["loss"] is None
    assert lines[-1]["loss"] < lines[1]["loss"]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert result["seconds"]["train"] == seconds[-1]


def test_the_curve_ends_at_the_last_step_where_evaluations_do_not_divide_the_run(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    result = train(replace(config, epochs=1.25, evaluations=3), task, tmp_path)
    assert [line["step"] for line in result["history"]] == [0, 3, 6, 8]


def test_the_scores_are_those_of_the_saved_adapter_in_stock_peft(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    result, folder = train(replace(config, epochs=12, lr=1e-2), task, tmp_path), folder_of(tmp_path)
    chosen = stock_logits(folder / "adapter", config.model, task).argmax(axis=1)
    labels = np.asarray(task.test["label"])
    assert len(set(chosen)) == 2, "a constant answer would hide a wrong adapter"
    assert result["metrics"]["test"] == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, chosen),
            "f1": sk.f1_score(labels, chosen),
            "mcc": sk.matthews_corrcoef(labels, chosen),
        }
    )
    assert result["majority"] == pytest.approx(max(labels.mean(), 1 - labels.mean()))


@pytest.mark.parametrize("pairs", [False, True], ids=["one text", "two texts"])
def test_regression_is_scored_as_stock_peft_predicts(
    pairs: bool, config: RunConfig, tmp_path: Path
) -> None:
    rows = [(text, "the film", score + 0.5) for text, score in sentences(60)]
    file = write_csv(tmp_path / "scores.csv", ("a", "b", "score"), rows)
    asked = replace(
        config,
        task=str(file),
        text=("a", "b") if pairs else ("a",),
        label="score",
        epochs=2,
        precision="fp32",  # as the stock model below
    )
    task = load_task(asked.task, **asked.task_options())
    assert task.has_pair is pairs
    result = train(asked, task, tmp_path / "out")
    adapter = folder_of(tmp_path / "out") / "adapter"
    predicted = stock_logits(adapter, config.model, task)[:, 0]
    labels = np.asarray(task.test["label"])
    assert result["majority"] is None
    assert result["metrics"]["test"] == pytest.approx(
        {
            "pearson": stats.pearsonr(predicted, labels).statistic,
            "spearman": stats.spearmanr(predicted, labels).statistic,
        },
        abs=1e-5,
    )


@pytest.mark.parametrize("method", ["lora", "pissa", "milora", "reailora"])
def test_every_method_trains(
    method: str, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    result = train(replace(config, method=method, epochs=1), task, tmp_path)
    assert folder_of(tmp_path).name.startswith(f"{method}-reviews-")
    assert result["step0_deviation"] == 0.0
    assert result["parameters"]["adapter"] == 512


def test_the_folded_form_moves_step_0_by_rounding_alone(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    result = train(replace(config, anchored=False, epochs=1), task, tmp_path)
    assert 0 < result["step0_deviation"] < 1e-5


def test_a_finished_run_is_returned_without_training(
    done: tuple[dict[str, Any], Path], config: RunConfig, task: TextTask
) -> None:
    result, folder = done
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def fail(*_: Any) -> None:
        raise AssertionError("it trained")

    for resume in (False, True):
        again = train(config, task, folder.parent, resume=resume, on_progress=fail)
        assert again == result
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_what_a_process_left_that_was_killed_right_after_the_result_is_removed(
    done: tuple[dict[str, Any], Path], config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    result, whole = done
    folder = shutil.copytree(whole, tmp_path / whole.name)
    dead = {"host": "here", "machine": "gone", "pid": 1, "started": 0.0, "token": "0"}
    write_json(folder / LOCK, dead)
    os.utime(folder / LOCK, (0, 0))
    write_json(folder / "checkpoints" / "checkpoint-3" / "state.json", {})
    assert train(config, task, tmp_path) == result
    assert names_below(folder) == names_below(whole)


def test_every_step_is_told(config: RunConfig, task: TextTask, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    asked = replace(config, epochs=1)
    train(asked, task, tmp_path, on_progress=lambda *said: told.append(said))
    told = [(step, steps) for step, steps, what in told if what == "training"]
    assert told == [(step, 6) for step in range(1, 7)]


def test_the_folder_is_named_alike_in_another_process(
    done: tuple[dict[str, Any], Path], config: RunConfig
) -> None:
    code = (
        "from ailora.lab.training import RunConfig; from ailora.lab.tasks import load_task;"
        f"config = {config!r}; task = load_task(config.task, **config.task_options());"
        "print(config.run_id(task.name, task.fingerprint))"
    )
    assert run_elsewhere(code).strip() == done[1].name


def test_only_some_rows_are_evaluated_on_the_way_and_all_at_the_end(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    result = train(replace(config, monitor_rows=3, epochs=1), task, tmp_path)
    assert all((3 * line["accuracy"]) % 1 == pytest.approx(0) for line in result["history"])
    assert (20 * result["metrics"]["selection"]["accuracy"]) % 1 == pytest.approx(0)


def test_settings_that_are_passed_on_reach_trainer(
    config: RunConfig, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def stop(trainer: Any, checkpoint: Path | None) -> None:
        seen.update({name: getattr(trainer.args, name) for name in config.trainer_options()})
        raise RuntimeError("seen")

    monkeypatch.setattr(run, "run_to_end", stop)
    others = {"lr_scheduler_type": "cosine", "max_grad_norm": 0.25, "weight_decay": 0.5}
    others |= {"optim": "sgd", "seed": 3}
    assert config.trainer_options().keys() == others.keys()
    with pytest.raises(RuntimeError, match="seen"):
        train(replace(config, **others), task, tmp_path)
    assert seen == others
