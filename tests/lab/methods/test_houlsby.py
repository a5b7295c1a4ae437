"""Where Houlsby adapters sit, what they start as, and what else trains."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from ailora.errors import UserError
from ailora.lab.methods import METHODS
from ailora.lab.methods.houlsby import adapted_layers
from ailora.lab.settings import RunConfig
from tests.adapters.models import logits
from tests.families import FAMILIES, LAYERS, inputs_for
from tests.lab.methods.models import adapted, batch_of, fresh, step


@pytest.mark.parametrize("family", FAMILIES)
def test_there_are_two_a_layer_in_every_family(family: str) -> None:
    places = adapted_layers(FAMILIES[family]())
    if family == "albert":  # one layer's weights serve all
        assert len(places) == 2
        return
    layers = LAYERS * (2 if family in ("bart", "t5", "mt5") else 1)
    assert len(places) == 2 * layers
    assert not any("cross" in name or "encoder_attn" in name for name in places)
    assert not any("EncDecAttention" in name for name in places)


def test_they_follow_attention_and_feed_forward() -> None:
    assert adapted_layers(FAMILIES["bert"]())[:2] == [
        "bert.encoder.layer.0.attention.output.dense",
        "bert.encoder.layer.0.output.dense",
    ]
    assert adapted_layers(FAMILIES["llama"]())[:2] == [
        "model.layers.0.mlp.down_proj",
        "model.layers.0.self_attn.o_proj",
    ]
    assert adapted_layers(FAMILIES["t5"]())[:2] == [
        "decoder.block.0.layer.0.SelfAttention.o",
        "decoder.block.0.layer.2.DenseReluDense.wo",
    ]


def test_the_output_of_a_layer_goes_through_its_adapter() -> None:
    """The module of the paper, written down again: h + W_up GELU(W_down h + b) + b."""
    model = adapted("llama", "houlsby")
    layer = model.model.layers[1].mlp.down_proj
    adapter = layer.houlsby
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
        x = torch.randn(3, 48)
        h = x @ layer.weight.T
        inner = torch.nn.functional.gelu(h @ adapter.down.weight.T + adapter.down.bias)
        wanted = h + inner @ adapter.up.weight.T + adapter.up.bias
        torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_adapter_has_a_say_in_what_the_model_computes(family: str) -> None:
    model = METHODS["houlsby"].build(FAMILIES[family](), RunConfig(bottleneck=4), None).eval()
    inputs = inputs_for(family, model)
    before = logits(model, inputs)
    for name, module in model.named_modules():
        if name.endswith(".houlsby.up"):
            with torch.no_grad():
                module.bias += torch.linspace(-1, 1, len(module.bias))
            after = logits(model, inputs)
            assert not torch.equal(after, before), name
            before = after


def test_norms_are_frozen_and_the_head_is_not() -> None:
    model = adapted("minilm", "houlsby")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(".houlsby." in name or name.startswith("classifier.") for name in trained)
    assert {"classifier.weight", "classifier.bias"} <= trained


def test_a_16_bit_model_keeps_its_dtype_and_trains_fp32_adapters() -> None:
    model = METHODS["houlsby"].build(fresh("llama").bfloat16(), RunConfig(bottleneck=4), None)
    batch = batch_of("llama")
    assert logits(model, batch).dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    losses = step(model, batch, 4, 3e-3)
    assert losses[-1] < losses[0]


def test_the_base_models_names_are_its_own() -> None:
    names = set(fresh("minilm").state_dict())
    added = set(adapted("minilm", "houlsby").state_dict()) - names
    assert names <= set(adapted("minilm", "houlsby").state_dict())
    assert all(".houlsby." in name for name in added)


def test_a_feed_forward_part_of_another_kind_is_refused_by_name() -> None:
    config = hf.MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        num_local_experts=2,
    )
    model = hf.MixtralForCausalLM(config)
    with pytest.raises(UserError, match=r"MixtralForCausalLM .*model\.layers\.0 has 0 layers"):
        METHODS["houlsby"].build(model, RunConfig(), None)
    assert all(parameter.requires_grad for parameter in model.parameters())
