"""Runs' folders read back, against their own result files and the files of weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ailora.errors import UserError
from ailora.lab.analysis import findings
from ailora.lab.analysis.forgetting import on_texts, read_texts
from ailora.lab.analysis.layers import flat, layer_rows, weight_norms
from ailora.lab.analysis.runs import check_comparable, is_run, read_run
from ailora.roles.spectra import spectra
from tests.families import FAMILIES

Runs = dict[str, Path]
QUERY = "encoder.layer.0.attention.self.query"
TEXTS = ["the film was good", "a very poor plot and an awful end"]


@pytest.mark.parametrize("method", ["ailora", "lora"])
def test_norms_of_an_adapter_run_are_those_of_its_result(method: str, runs: Runs) -> None:
    said = json.loads((runs[method] / "result.json").read_text())["updates"]
    found = weight_norms(read_run(runs[method]).changes)
    assert len(found) == len(said) == 4
    for row, reported in zip(found, said, strict=True):
        assert f"bert.{row.name}" == reported["name"]
        assert row.norm == pytest.approx(reported["norm"], rel=1e-6)
        assert row.norm > 1e-4


def test_full_fine_tuning_is_the_difference_of_the_two_files(runs: Runs, tiny_model: Path) -> None:
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(runs["full"] / "adapter" / "model.safetensors")
    found = {row.name: row.norm for row in weight_norms(read_run(runs["full"]).changes)}
    assert len(found) == 8
    for name, norm in found.items():
        exact = after[f"bert.{name}.weight"].astype(float) - before[f"{name}.weight"].astype(float)
        assert norm == pytest.approx(float(np.linalg.norm(exact)), rel=1e-6)
        assert norm > 1e-4


def test_bitfit_moves_no_weight_but_its_model_is_another(runs: Runs, tiny_model: Path) -> None:
    run = read_run(runs["bitfit"])
    assert {row.norm for row in weight_norms(run.changes)} == {0.0}
    assert findings.on_layers(layer_rows(run.changes)) == [
        "None of the 8 projections moved (n = 8)."
    ]
    before = load_file(tiny_model / "model.safetensors")[f"{QUERY}.bias"]
    after = run.tuned.get_submodule(QUERY).bias.detach().numpy()
    saved = load_file(runs["bitfit"] / "adapter" / "ailora_method.safetensors")
    np.testing.assert_array_equal(after, saved[f"bert.{QUERY}.bias"])
    assert np.abs(after - before).max() > 1e-5


def test_houlsby_has_no_weights_to_measure_and_its_adapters_act(runs: Runs) -> None:
    run = read_run(runs["houlsby"])
    assert run.changes == []
    assert "adds layers of its own" in findings.on_layers(layer_rows(run.changes))[0]
    assert on_texts(run, TEXTS).drift.relative > 1e-4


def test_vera_is_measured_by_merging(runs: Runs) -> None:
    rows = layer_rows(read_run(runs["vera"]).changes)
    assert [row.role for row in rows] == ["q", "v", "q", "v"]
    assert min(row.norm for row in rows) > 1e-6
    assert all(row.start is None and row.intruders is not None for row in rows)


def test_rows_beside_full_fine_tuning_have_both_similarities(runs: Runs) -> None:
    run, full = read_run(runs["ailora"]), read_run(runs["full"])
    assert check_comparable(run, full) == []
    rows = layer_rows(run.changes, full.changes)
    for row in rows:
        assert row.factors is not None
        assert row.update is not None
        assert 0 <= (row.factors.left or -1) <= 1
        assert row.factors.left != row.update.left
        assert flat(row)["random_left"] == 2 / 32
        assert 1 <= row.effective_rank <= 4
    said = " ".join(findings.on_layers(rows))
    assert "n = 4" in said
    assert "chance 0.062" in said
    assert "start included" in said
    assert "of 2 layers" in said


def test_unlike_runs_are_refused_or_their_difference_is_said(runs: Runs, tmp_path: Path) -> None:
    run, full = read_run(runs["ailora"]), read_run(runs["full"])
    with pytest.raises(UserError, match="method 'full'"):
        check_comparable(run, read_run(runs["lora"]))
    copied = shutil.copytree(runs["full"], tmp_path / "full")
    result = json.loads((copied / "result.json").read_text())
    result["config"]["seed"], result["data"]["fingerprint"] = 7, "other"
    (copied / "result.json").write_text(json.dumps(result))
    notes = check_comparable(run, read_run(copied))
    assert len(notes) == 2
    assert "seed 7, this run 0" in notes[1]
    full_of_another = type(full)(**{**vars(full), "model": "another"})
    with pytest.raises(UserError, match="one base model"):
        check_comparable(run, full_of_another)


def test_an_unfinished_run_and_a_foreign_folder_are_told_apart(
    runs: Runs, tmp_path: Path, tiny_model: Path
) -> None:
    copied = shutil.copytree(runs["ailora"], tmp_path / "run")
    assert is_run(copied)
    assert not is_run(tmp_path)
    assert not is_run(tiny_model)
    (copied / "result.json").unlink()
    with pytest.raises(UserError, match="no finished run"):
        read_run(copied)
    (copied / "result.json").write_text('{"schema": 3, "metrics": {}, "data": {}}')
    with pytest.raises(UserError, match="is damaged: it has no config"):
        read_run(copied)


@pytest.mark.parametrize("method", ["ailora", "bitfit", "full"])
def test_every_kind_of_run_moves_hidden_states(method: str, runs: Runs) -> None:
    found = on_texts(read_run(runs[method]), TEXTS)
    assert found.drift.relative > 1e-4
    assert found.drift.tokens == 6 + 10
    assert found.forgetting is None
    assert "no head that predicts tokens" in found.reason


def test_texts_are_the_lines_that_have_some(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\n\n  two \n", encoding="utf-8")
    assert read_texts(path) == ["one", "two"]
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match="has no text"):
        read_texts(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="UTF-8"):
        read_texts(path)


def test_words_on_spectra_say_the_share_and_how_many() -> None:
    lines = findings.on_spectra(spectra(FAMILIES["bert"](), rank=4))
    assert [line[0] for line in lines] == ["q", "k", "v", "o"]
    assert all("n = 2 weights" in line for line in lines)
    assert "principal 4 hold" in lines[0]
    assert "minor 4 hold" in lines[2]
    assert "hold" not in lines[1]


def test_reading_a_run_trains_nothing(runs: Runs) -> None:
    run = read_run(runs["ailora"])
    assert not any(value.requires_grad for value in run.tuned.parameters())
    assert not any(change.matrix().requires_grad for change in run.changes)
    assert torch.is_grad_enabled()
