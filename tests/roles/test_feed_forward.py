"""Roles of the feed-forward block: read where everything fits, else refused, never guessed."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from ailora.errors import UserError
from ailora.roles import (
    FEED_FORWARD_ROLES,
    Projection,
    assign_roles,
    find_projections,
    inspect,
)
from ailora.roles.walk import walk
from tests.architectures import build
from tests.roles import feed_forward_probe as probe
from tests.roles.probe import randomise
from tests.roles.survey import feed_forward


class _Block(nn.Module):
    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def _linears(**sizes: tuple[int, int]) -> dict[str, nn.Module]:
    return {name: nn.Linear(columns, rows, bias=False) for name, (rows, columns) in sizes.items()}


ATTENTION = {"q_proj": (16, 16), "k_proj": (16, 16), "v_proj": (16, 16), "o_proj": (16, 16)}


def _model(mlp: nn.Module, **beside: nn.Module) -> nn.Module:
    attention = _Block(**_linears(**ATTENTION))
    return _Block(layers=nn.ModuleList([_Block(self_attn=attention, mlp=mlp, **beside)]))


GATED = {"gate_proj": (24, 16), "up_proj": (24, 16), "down_proj": (16, 24)}
PLAIN = {"fc1": (24, 16), "fc2": (16, 24)}


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("gate_proj", "up_proj", "down_proj"), FEED_FORWARD_ROLES),
        (("w1", "w3", "w2"), FEED_FORWARD_ROLES),
        (("wi_0", "wi_1", "wo"), FEED_FORWARD_ROLES),
        (("up_proj", "down_proj"), ("up", "down")),
        (("c_fc", "c_proj"), ("up", "down")),
        (("linear1", "linear2"), ("up", "down")),
    ],
)
def test_a_plain_block_of_an_unknown_model_is_read(
    names: tuple[str, ...], roles: tuple[Any, ...]
) -> None:
    sizes = dict(zip(names, [*[(24, 16)] * (len(names) - 1), (16, 24)], strict=True))
    found = find_projections(_model(_Block(**_linears(**sizes), act=nn.GELU())), roles)
    assert {p.role: p.name for p in found} == {
        role: f"layers.0.mlp.{name}" for role, name in zip(roles, names, strict=True)
    }
    assert {(p.layer, p.rows) for p in found} == {(0, None)}


class _Functional(_Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.silu(self.fc1(x)))


class _Linear(_Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x))


def test_an_activation_that_is_called_as_a_function_counts() -> None:
    found = find_projections(_model(_Functional(**_linears(**PLAIN))), ["up", "down"])
    assert [p.role for p in found] == ["up", "down"]


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (_Linear(**_linears(**PLAIN)), "no activation function between its matrices"),
        (_Block(**_linears(**PLAIN, fc3=(8, 16)), act=nn.GELU()), "'fc3' in it is not understood"),
        (_Block(**_linears(**{**PLAIN, "fc2": (16, 12)}), act=nn.GELU()), "holds gate and up"),
        (_Block(**_linears(**{**PLAIN, "fc2": (16, 20)}), act=nn.GELU()), "do not fit one another"),
        (
            _Block(**_linears(gate_up_proj=(48, 16), down_proj=(16, 24)), act=nn.SiLU()),
            "'gate_up_proj' holds gate and up in one weight",
        ),
        (
            _Block(**_linears(w1=(24, 16), w2=(24, 16), w3=(16, 24)), act=nn.SiLU()),
            "do not fit one another",  # DINOv2's: w3 comes last
        ),
        (
            _Block(**_linears(w1=(16, 16), w2=(16, 16), w3=(16, 16)), act=nn.SiLU()),
            "neither names nor shapes tell its matrices apart",
        ),
        (
            _Block(**_linears(up_proj=(16, 8), down_proj=(8, 16)), act=nn.ReLU()),
            "it gives 8 values, where its layer's attention gives 16",  # a bottleneck
        ),
        (
            _Block(**_linears(expand=(24, 16), receptance=(16, 16), shrink=(16, 24))),
            "named in no way that is known here",
        ),
        (
            _Block(nets=nn.ModuleList(_Block(**_linears(**GATED), act=nn.SiLU()) for _ in "ab")),
            "one of several in its layer, which may be experts",
        ),
    ],
)
def test_what_cannot_be_read_for_certain_is_refused_in_one_line(
    block: nn.Module, complaint: str
) -> None:
    model = _model(block)
    with pytest.raises(UserError) as caught:
        find_projections(model, ["up"])
    message = str(caught.value)
    assert complaint in message and "layers.0.mlp" in message and "\n" not in message
    assert 'roles={"up": Role(modules=["..."])}' in message
    assert len(find_projections(model)) == 4  # nobody asked for them: attention is as it was


def test_what_cannot_be_read_can_still_be_named_by_hand() -> None:
    model = _model(_Block(**_linears(**GATED, mystery=(4, 16)), act=nn.SiLU()))
    found = find_projections(model, ["up"], modules={"up": ["up_proj"]})
    assert [(p.role, p.name) for p in found] == [("up", "layers.0.mlp.up_proj")]


@pytest.mark.parametrize("model_type", ["phi3", "modernbert"])
def test_a_fused_layer_is_not_taken_whole_by_hand(model_type: str) -> None:
    model = build(model_type, device="meta")
    fused = next(p for p in feed_forward(model) if p.role == "up")
    with pytest.raises(UserError, match="of which only some rows are 'gate' and 'up'"):
        find_projections(model, ["up"], modules={"up": [fused.name]})


def test_gates_on_attention_and_bottlenecks_in_norms_are_no_feed_forward() -> None:
    gated = _linears(**ATTENTION, gate_proj=(16, 16))
    mlp = _Block(**_linears(**GATED), act=nn.SiLU())
    layer = _Block(
        self_attn=_Block(**gated),
        input_norm=_Block(gate_mlp=_Block(**_linears(fc1=(4, 16), fc2=(16, 4)), act=nn.SiLU())),
        mlp=mlp,
    )
    found = find_projections(_Block(layers=nn.ModuleList([layer])), FEED_FORWARD_ROLES)
    assert {p.role: p.name for p in found} == {
        "gate": "layers.0.mlp.gate_proj",
        "up": "layers.0.mlp.up_proj",
        "down": "layers.0.mlp.down_proj",
    }


# --- Mixtures of experts ------------------------------------------------------------------------


def _experts(count: int = 2) -> nn.Module:
    return nn.ModuleList(_Block(**_linears(**GATED), act=nn.SiLU()) for _ in range(count))


def test_experts_that_are_modules_play_no_role() -> None:
    model = _model(_Block(gate=nn.Linear(16, 2), experts=_experts()))
    with pytest.raises(UserError, match="mixtures of experts, which have no roles here"):
        find_projections(model, ["gate"])
    names = [place.name for place in walk(model)]
    roles = Counter(p.role for p in assign_roles(model, names, FEED_FORWARD_ROLES))
    assert roles == {"*": 4 + 1 + 6}


def test_a_shared_expert_beside_them_is_a_dense_block() -> None:
    shared = _Block(**_linears(**GATED), act=nn.SiLU())
    model = _model(_Block(gate=nn.Linear(16, 2), experts=_experts(), shared_expert=shared))
    found = find_projections(model, FEED_FORWARD_ROLES)
    assert {p.name.rpartition(".")[0] for p in found} == {"layers.0.mlp.shared_expert"}


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "gpt_oss", "granitemoe", "olmoe"])
def test_models_of_experts_alone_are_refused_by_name(model_type: str) -> None:
    model = build(model_type, device="meta")
    if model_type == "granitemoe" and not any(
        "experts" in name for name, _ in model.named_modules()
    ):
        pytest.skip("its experts have other names in an older transformers")
    with pytest.raises(UserError, match=rf"{model_type}.*mixtures of experts") as caught:
        find_projections(model, ["up"])
    assert "\n" not in str(caught.value)
    assert len(find_projections(model)) == 8


def test_a_block_without_a_gate_says_what_its_first_matrix_is() -> None:
    with pytest.raises(UserError, match="have no gate: their first matrix is 'up'"):
        find_projections(build("bert", device="meta"), ["gate"])


# --- Fused layers, and behaviour ----------------------------------------------------------------


def test_rows_of_gate_and_up_add_up_to_the_whole_weight() -> None:
    model = build("modernbert")
    gate, up = (p for p in find_projections(model, ["gate", "up"]) if p.layer == 0)
    assert (gate.key, up.key) == (f"{gate.name}.gate", f"{gate.name}.up")
    assert gate.shape == up.shape == (48, 32)
    assert torch.equal(torch.cat([gate.weight(), up.weight()]), gate.module.weight)


def test_inspect_lists_feed_forward_blocks_beside_attention() -> None:
    listed = inspect(build("phi3"))
    assert Counter(row.role for row in listed.rows) == dict.fromkeys(
        ("q", "k", "v", "o", "gate", "up", "down"), 2
    )
    assert "0:48" in str(listed) and "48:96" in str(listed)
    assert {row.role for row in inspect(build("bert")).rows} == {"q", "k", "v", "o", "up", "down"}
    assert {row.role for row in inspect(build("mixtral")).rows} == {"q", "k", "v", "o"}


_GLM = {"hidden_size": 16, "intermediate_size": 24, "hidden_act": "silu"}
_SMALL = {
    **_GLM,
    "ffn_dim": 48,
    "activation": "silu",
    "bias": True,
    "dropout": 0.0,
    "dropout_rate": 0.0,
}
_LAYERS = (16, 24, 16, 2)
ALONE: dict[str, tuple[Any, ...]] = {
    "bark.BarkMLP": (SimpleNamespace(**_SMALL),),
    "d_fine.DFineMLP": _LAYERS,
    "deimv2.Deimv2MLP": _LAYERS,
    "dia.DiaMLP": (SimpleNamespace(**_GLM),),
    "dots3_note.Dots3NoteAudioMLP": (SimpleNamespace(**_GLM),),
    "edgetam_video.EdgeTamVideoFeedForward": _LAYERS,
    "glm4v.Glm4vTextMLP": (SimpleNamespace(**_GLM),),
    "glm_image.GlmImageTextMLP": (SimpleNamespace(**_GLM),),
    "glm_ocr.GlmOcrTextMLP": (SimpleNamespace(**_GLM),),
    "kyutai_speech_to_text.KyutaiSpeechToTextGatingMLP": (SimpleNamespace(**_SMALL),),
    "moonshine.MoonshineDecoderMLP": (SimpleNamespace(**_GLM), "silu"),
    "moonshine_streaming.MoonshineStreamingDecoderMLP": (SimpleNamespace(**_GLM), "silu"),
    "phi4_multimodal.Phi4MultimodalAudioMLP": (SimpleNamespace(**_SMALL),),
    "sam2_video.Sam2VideoFeedForward": _LAYERS,
    "sam3_tracker.Sam3TrackerFeedForward": _LAYERS,
    "sam3_tracker_video.Sam3TrackerVideoFeedForward": _LAYERS,
    "timesfm.TimesFmMLP": (SimpleNamespace(**_SMALL),),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_classes_that_are_in_no_model_of_the_table_are_what_their_behaviour_shows(
    name: str,
) -> None:
    module, _, cls = name.partition(".")
    modeling = pytest.importorskip(
        f"transformers.models.{module}.modeling_{module}", reason="newer than this transformers"
    )
    if not hasattr(modeling, cls):
        pytest.skip("newer than this transformers")
    model = _model(getattr(modeling, cls)(*ALONE[name])).eval()
    (site,) = probe.sites(feed_forward(model))
    assert probe.contradictions(site, probe.observed(model, {}, site)) == []


def _claiming(model: hf.PreTrainedModel, **changed: str) -> list[str]:
    """What the probe says against the first block's roles with some exchanged."""
    randomise(model)
    site = probe.sites(feed_forward(model))[0]
    said = tuple(
        Projection(**{**vars(p), "role": changed.get(p.role, p.role)}) for p in site.projections
    )
    ids = {"input_ids": torch.arange(5, 5 + probe.LENGTH)[None]}
    return probe.contradictions(probe.Site(projections=said), probe.observed(model, ids, site))


