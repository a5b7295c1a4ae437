"""DoRA, rsLoRA and VeRA are PEFT's; the heads of tasks; and the settings that are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ailora.adapters.peft_insides import lora_layers
from ailora.errors import UserError
from ailora.lab.methods import METHODS, count, head_names, load, save
from ailora.lab.methods.variants import read_variant, same_run
from ailora.lab.settings import RunConfig
from tests.adapters.models import logits
from tests.families import FAMILIES, inputs_for
from tests.lab.methods.models import USABLE, adapted, batch_of, bert_qa, life, step

HEADS = {
    "bert": ["classifier"],
    "roberta": ["classifier"],
    "deberta-v3": ["pooler", "classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "electra": ["classifier"],
    "llama": [],
    "opt": [],
    "bart": [],
    "t5": [],
}


@pytest.mark.parametrize("family", HEADS)
def test_a_head_is_what_the_task_put_on_the_body(family: str) -> None:
    assert head_names(FAMILIES[family]()) == HEADS[family]


def test_the_head_of_a_body_alone_is_empty() -> None:
    assert head_names(FAMILIES["bert"]().bert) == []


@pytest.mark.parametrize("family", ["deberta-v3", "distilbert"])
@pytest.mark.parametrize("name", ["lora", "ailora", "vera", "houlsby", "bitfit", "full", "mica"])
def test_all_of_a_head_is_trained_and_saved(family: str, name: str, tmp_path: Path) -> None:
    settings = RunConfig(rank=2, vera_rank=4, bottleneck=4)
    model = METHODS[name].build(FAMILIES[family](), settings, None).eval()
    expected = sum(
        parameter.numel()
        for head in HEADS[family]
        for parameter in FAMILIES[family]().get_submodule(head).parameters()
    )
    assert count(model).head == expected
    batch = inputs_for(family, model, labels=True)
    step(model, batch, 2, 1e-2)
    save(model, tmp_path)
    loaded = load(FAMILIES[family](), tmp_path)
    assert torch.equal(logits(loaded, batch), logits(model, batch))


@pytest.mark.parametrize("name", ["lora", "pissa", "ailora"])
def test_the_tolerance_of_starts_is_that_of_the_settings(name: str) -> None:
    model = METHODS[name].build(FAMILIES["bert"](), RunConfig(rank=2, tol=0.03), None)
    assert model.peft_config["default"].record.origin.tol == 0.03  # type: ignore[union-attr, index]


@pytest.mark.parametrize("name", [name for name in USABLE if not METHODS[name].needs_data])
def test_question_answering_trains_its_outputs(name: str, tmp_path: Path) -> None:
    settings = RunConfig(rank=2, vera_rank=4, bottleneck=4)
    model = METHODS[name].build(bert_qa(), settings, None).eval()
    assert count(model).head == 2 * 32 + 2
    batch: dict[str, Any] = {
        "input_ids": torch.arange(5, 19).reshape(2, 7),
        "start_positions": torch.tensor([1, 2]),
        "end_positions": torch.tensor([3, 4]),
    }
    losses = step(model, batch, 3, 1e-2)
    assert losses[-1] < losses[0]
    save(model, tmp_path)
    loaded = load(bert_qa(), tmp_path)
    assert torch.equal(loaded(**batch).start_logits, model(**batch).start_logits)


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    for alpha, scale in ((None, math.sqrt(4)), (16, 16 / math.sqrt(4))):
        layers = lora_layers(adapted("minilm", "rslora", lora_alpha=alpha), "default")
        assert {layer.scaling["default"] for layer in layers.values()} == {scale}


def test_doras_norms_start_as_the_weights_rows() -> None:
    layer = adapted("llama", "dora").get_base_model().model.layers[0].self_attn.q_proj
    norms = layer.lora_magnitude_vector["default"].weight
    torch.testing.assert_close(norms, layer.base_layer.weight.norm(dim=1))


def test_vera_shares_one_pair_of_matrices_and_another_seed_has_another() -> None:
    first, second = (adapted("llama", "vera", seed=seed) for seed in (0, 1))
    shared = [model.base_model.vera_A["default"] for model in (first, second)]
    assert shared[0].shape == (16, 32)
    assert not torch.equal(*shared)
    layers = first.get_base_model().model.layers
    assert layers[0].self_attn.q_proj.vera_A is layers[1].self_attn.v_proj.vera_A


def test_settings_reach_every_low_rank_method() -> None:
    for name in ("lora", "pissa", "ailora", "dora", "olora", "orthogonal", "mica", "eva"):
        model = adapted("minilm", name, lora_dropout=0.25, lora_alpha=12)
        rates = {m.p for n, m in model.named_modules() if "lora_dropout.default" in n}
        layers = lora_layers(model, "default")
        scales = {layer.scaling["default"] for layer in layers.values()}
        assert rates == {0.25}, name
        assert scales == {3.0}, name


def test_roles_the_method_is_silent_about_start_as_lora_does() -> None:
    model = adapted("minilm", "ailora", ranks={"q": 4, "k": 4})
    config = model.peft_config["default"].record.origin
    assert {name: (role.init, role.r) for name, role in config.roles.items()} == {
        "q": ("principal", 4),
        "k": ("gaussian", 4),
    }


def test_methods_of_one_rank_start_from_one_model() -> None:
    starts = {name: life("minilm", name).base for name in ("lora", "vera", "full")}
    assert all(torch.equal(base, starts["lora"]) for base in starts.values())
    assert batch_of("minilm").keys() == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("milora:directions=random:scale=unit", "pissa:directions=random:scale=unit"),
        ("milora:directions=random:scale=matched", "pissa:directions=random:scale=matched"),
        ("reailora:directions=random:scale=unit:lr_ratio=1", "pissa:directions=random:scale=unit"),
    ],
)
def test_random_directions_of_equal_sizes_train_the_same_whatever_the_method(
    text: str, first: str
) -> None:
    assert same_run(text) == same_run(first) == first
    found = []
    for one in (first, text):
        settings = read_variant(one)
        model = adapted("bert", settings.pop("method"), **settings)
        losses = step(model, batch_of("bert"), 2, 1e-2)
        found.append((losses, {n: p for n, p in model.named_parameters() if p.requires_grad}))
    (losses, left), (others, right) = found
    assert losses == others
    assert len(left) == len(right) > 0
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_random_directions_of_other_sizes_are_the_methods_own() -> None:
    for scale in ("sigma", 0.5):
        left, right = (
            adapted("bert", name, directions="random", scale=scale).state_dict()
            for name in ("pissa", "milora")
        )
        assert any(not torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bottleneck": 0}, "bottleneck=0"),
        ({"vera_rank": 2.5}, "vera_rank=2.5"),
        ({"rank": 0}, "rank=0"),
        ({"lora_alpha": -1}, "lora_alpha=-1"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0"),
        ({"anchored": "other"}, "anchored='other'"),
    ],
)
def test_settings_out_of_range_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        RunConfig(**fields)
