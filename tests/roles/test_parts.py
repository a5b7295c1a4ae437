"""Models for images and sound, and the parts of models of several modalities, by behaviour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers.models.oneformer import modeling_oneformer as oneformer
from transformers.models.x_clip import modeling_x_clip as xclip

from ailora.errors import UserError
from ailora.roles import (
    ATTENTION_ROLES,
    FEED_FORWARD_ROLES,
    architectures,
    assign_roles,
    find_projections,
    inspect,
    layouts,
)
from ailora.roles.projection import shape_of
from ailora.roles.walk import walk
from tests.architectures import small_settings
from tests.more_towers import is_newest
from tests.roles import feed_forward_probe, probe
from tests.towers import HALVES, TOWERS, build_tower, is_there, language_model, tower_inputs


def _length(model: nn.Module, inputs: Callable[[int], Mapping[str, Tensor]], at: nn.Module) -> int:
    """How long a sequence a layer sees, for two rows."""
    seen: list[Tensor] = []
    handle = at.register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        model(**inputs(2))
    handle.remove()
    if seen[0].ndim == 4 and seen[0].shape[1] > 1:  # a grid
        return seen[0].shape[1] * seen[0].shape[2]
    return seen[0].shape[0] // 2 if seen[0].ndim == 2 else seen[0].shape[1]


# Softmax is over pieces of the sequence here, so that keys are not told from values.
_NO_PROBABILITIES = {"gemma4_audio"}
_KEY_OR_VALUE = {"k": "kv", "v": "kv"}


@pytest.mark.parametrize("name", TOWERS)
def test_attention_of_towers_is_what_its_behaviour_shows(name: str) -> None:
    model = build_tower(name)
    probe.randomise(model)
    inputs = tower_inputs(name)
    sites = probe.sites(find_projections(model))
    assert sites
    for site in sites:
        assert {p.role for p in site.projections} == set(ATTENTION_ROLES)
        length = _length(model, inputs, site.inputs[0])
        claimed = probe.claimed(site)
        if name in _NO_PROBABILITIES:
            claimed = {at: [_KEY_OR_VALUE.get(r, r) for r in said] for at, said in claimed.items()}
        assert probe.observed(model, inputs, site, length, fewer_keys=True) == claimed


@pytest.mark.skipif(not is_newest(), reason="not all can be built with this transformers")
def test_every_fused_layout_of_towers_is_of_a_tower_that_was_tried() -> None:
    fused = {name for name, layouts in layouts._FUSED.items() if "qkv" in layouts}
    listed = {name for name in fused if is_there(name.split(".")[0].removeprefix("modeling_"))}
    tried = {
        architectures.known_class(module, listed)
        for name in TOWERS
        for module in build_tower(name).modules()
    }
    assert listed == tried - {None}


def test_swin_is_tried_with_windows_that_are_shifted_and_some_that_are_not() -> None:
    model = build_tower("swin")
    model(**tower_inputs("swin")(1))
    shifts = {m.shift_size for m in model.modules() if hasattr(m, "shift_size")}
    assert shifts == {0, 2}


class _Alone(nn.Module):
    """A block of attention that is inside no model, on one sequence."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.attention = block

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)  # type: ignore[no-any-return]


def _xclip() -> nn.Module:
    sizes = {"projection_dim": 32, "prompt_num_attention_heads": 4}
    config = hf.XCLIPConfig(**sizes)
    config._attn_implementation = "eager"
    return xclip.XCLIPCrossAttention(config)


ALONE = {"xclip": _xclip, "oneformer": lambda: oneformer.OneFormerTextMapperAttention(32, 4)}


@pytest.mark.parametrize("name", ALONE)
def test_blocks_whose_output_is_called_proj_are_what_their_behaviour_shows(name: str) -> None:
    model = _Alone(ALONE[name]()).eval()
    probe.randomise(model)
    (site,) = probe.sites(find_projections(model))
    assert {p.role: p.name for p in site.projections}["o"] == "attention.proj"
    x = torch.randn(1, probe.LENGTH, 32, generator=torch.Generator().manual_seed(1))
    assert probe.observed(model, {"x": x}, site) == probe.claimed(site)


def test_groups_that_compete_for_each_image_patch_are_no_queries() -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    sizes = {**small, "num_hidden_layers": 3, "depths": [1, 1, 1]}
    with torch.device("meta"):
        model = hf.GroupViTVisionModel(hf.GroupViTVisionConfig(**sizes))
    found = {p.name.rpartition(".")[0].rpartition(".")[2] for p in find_projections(model)}
    assert found == {"self_attn", "attn"}  # and not "assign"


FUSED = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v"]