@pytest.mark.parametrize("model_type", ["llama", "t5gemma", "modernbert", "phi3", "moshi"])
def test_the_probe_contradicts_gate_and_up_exchanged(model_type: str) -> None:
    assert not _claiming(build(model_type))
    assert len(_claiming(build(model_type), gate="up", up="gate")) == 2


def test_the_probe_contradicts_a_first_matrix_taken_for_a_gate() -> None:
    model = build("bert")
    assert not _claiming(model)
    model = build("llama")
    randomise(model)
    (site, _) = probe.sites([p for p in feed_forward(model) if p.role != "gate"])
    seen = probe.observed(model, {}, site)
    assert "channel 0 is ('straight', 0)" in probe.contradictions(site, seen)[0]


@pytest.mark.parametrize("model_type", ["phi3", "zamba2", "t5gemma", "nemotron_h"])
def test_blocks_are_found_without_weights(model_type: str) -> None:
    on_meta, real = (feed_forward(build(model_type, device=d)) for d in ("meta", "cpu"))
    assert on_meta and [(p.key, p.rows, p.shape) for p in on_meta] == [
        (p.key, p.rows, p.shape) for p in real
    ]


def test_a_network_of_positions_inside_attention_leaves_feed_forward_in_no_doubt() -> None:
    mlp = _Block(**_linears(**GATED), act=nn.SiLU())
    positions = _Block(**_linears(expand=(8, 2), shrink=(4, 8)), act=nn.ReLU())
    layer = _Block(self_attn=_Block(**_linears(**ATTENTION), position_mlp=positions), mlp=mlp)
    found = find_projections(_Block(layers=nn.ModuleList([layer])), ["up"])
    assert [p.name for p in found] == ["layers.0.mlp.up_proj"]
