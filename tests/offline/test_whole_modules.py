"""Merging what an adapter stores in full: embeddings of tied models, heads of a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from packaging.version import Version
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor, nn

import ailora
from ailora import presets
from ailora.checkpoints import open_checkpoint
from ailora.errors import UserError
from ailora.offline import merge_adapter
from ailora.versions import is_transformers_4
from tests.checkpoints.models import files, saved, tiny
from tests.offline.models import loaded, logits, perturb, stock_adapter, with_adapter

TOKENS = torch.arange(5, 45).view(4, 10)
TYING = [
    (["embed_tokens"], False, True),
    (["lm_head"], False, True),
    (["embed_tokens", "lm_head"], False, True),
    (["embed_tokens"], True, False),
    (["lm_head"], True, False),
]


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(("names", "ensured", "untied"), TYING)
def test_a_tied_model_becomes_what_peft_computes(
    tmp_path: Path, names: list[str], ensured: bool, untied: bool, shards: bool
) -> None:
    model = saved(tmp_path / "model", "smollm2", shards=shards)
    fields: dict[str, Any] = {"modules_to_save": names, "ensure_weight_tying": ensured}
    if (
        ensured
        and names == ["lm_head"]
        and (is_transformers_4() or Version(peft.__version__) < Version("0.20"))
    ):
        pytest.skip("PEFT's ensure_weight_tying finds no module for it in these versions")
    trained = stock_adapter(tmp_path / "adapter", "smollm2", target_modules=["q_proj"], **fields)
    merge_adapter(tmp_path / "adapter", model, tmp_path / "out")
    got = loaded(tmp_path / "out", dtype=torch.float32)
    merged: Any = trained.merge_and_unload()
    for side in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(got, side)().weight, getattr(merged, side)().weight)
    expected = logits(with_adapter(model, tmp_path / "adapter"))
    assert (logits(loaded(tmp_path / "out")) - expected).abs().max() < 1e-5 * expected.abs().max()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is not untied
    stored = open_checkpoint(tmp_path / "out").where
    assert ("lm_head.weight" in stored) is untied
    if shards:
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == stored.keys()
        entries = (shard.entries[name] for name, shard in stored.items())
        assert index["metadata"]["total_size"] == sum(entry.nbytes for entry in entries)


def test_nothing_but_the_replaced_embedding_changes(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "smollm2")
    adapter = get_peft_model(
        tiny("smollm2"), LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    )
    with torch.no_grad():
        adapter.get_input_embeddings().weight.mul_(1.5)
    adapter.save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", model, tmp_path / "out")
    with torch.no_grad():
        expected = adapter(input_ids=TOKENS).logits
        got = loaded(tmp_path / "out", dtype=torch.float32)(input_ids=TOKENS).logits
    assert torch.equal(got, expected)  # B is zero, so to the bit


def test_of_an_encoder_decoder_the_scale_of_the_logits_stays(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "t5")
    adapter = get_peft_model(
        tiny("t5"), LoraConfig(target_modules=["q"], modules_to_save=["lm_head"])
    )
    with torch.no_grad():
        adapter.get_output_embeddings().weight.mul_(1.5)
    adapter.save_pretrained(tmp_path / "adapter")
    if is_transformers_4():
        with pytest.raises(UserError, match="transformers 4 ties those of an encoder-decoder"):
            merge_adapter(tmp_path / "adapter", model, tmp_path / "out")
        return
    merge_adapter(tmp_path / "adapter", model, tmp_path / "out")
    merged = hf.T5ForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        expected, got = (
            m(input_ids=TOKENS, decoder_input_ids=TOKENS).logits for m in (adapter, merged)
        )
    assert torch.equal(got, expected)


# --- Heads -----------------------------------------------------------------------------------

BERT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
DISTILBERT = {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
LLAMA = {**BERT, "num_key_value_heads": 2, "pad_token_id": 0}
HEADED: dict[str, tuple[type[hf.PreTrainedModel], Any, str, int, list[str] | None]] = {
    "bert": (hf.BertModel, hf.BertConfig(**BERT), "SEQ_CLS", 2, None),
    "five labels": (hf.BertModel, hf.BertConfig(**BERT), "SEQ_CLS", 5, None),
    "one number": (hf.BertModel, hf.BertConfig(**BERT), "SEQ_CLS", 1, None),
    "a class per token": (hf.BertForMaskedLM, hf.BertConfig(**BERT), "TOKEN_CLS", 3, None),
    "answers": (hf.BertForMaskedLM, hf.BertConfig(**BERT), "QUESTION_ANS", 2, None),
    "roberta": (hf.RobertaForMaskedLM, hf.RobertaConfig(**BERT), "SEQ_CLS", 3, None),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**LLAMA), "SEQ_CLS", 3, None),
    # PEFT's "classifier" is pre_classifier as well: it goes by how the names end.
    "distilbert": (
        hf.DistilBertForMaskedLM,
        hf.DistilBertConfig(**DISTILBERT),
        "SEQ_CLS",
        3,
        None,
    ),
    "bert, with its pooler": (
        hf.BertForMaskedLM,
        hf.BertConfig(**BERT),
        "SEQ_CLS",
        3,
        ["bert.pooler.dense"],  # as the refusal below advises
    ),
}
QUERIES = ["query", "q_lin", "q_proj"]
AUTO = {
    "SEQ_CLS": hf.AutoModelForSequenceClassification,
    "TOKEN_CLS": hf.AutoModelForTokenClassification,
    "QUESTION_ANS": hf.AutoModelForQuestionAnswering,
}


def trained(tmp_path: Path, kind: str, named: list[str] | None, *, ours: bool = True) -> PeftModel:
    """A classifier whose head no pre-trained model has, trained and saved."""
    cls, config, task, labels, _ = HEADED[kind]
    torch.manual_seed(0)
    cls(config).save_pretrained(tmp_path / "base", max_shard_size="20KB")
    base = AUTO[task].from_pretrained(tmp_path / "base", num_labels=labels)
    fields = {"task_type": TaskType(task).value, "modules_to_save": named}
    if ours:
        model = ailora.get_peft_model(base, presets.ailora(4, **fields))
    else:
        model = get_peft_model(base, LoraConfig(r=4, target_modules=QUERIES, **fields))
    perturb(model)
    model.eval().save_pretrained(tmp_path / "adapter")
    return model


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    found = model(input_ids=TOKENS)
    return found.logits if "logits" in found else found.start_logits - 2 * found.end_logits


@pytest.mark.parametrize("kind", HEADED)
def test_a_head_that_lies_in_the_adapter_alone_becomes_part_of_the_model(
    tmp_path: Path, kind: str
) -> None:
    base, _, task, labels, named = HEADED[kind]
    if base is hf.BertModel and is_transformers_4():
        pytest.skip("transformers 4 loads no head beside a body stored without its prefix")
    expected = outputs(trained(tmp_path, kind, named))
    merge_adapter(tmp_path / "adapter", tmp_path / "base", tmp_path / "out")
    merged, info = AUTO[task].from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert merged.config.num_labels == labels
    assert merged.config.architectures == [type(merged).__name__]
    got = outputs(merged.eval())
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == open_checkpoint(tmp_path / "out").where.keys()


def test_a_head_of_16_bits_goes_with_a_model_of_16_bits(tmp_path: Path) -> None:
    trained(tmp_path, "roberta", None)
    body = hf.RobertaForMaskedLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    body.save_pretrained(tmp_path / "half")
    merge_adapter(tmp_path / "adapter", tmp_path / "half", tmp_path / "out")
    merged = AUTO["SEQ_CLS"].from_pretrained(tmp_path / "out", dtype="auto")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("ours", [True, False])
def test_what_was_drawn_at_random_and_saved_nowhere_is_named(tmp_path: Path, ours: bool) -> None:
    trained(tmp_path, "bert, with its pooler", None, ours=ours)
    before = files(tmp_path)
    words = r"also needs bert\.pooler\.dense, which neither.*modules_to_save=\['bert.pooler.dense'"
    with pytest.raises(UserError, match=words) as caught:
        merge_adapter(tmp_path / "adapter", tmp_path / "base", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)  # no option of ours would help
    assert files(tmp_path) == before


def test_a_head_of_another_shape_than_the_models_own_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, "five labels", None)
    config = hf.BertConfig(**BERT, num_labels=3)
    hf.BertForSequenceClassification(config).save_pretrained(tmp_path / "headed")
    with pytest.raises(UserError, match=r"classifier.* with shape \(5"):
        merge_adapter(tmp_path / "adapter", tmp_path / "headed", tmp_path / "out")
    assert not (tmp_path / "out").exists()