@pytest.mark.parametrize("name", [name for name in FUSED if name in TOWERS])
def test_the_probe_contradicts_rows_of_towers_in_another_order(name: str) -> None:
    model = build_tower(name)
    probe.randomise(model)
    site = probe.sites(find_projections(model))[0]
    length = _length(model, tower_inputs(name), site.inputs[0])
    (seen,) = probe.observed(model, tower_inputs(name), site, length).values()
    third = len(seen) // 3
    assert seen == ["q"] * third + ["k"] * third + ["v"] * third
    by_head = [role for _ in range(4) for role in "qkv" for _ in range(third // 4)]
    assert seen != by_head and seen != ["k"] * third + ["q"] * third + ["v"] * third


@pytest.mark.parametrize("name", TOWERS)
def test_feed_forward_blocks_of_towers_are_what_their_behaviour_shows(name: str) -> None:
    model = build_tower(name)
    probe.randomise(model)
    names = [place.name for place in walk(model)]
    found = [p for p in assign_roles(model, names, FEED_FORWARD_ROLES) if p.role != "*"]
    sites = feed_forward_probe.sites(found)
    assert len(sites) > 1
    for site in sites:
        assert shape_of(site.down.module)[0] == shape_of(site.inputs[0])[1]
        seen = feed_forward_probe.observed(model, tower_inputs(name)(1), site, any_length=True)
        assert feed_forward_probe.contradictions(site, seen) == []


def test_both_halves_of_whisper_are_read_with_cross_attention() -> None:
    found = find_projections(build_tower("whisper"))
    kinds = Counter((p.role, p.stack, p.attention) for p in found)
    for role in ATTENTION_ROLES:
        assert kinds[role, "encoder", "self"] == kinds[role, "decoder", "self"] == 2
        assert kinds[role, "decoder", "cross"] == 2


def test_of_several_modalities_the_language_part_is_read_and_others_by_name() -> None:
    model = language_model("qwen2_5_vl")
    assert {p.name.split(".")[1] for p in find_projections(model)} == {"language_model"}
    tower = find_projections(model, parts=["vision"])
    assert {p.name.split(".")[1] for p in tower} == {"visual"}
    assert {p.rows for p in tower if p.role == "v"} == {((64, 96),)}
    both = find_projections(model, parts=["language", "vision"])
    assert len(both) == len(tower) + len(find_projections(model))


def test_a_part_that_is_not_there_is_named() -> None:
    model = language_model("qwen2_5_vl")
    with pytest.raises(UserError, match=r"'audio'.*has none: it has 'language' and 'vision' and"):
        find_projections(model, parts=["audio"])
    with pytest.raises(UserError, match="it has 'vision'"):
        find_projections(build_tower("vit"), parts=["language"])


@pytest.mark.parametrize("name", ["wav2vec2", "whisper"])
def test_a_model_that_hears_is_an_audio_part(name: str) -> None:
    model = build_tower(name)
    assert find_projections(model, parts=["audio"]) == find_projections(model)


def test_inspect_lists_the_parts_that_are_named_and_a_projector_without_roles() -> None:
    model = language_model("qwen2_5_vl")
    assert {row.name.split(".")[1] for row in inspect(model).rows} == {"language_model"}
    rows = inspect(model, parts=["vision", "projector"]).rows
    assert {row.role for row in rows if "merger" in row.name} == {"*"}
    assert {row.role for row in rows if "merger" not in row.name} == {*"qkvo", "gate", "up", "down"}
    assert [row.role for row in inspect(model, parts=["projector"]).rows] == ["*", "*"]


@pytest.mark.parametrize("dual", [hf.CLIPModel, hf.SiglipModel])
def test_both_halves_of_a_dual_model_are_read(dual: type[hf.PreTrainedModel]) -> None:
    config = dual.config_class(**HALVES)
    with torch.device("meta"):
        model = dual(config)
    halves = Counter(p.name.partition(".")[0] for p in find_projections(model))
    assert halves == {"text_model": 8, "vision_model": 8}  # two layers each
    assert len(find_projections(model, parts=["vision"])) == 8


def test_the_vision_half_of_a_dual_model_under_a_head_is_read_whole() -> None:
    config = hf.CLIPConfig(**HALVES)
    with torch.device("meta"):
        model = hf.CLIPForImageClassification(config)
    assert {p.role for p in find_projections(model)} == set(ATTENTION_ROLES)
    assert {place.part for place in walk(model)} == {"vision"}


def _on_meta(model_class: type[hf.PreTrainedModel]) -> nn.Module:
    config_class = model_class.config_class
    with torch.device("meta"):
        return model_class(config_class(**small_settings(config_class)))


@pytest.mark.parametrize("under", [hf.VisualBertForPreTraining, hf.SpeechT5ForTextToSpeech])
def test_the_model_under_a_head_is_no_tower_by_its_name(under: type[hf.PreTrainedModel]) -> None:
    model = _on_meta(under)
    found = {p.name.partition(".")[0] for p in find_projections(model)}
    assert found == {model.base_model_prefix}


def test_both_halves_are_read_under_a_head_too() -> None:
    found = Counter(
        p.name.split(".")[1] for p in find_projections(_on_meta(hf.OwlViTForObjectDetection))
    )
    assert found == {"text_model": 8, "vision_model": 8}


def test_a_model_with_two_configs_for_text_is_read() -> None:
    pytest.importorskip("transformers", "5", reason="its config makes none of its parts before")
    found = {
        p.name.partition(".")[0]
        for p in find_projections(_on_meta(hf.MusicgenForConditionalGeneration))
    }
    assert found == {"text_encoder", "decoder"}


ODD = {
    # A decoder below one of its own config, which no tower feeds.
    "CsmForConditionalGeneration": ("depth_decoder.model.inputs_embeds_projector", "language"),
    # It has a config with a vocabulary, and reads states of another model.
    "Nemotron3_5TranscribeForConditionalGeneration": ("model.word_timestamp_encoder", None),
}


@pytest.mark.parametrize("name", [name for name in ODD if hasattr(hf, name)])
def test_modules_that_look_like_another_part_are_of_their_own(name: str) -> None:
    module, part = ODD[name]
    model_class = getattr(hf, name)
    with torch.device("meta"):
        model = model_class(model_class.config_class())
    assert {place.name: place.part for place in walk(model)}[module] == part


def test_a_model_with_two_main_inputs_is_read_whole() -> None:
    with torch.device("meta"):
        model = hf.OneFormerForUniversalSegmentation(hf.OneFormerConfig())
    assert {place.part for place in walk(model)} == {"vision"}
