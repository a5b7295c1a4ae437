"""Which models are loaded, and that nothing of them is executed."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf

from ailora.errors import UserError
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.lab.training.kinds.classification import Classification
from ailora.pretrained import load_backbone


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, to be spoilt."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def load_classifier(
    name: str, task: TextTask, seed: int
) -> tuple[hf.PreTrainedModel, hf.PreTrainedTokenizerBase]:
    return Classification(task, RunConfig(model=name, seed=seed)).load()


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder: Path | str, task: TextTask) -> str:
    with pytest.raises(UserError) as caught:
        load_classifier(str(folder), task, 0)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_head_is_the_tasks_and_starts_from_the_seed(tiny_model: Path, task: TextTask) -> None:
    heads = []
    for seed in (0, 0, 1):
        model, _ = load_classifier(str(tiny_model), task, seed)
        heads.append(model.classifier.weight)
        torch.rand(5)
    assert model.config.id2label == {0: "neg", 1: "pos"}
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_head_of_another_width_is_replaced_and_the_body_kept(
    tiny_model: Path, copy: Path, task: TextTask
) -> None:
    three = hf.AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    three.save_pretrained(copy)
    model, _ = load_classifier(str(copy), task, 0)
    assert model.classifier.weight.shape == (2, 32)
    ours, theirs = model.bert.state_dict(), three.bert.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_body_that_does_not_fit_its_config_is_refused(copy: Path, task: TextTask) -> None:
    change_config(copy, intermediate_size=64)
    assert "has another shape than its config.json says" in refusal(copy, task)


def test_a_file_without_the_models_weights_is_refused(copy: Path, task: TextTask) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, copy / "model.safetensors", metadata={"format": "pt"})
    assert "none of the weights of a bert" in refusal(copy, task)


def test_a_missing_part_of_the_body_is_told(
    tiny_model: Path, copy: Path, task: TextTask, caplog: pytest.LogCaptureFixture
) -> None:
    hf.BertForMaskedLM.from_pretrained(tiny_model).save_pretrained(copy)  # it has no pooler
    with caplog.at_level(logging.WARNING, logger="ailora"):
        load_classifier(str(copy), task, 0)
    assert "2 weights are not in the file and start anew" in caplog.text
    caplog.clear()
    load_classifier(str(tiny_model), task, 0)
    assert not [record for record in caplog.records if record.name.startswith("ailora")]


@pytest.mark.parametrize("kind", [hf.BertConfig, hf.DebertaV2Config, hf.T5Config])
def test_a_folder_without_a_tokenizer_is_refused(
    kind: type[hf.PreTrainedConfig], task: TextTask, tmp_path: Path
) -> None:
    kind().save_pretrained(tmp_path)
    assert "its tokenizer knows no words" in refusal(tmp_path, task)


def test_pickled_weights_are_refused(copy: Path, task: TextTask) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    assert "model.safetensors" in refusal(copy, task)
    with pytest.raises(UserError, match="safetensors"):
        load_backbone(str(copy))


@pytest.mark.parametrize("model_type", ["bert", "of-its-own"])
def test_code_in_a_models_folder_is_never_run(
    model_type: str, copy: Path, task: TextTask, tmp_path: Path
) -> None:
    trace = tmp_path / "it-ran"
    (copy / "own.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "class OwnConfig(BertConfig): model_type = 'of-its-own'\n"
        "class Own(BertForSequenceClassification): config_class = OwnConfig\n"
    )
    change_config(
        copy,
        model_type=model_type,
        auto_map={
            "AutoConfig": "own.OwnConfig",
            "AutoModel": "own.Own",
            "AutoModelForSequenceClassification": "own.Own",
        },
    )
    if model_type == "bert":
        load_classifier(str(copy), task, 0)
    else:
        assert "code of its own, which ailora never runs" in refusal(copy, task)
        with pytest.raises(UserError, match="never runs"):
            load_backbone(str(copy))
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./nothing", "~/no-such-model", "nobody/no-such-model"]
)
def test_a_model_that_is_not_there_is_named(
    name: str, task: TextTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert repr(name) in refusal(name, task)


def test_a_broken_config_is_named(copy: Path, task: TextTask) -> None:
    (copy / "config.json").write_text("{")
    assert str(copy) in refusal(copy, task)


def test_a_truncated_weight_file_is_refused(copy: Path, task: TextTask) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    assert str(copy) in refusal(copy, task)


def test_rows_longer_than_the_model_reads_are_refused_before_anything_is_written(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="max_length=161: this model reads 160 tokens"):
        train(replace(config, max_length=161), task, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [{"method": "ailorra"}, {"model": "/no/such/folder"}, {"rank": 33}],
    ids=["method", "model", "rank"],
)
def test_settings_that_do_not_work_leave_nothing(
    changes: dict[str, object], config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        train(replace(config, **changes), task, tmp_path / "out")  # type: ignore[arg-type]
    assert str(next(iter(changes.values()))) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_decoder_without_padding_token_trains(task: TextTask, copy: Path, tmp_path: Path) -> None:
    tokenizer = hf.AutoTokenizer.from_pretrained(copy)
    size = len(tokenizer)
    settings = hf.LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=160,
        eos_token_id=3,
    )
    shutil.rmtree(copy)
    hf.LlamaModel(settings).save_pretrained(copy)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(copy)
    asked = RunConfig(model=str(copy), task="reviews", rank=2, epochs=1, batch_size=8)
    result = train(asked, task, tmp_path / "out")
    assert result["step0_deviation"] == 0.0
    assert {update["role"] for update in result["updates"]} == {"q", "v"}
