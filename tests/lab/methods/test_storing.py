"""Files of the methods: what is written, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from ailora.errors import UserError
from ailora.lab.methods import METHODS, load, merge, restore, save
from ailora.lab.settings import RunConfig
from tests.adapters.models import logits
from tests.families import FAMILIES
from tests.lab.methods.models import adapted, batch_of, bert_qa, fresh, step

KEPT = ("full", "bitfit", "houlsby")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(adapted("minilm", "houlsby"), tmp_path)
    return tmp_path


def test_only_what_is_learned_is_written(tmp_path: Path) -> None:
    for name in ("bitfit", "houlsby"):
        model = adapted("minilm", name)
        save(model, tmp_path / name)
        trained = {key for key, value in model.named_parameters() if value.requires_grad}
        assert set(load_file(tmp_path / name / "ailora_method.safetensors")) == trained


def test_a_loaded_method_can_be_saved_again(saved: Path, tmp_path: Path) -> None:
    save(load(fresh("minilm"), saved), tmp_path / "again")
    for name in ("ailora_method.safetensors", "ailora_method.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


@pytest.mark.parametrize("name", ["houlsby", "bitfit", "full", "ailora", "vera", "dora"])
def test_a_trainer_checkpoint_is_restored_in_place(name: str, tmp_path: Path) -> None:
    settings = RunConfig(rank=2, vera_rank=4, bottleneck=4)
    models = [METHODS[name].build(FAMILIES["bert"](), settings, None).eval() for _ in range(2)]
    batch = {**batch_of("llama"), "labels": torch.tensor([0, 1, 0])}
    step(models[0], batch, 2, 1e-2)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    Trainer(model=models[0], args=arguments).save_model(str(tmp_path / "checkpoint-2"))
    assert not torch.equal(logits(models[1], batch), logits(models[0], batch))
    restore(models[1], tmp_path / "checkpoint-2")
    assert torch.equal(logits(models[1], batch), logits(models[0], batch))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    adapted("minilm", "bitfit").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="resume from an earlier checkpoint"):
        restore(adapted("minilm", "houlsby"), tmp_path)


def test_houlsby_cannot_be_merged_and_says_why() -> None:
    with pytest.raises(UserError, match="'houlsby' cannot be merged: its adapters are layers"):
        merge(adapted("minilm", "houlsby"))


def test_a_model_without_a_method_is_refused(tmp_path: Path) -> None:
    for call in (merge, lambda model: save(model, tmp_path)):
        with pytest.raises(UserError, match="BertForSequenceClassification was adapted by no"):
            call(fresh("minilm"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no method is saved there"):
        load(fresh("minilm"), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 1, "what": 2}', "cannot be read"),
        ('{"format": 9, "method": "bitfit"}', "made by a newer ailora"),
    ],
)
def test_a_broken_record_is_refused(text: str, words: str, saved: Path) -> None:
    (saved / "ailora_method.json").write_text(text)
    with pytest.raises(UserError, match=words):
        load(fresh("minilm"), saved)


def test_a_cut_off_file_is_refused(saved: Path) -> None:
    weights = saved / "ailora_method.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"ailora_method\.safetensors: cannot be read"):
        load(fresh("minilm"), saved)


def test_files_of_another_model_are_refused_by_name(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not as in this BertForQuestionAnswering"):
        load(bert_qa(), saved)
    save(adapted("minilm", "vera"), tmp_path / "vera")
    with pytest.raises(UserError, match="does not fit the BertForQuestionAnswering"):
        load(bert_qa(), tmp_path / "vera")


def test_another_width_is_not_filled_in(saved: Path) -> None:
    record = json.loads((saved / "ailora_method.json").read_text())
    (saved / "ailora_method.json").write_text(json.dumps({**record, "bottleneck": 4}))
    with pytest.raises(UserError, match="is not as in this BertForSequenceClassification"):
        load(fresh("minilm"), saved)


def test_a_whole_model_without_its_weights_is_refused(tmp_path: Path) -> None:
    save(adapted("minilm", "full"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="copy the whole folder again"):
        load(fresh("minilm"), tmp_path)


def test_loading_decomposes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("minilm", "mica")
    step(model, batch_of("minilm"), 2, 1e-2)
    save(model, tmp_path)
    before = logits(model, batch_of("minilm"))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a start was made that the file replaces")

    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svd", fail)
        with pytest.raises(AssertionError):
            adapted("minilm", "mica")
        again = load(fresh("minilm"), tmp_path, is_trainable=True).eval()
    assert torch.equal(logits(again, batch_of("minilm")), before)
    trained = {name for name, value in again.named_parameters() if value.requires_grad}
    assert trained == {name for name, value in model.named_parameters() if value.requires_grad}
    assert not any("lora_B" in name for name in trained)


def test_an_adapter_whose_file_lacks_a_factor_is_refused(tmp_path: Path) -> None:
    save(adapted("minilm", "orthogonal"), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    lost = next(name for name in tensors if "lora_B" in name)
    save_file({name: value for name, value in tensors.items() if name != lost}, path)
    with pytest.raises(UserError, match=r"its file lacks .*lora_B.*; copy the whole folder again"):
        load(fresh("minilm"), tmp_path)


@pytest.mark.parametrize("name", ["vera", "dora"])
def test_an_adapter_of_strangers_is_looked_at_before_peft_reads_it(
    name: str, tmp_path: Path
) -> None:
    """PEFT takes a pickle where there is nothing else, and a pattern that never ends."""
    save(adapted("minilm", name), tmp_path)
    config = tmp_path / "adapter_config.json"
    written = config.read_text()
    config.write_text(json.dumps(json.loads(written) | {"target_modules": "(.+)+!"}))
    with pytest.raises(UserError, match="may take for ever to match"):
        load(fresh("minilm"), tmp_path)
    config.write_text(written)
    weights = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="is a pickle, which can run code"):
        load(fresh("minilm"), tmp_path)
