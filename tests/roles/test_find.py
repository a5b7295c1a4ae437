"""Which projections of which models ``find_projections`` returns, and under which names."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
import transformers as hf
from peft import LoHaConfig, LoraConfig, TaskType, get_peft_model
from torch import nn

from ailora.roles import ATTENTION_ROLES, find_projections
from tests.architectures import build
from tests.families import DECODERS, FAMILIES, HIDDEN, KV_HEADS, LAYERS

# The exact path of each layer's q, k, v, o: the block, then the four names inside it.
BERT_LIKE = ("encoder.layer.{}.attention", "self.query", "self.key", "self.value", "output.dense")
LLAMA_LIKE = ("model.layers.{}.self_attn", "q_proj", "k_proj", "v_proj", "o_proj")
DEBERTA = (
    "deberta.encoder.layer.{}.attention",
    "self.query_proj",
    "self.key_proj",
    "self.value_proj",
    "output.dense",
)
OUT_PROJ = ("q_proj", "k_proj", "v_proj", "out_proj")
BART = [
    ("model.encoder.layers.{}.self_attn", *OUT_PROJ),
    ("model.decoder.layers.{}.self_attn", *OUT_PROJ),
    ("model.decoder.layers.{}.encoder_attn", *OUT_PROJ),
]
T5 = [
    ("encoder.block.{}.layer.0.SelfAttention", *"qkvo"),
    ("decoder.block.{}.layer.0.SelfAttention", *"qkvo"),
    ("decoder.block.{}.layer.1.EncDecAttention", *"qkvo"),
]
ALBERT = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention"


def _bert_like(prefix: str) -> list[tuple[str, ...]]:
    return [(f"{prefix}.{BERT_LIKE[0]}", *BERT_LIKE[1:])]


EXPECTED: dict[str, list[tuple[str, ...]]] = {
    "bert": _bert_like("bert"),
    "roberta": _bert_like("roberta"),
    "xlm-roberta": _bert_like("roberta"),
    "camembert": _bert_like("roberta"),
    "electra": _bert_like("electra"),
    "deberta-v2": [DEBERTA],
    "deberta-v3": [DEBERTA],
    "mpnet": [("mpnet.encoder.layer.{}.attention", "attn.q", "attn.k", "attn.v", "attn.o")],
    "distilbert": [
        ("distilbert.transformer.layer.{}.attention", "q_lin", "k_lin", "v_lin", "out_lin")
    ],
    "albert": [(ALBERT, "query", "key", "value", "dense")],
    **{family: [LLAMA_LIKE] for family in DECODERS if family != "opt"},
    "opt": [("model.decoder.layers.{}.self_attn", *OUT_PROJ)],
    "bart": BART,
    "t5": T5,
    "mt5": T5,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_projection_of_every_family_is_found_under_its_exact_name(family: str) -> None:
    layers = 1 if family == "albert" else LAYERS
    expected = {
        f"{block.format(layer)}.{name}": role
        for block, *names in EXPECTED[family]
        for layer in range(layers)
        for role, name in zip("qkvo", names, strict=True)
    }
    model = FAMILIES[family]()
    found = find_projections(model)
    assert {p.name: p.role for p in found} == expected
    assert len(found) == len(expected)
    assert all(p.module is model.get_submodule(p.name) for p in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_projections_come_in_the_models_own_order(family: str) -> None:
    model = FAMILIES[family]()
    order = [name for name, _ in model.named_modules()]
    positions = [order.index(p.name) for p in find_projections(model)]
    assert positions == sorted(positions)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "albert"])
def test_layers_are_counted_from_zero_in_each_stack(family: str) -> None:
    for p in find_projections(FAMILIES[family]()):
        number = re.search(r"(?:layers?|block)\.(\d+)\.", p.name)
        assert number is not None and p.layer == int(number.group(1))


def test_the_shared_layers_of_albert_are_found_once_and_have_no_index() -> None:
    found = find_projections(FAMILIES["albert"]())
    assert Counter(p.role for p in found) == {"q": 1, "k": 1, "v": 1, "o": 1}
    assert {p.layer for p in found} == {None}


@pytest.mark.parametrize("family", ["bart", "t5", "mt5"])
def test_self_and_cross_attention_of_encoder_and_decoder_are_told_apart(family: str) -> None:
    found = find_projections(FAMILIES[family](), ["v"])
    assert Counter((p.stack, p.attention) for p in found) == {
        ("encoder", "self"): LAYERS,
        ("decoder", "self"): LAYERS,
        ("decoder", "cross"): LAYERS,
    }


def test_shapes_are_out_features_by_in_features_also_with_grouped_keys() -> None:
    shapes = {p.role: p.shape for p in find_projections(FAMILIES["llama"]())}
    grouped = (HIDDEN * KV_HEADS // 4, HIDDEN)
    assert shapes == {"q": (HIDDEN, HIDDEN), "k": grouped, "v": grouped, "o": (HIDDEN, HIDDEN)}


def test_the_dtype_is_the_weights() -> None:
    found = find_projections(FAMILIES["bert"]().to(torch.bfloat16))
    assert {p.dtype for p in found} == {torch.bfloat16}


def test_only_the_roles_asked_for_are_returned() -> None:
    found = find_projections(FAMILIES["mpnet"](), ["q", "v"])
    assert Counter(p.role for p in found) == {"q": LAYERS, "v": LAYERS}


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        (hf.BertModel, "bert"),
        (hf.BertForMaskedLM, "bert"),
        (hf.BertForQuestionAnswering, "bert"),
        (hf.LlamaModel, "llama"),
        (hf.LlamaForSequenceClassification, "llama"),
        (hf.BartForSequenceClassification, "bart"),
        (hf.T5EncoderModel, "t5"),
    ],
)
def test_the_head_makes_no_difference(architecture: type[hf.PreTrainedModel], family: str) -> None:
    found = find_projections(architecture(FAMILIES[family]().config))
    stacks = {"bart": 3}.get(family, 1)
    assert Counter(p.role for p in found) == dict.fromkeys("qkvo", stacks * LAYERS)
    assert Counter(p.layer for p in found) == dict.fromkeys(range(LAYERS), stacks * 4)


def test_a_bert_decoders_cross_attention_is_found() -> None:
    config = FAMILIES["bert"]().config
    config.update({"is_decoder": True, "add_cross_attention": True})
    found = find_projections(hf.BertLMHeadModel(config), ["q"])
    assert Counter(p.attention for p in found) == {"self": LAYERS, "cross": LAYERS}


def test_norms_that_differ_from_head_to_head_are_no_matrices_of_attention() -> None:
    found = find_projections(build("cohere", device="meta", use_qk_norm=True))
    assert Counter(p.role for p in found) == dict.fromkeys(ATTENTION_ROLES, LAYERS)


def test_only_the_language_half_of_an_image_and_text_model_is_taken() -> None:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text = FAMILIES["gemma3"]().config.to_dict()
    config = hf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = hf.Gemma3ForConditionalGeneration(config)
    vision_names = [n for n, _ in model.named_modules() if "vision" in n and n.endswith("q_proj")]
    found = find_projections(model)
    assert vision_names and not any("vision" in p.name for p in found)
    assert Counter(p.role for p in found) == dict.fromkeys("qkvo", LAYERS)


def test_each_half_of_a_two_model_encoder_decoder_keeps_its_own_naming() -> None:
    model = hf.EncoderDecoderModel(encoder=_base("distilbert"), decoder=_bert_decoder())
    found = find_projections(model, ["q"])
    assert Counter(p.name.rsplit(".", 1)[-1] for p in found) == {"q_lin": 2, "query": 4}
    assert Counter(p.stack for p in found) == {"encoder": 2, "decoder": 4}


def _base(family: str) -> nn.Module:
    model = FAMILIES[family]()
    return getattr(model, model.base_model_prefix)


def _bert_decoder() -> nn.Module:
    config = FAMILIES["bert"]().config
    config.update({"is_decoder": True, "add_cross_attention": True})
    return hf.BertLMHeadModel(config)


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_a_peft_model_shows_the_names_and_modules_of_the_model_it_wraps(family: str) -> None:
    model = FAMILIES[family]()
    before = find_projections(model)
    targets = [p.name for p in before if p.role in "qv"]
    task = TaskType.SEQ_CLS if family == "bert" else None
    wrapped = get_peft_model(model, LoraConfig(target_modules=targets, task_type=task))
    wrapped.add_adapter("second", LoraConfig(target_modules=[before[1].name]))
    assert find_projections(wrapped) == before
    assert find_projections(wrapped.get_base_model()) == before


def test_a_peft_model_whose_only_adapter_was_deleted_is_read_as_its_base() -> None:
    model = FAMILIES["llama"]()
    before = find_projections(model)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    wrapped.delete_adapter("default")
    assert find_projections(wrapped) == before


def test_tuner_layers_around_tuner_layers_count_as_the_innermost_base_layer() -> None:
    model = FAMILIES["bert"]()
    before = [p.module for p in find_projections(model)]
    mixed = get_peft_model(model, LoraConfig(target_modules=["query"]), mixed=True)
    mixed.add_adapter("second", LoHaConfig(target_modules=["query", "value"]))
    mixed.set_adapter(["default", "second"])
    assert [p.module for p in find_projections(mixed)] == before


def test_a_head_saved_whole_by_peft_can_still_be_named_by_hand() -> None:
    config = LoraConfig(target_modules=["query"], task_type=TaskType.SEQ_CLS)
    wrapped = get_peft_model(FAMILIES["roberta"](), config)
    (found,) = find_projections(wrapped, ["o"], modules={"o": ["classifier.out_proj"]})
    assert found.name == "classifier.out_proj"


def test_a_model_inside_another_module_is_found_and_its_layers_counted_as_its_own() -> None:
    inner = nn.Module()
    inner.auto_model = _base("bert")  # as sentence-transformers holds it
    found = find_projections(nn.Sequential(inner, nn.Linear(2, 2)), ["q"])
    assert [p.name for p in found] == [
        f"0.auto_model.encoder.layer.{layer}.attention.self.query" for layer in range(LAYERS)
    ]
    assert [p.layer for p in found] == list(range(LAYERS))


def test_a_module_that_two_layers_share_is_found_once() -> None:
    model = FAMILIES["bert"]()
    first, second = (layer.attention.self for layer in model.bert.encoder.layer)
    second.query = first.query
    assert Counter(p.role for p in find_projections(model, ["q", "v"])) == {"q": 1, "v": 2}
