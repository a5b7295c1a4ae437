"""Models that are named nowhere: read if spelled like others, else refused, not guessed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import transformers as hf
from torch import nn

from ailora.errors import UserError
from ailora.roles import find_projections
from ailora.versions import is_transformers_4
from tests.architectures import build


def _linears(**sizes: tuple[int, int]) -> dict[str, nn.Module]:
    return {name: nn.Linear(columns, rows, bias=False) for name, (rows, columns) in sizes.items()}


PLAIN = {"q_proj": (32, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 32)}


class _Block(nn.Module):
    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def _model(block: nn.Module, name: str = "self_attn") -> nn.Module:
    return _Block(layers=nn.ModuleList([_Block(**{name: block})]))


@pytest.mark.parametrize(
    "names",
    [
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("wq", "wk", "wv", "wo"),
        ("query_proj", "key_proj", "value_proj", "out_proj"),
        ("query", "key", "value", "dense"),
    ],
)
def test_a_plain_block_of_an_unknown_model_is_read(names: tuple[str, ...]) -> None:
    sizes = dict(zip(names, PLAIN.values(), strict=True))
    found = find_projections(_model(_Block(**_linears(**sizes))))
    assert {p.role: p.name for p in found} == {
        role: f"layers.0.self_attn.{name}" for role, name in zip("qkvo", names, strict=True)
    }
    assert {p.layer for p in found} == {0}


def test_norms_gates_on_the_output_and_embeddings_are_no_hindrance() -> None:
    extras = {
        "q_norm": nn.LayerNorm(8),
        "gate_proj": nn.Linear(16, 32),
        "relative_attention_bias": nn.Embedding(8, 4),
    }
    found = find_projections(_model(_Block(**_linears(**PLAIN), **extras)))
    assert Counter(p.role for p in found) == dict.fromkeys("qkvo", 1)


@pytest.mark.parametrize(
    ("children", "complaint"),
    [
        (_linears(**PLAIN, mystery=(4, 16)), "'mystery' in it is not understood"),
        ({**_linears(**PLAIN), "conv": nn.Conv1d(8, 8, 4)}, "'conv' in it is not understood"),
        (_linears(**{**PLAIN, "q_proj": (64, 16)}), "there may be a gate in one of them"),
        (_linears(qkv_proj=(48, 16), o_proj=(16, 32)), "'qkv_proj' holds several roles"),
        (_linears(**PLAIN, kv_a_proj=(4, 16)), "multi-head latent attention"),
        (_linears(in_proj=(48, 16), out_proj=(16, 16)), "'in_proj' holds several roles"),
    ],
)
def test_what_cannot_be_read_for_certain_is_refused_in_one_line(
    children: dict[str, nn.Module], complaint: str
) -> None:
    with pytest.raises(UserError) as caught:
        find_projections(_model(_Block(**children)), ["q", "v"])
    message = str(caught.value)
    assert complaint in message and "layers.0.self_attn" in message and "\n" not in message
    assert 'Role(modules=["..."])' in message


def test_what_cannot_be_read_can_still_be_named_by_hand() -> None:
    model = _model(_Block(**_linears(**PLAIN, mystery=(4, 16))))
    by_hand = {"q": ["q_proj"], "v": ["v_proj"]}
    assert len(find_projections(model, ["q", "v"], modules=by_hand)) == 2


def test_an_unknown_fused_layer_is_not_taken_whole_by_hand() -> None:
    model = _model(_Block(**_linears(Wqkv=(48, 16), out_proj=(16, 16))))
    with pytest.raises(UserError, match="which by its name holds several roles"):
        find_projections(model, ["q"], modules={"q": ["Wqkv"]})


class GatedDeltaNet(_Block):
    """Spelled like attention, but its q and k make no probabilities."""


def test_linear_attention_is_left_out_and_softmax_attention_beside_it_is_not() -> None:
    layers = [
        _Block(linear_attn=GatedDeltaNet(**_linears(**PLAIN))),
        _Block(self_attn=_Block(**_linears(**PLAIN))),
    ]
    found = find_projections(_Block(layers=nn.ModuleList(layers)))
    assert {p.layer for p in found} == {1} and len(found) == 4


def test_a_state_space_block_is_known_by_its_parameters() -> None:
    block = _Block(**_linears(**PLAIN))
    block.A_log = nn.Parameter(torch.zeros(4))
    with pytest.raises(UserError, match="no architecture known here"):
        find_projections(_model(block))


def tower_of(model_type: str) -> nn.Module:
    if is_transformers_4() and model_type == "phi4_multimodal":
        pytest.skip("transformers 4 does not build it from a config without images")
    if is_transformers_4() and model_type == "granite_speech":
        pytest.skip("in transformers 4 its encoder has no config of its own: refused by name")
    return build(model_type, device="meta")


@pytest.mark.parametrize(
    ("model_type", "towers"),
    [
        ("qwen2_audio", "audio_tower"),
        ("got_ocr2", "vision_tower"),
        ("modernvbert", "vision_model"),
        ("granite_speech", "projector"),
        ("phi4_multimodal", "embed_tokens_extend"),
        ("t5gemma2", "vision_tower"),
    ],
)
def test_towers_for_images_and_sound_are_left_out(model_type: str, towers: str) -> None:
    model = tower_of(model_type)
    assert any(towers in name for name, _ in model.named_modules())
    found = find_projections(model)
    assert found and not any(towers in p.name for p in found)


def test_layers_that_share_one_module_have_no_index() -> None:
    shared = _Block(**_linears(**PLAIN))
    layers = nn.ModuleList([_Block(self_attn=shared), _Block(self_attn=shared)])
    found = find_projections(_Block(layers=layers))
    assert len(found) == 4 and {p.layer for p in found} == {None}


def test_cross_attention_is_told_by_its_name() -> None:
    blocks = {
        name: _Block(**_linears(**PLAIN)) for name in ("self_attn", "cross_attn", "encoder_attn")
    }
    found = find_projections(_Block(layers=nn.ModuleList([_Block(**blocks)])), ["q"])
    assert [p.attention for p in found] == ["self", "cross", "cross"]


@pytest.mark.parametrize("model_type", ["deepseek_v4", "mamba", "xlnet", "rwkv", "jetmoe", "fnet"])
def test_architectures_without_plain_roles_are_refused_by_name(model_type: str) -> None:
    with pytest.raises(UserError, match=model_type) as caught:
        find_projections(build(model_type, device="meta"), ["q", "v"])
    assert "\n" not in str(caught.value)


def test_a_key_that_is_the_value_as_well_is_not_taken_for_a_key_alone() -> None:
    try:
        model = build("gemma4_text", device="meta", attention_k_eq_v=True)
    except TypeError:
        pytest.skip("this transformers cannot build it with its own defaults")
    with pytest.raises(UserError, match="a key but no value of its own"):
        find_projections(model, ["q", "v"])


def test_layers_that_take_keys_and_values_from_others_keep_their_query_and_output() -> None:
    lone = _linears(q_proj=PLAIN["q_proj"], o_proj=PLAIN["o_proj"])
    blocks = [_Block(self_attn=_Block(**_linears(**PLAIN))), _Block(self_attn=_Block(**lone))]
    found = find_projections(_Block(layers=nn.ModuleList(blocks)))
    assert [(p.layer, p.role) for p in found] == [(0, role) for role in "qkvo"] + [
        (1, "q"),
        (1, "o"),
    ]


def test_an_encoder_of_sound_before_a_decoder_of_text_is_left_out() -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    sound = hf.Wav2Vec2Config(
        **small, intermediate_size=32, conv_dim=[8], conv_kernel=[4], conv_stride=[2],
        num_conv_pos_embedding_groups=4, num_feat_extract_layers=1,
    )  # fmt: skip
    text = hf.BertConfig(**small, is_decoder=True, add_cross_attention=True)
    config = hf.SpeechEncoderDecoderConfig(encoder=sound.to_dict(), decoder=text.to_dict())
    with torch.device("meta"):
        model = hf.SpeechEncoderDecoderModel(config)
    assert any(name.startswith("encoder") and "q_proj" in name for name, _ in model.named_modules())
    found = find_projections(model, ["q"])
    assert [p.stack for p in found] == ["decoder", "decoder"]


def test_a_weight_norm_beside_attention_is_no_hindrance() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 16, 3))
    layers = nn.ModuleList([_Block(attn=_Block(**_linears(**PLAIN)))])
    model = _Block(position=normed, layers=layers)
    assert [p.role for p in find_projections(model)] == ["q", "k", "v", "o"]
    with pytest.raises(UserError, match="no module is named 'query'"):
        find_projections(model, ("q",), modules={"q": ["query"]})
