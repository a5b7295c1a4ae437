"""Models for images and sound, and the parts of models of several modalities, by behaviour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from ailora.errors import UserError
from ailora.roles import ATTENTION_ROLES, FEED_FORWARD_ROLES, assign_roles, find_projections
from ailora.roles.walk import walk
from tests.roles import feed_forward_probe, probe
from tests.towers import TOWERS, build_tower, language_model, tower_inputs


def _length(model: nn.Module, inputs: Callable[[int], Mapping[str, Tensor]], at: nn.Module) -> int:
    """How long a sequence a layer sees, for two rows."""
    seen: list[Tensor] = []
    handle = at.register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        model(**inputs(2))
    handle.remove()
    return seen[0].shape[0] // 2 if seen[0].ndim == 2 else seen[0].shape[1]


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
        if site.projections[0].attention == "cross":  # keys of another length: queries alone
            continue
        assert probe.observed(model, inputs, site, length) == probe.claimed(site)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
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
        assert site.down.module.out_features == site.inputs[0].in_features
        seen = feed_forward_probe.observed(model, tower_inputs(name)(1), site)
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


@pytest.mark.parametrize("dual", [hf.CLIPModel, hf.SiglipModel])
def test_both_halves_of_a_dual_model_are_read(dual: type[hf.PreTrainedModel]) -> None:
    small = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    vision = {**small, "image_size": 24, "patch_size": 8}
    config = dual.config_class(text_config={**small, "vocab_size": 64}, vision_config=vision)
    with torch.device("meta"):
        model = dual(config)
    halves = Counter(p.name.partition(".")[0] for p in find_projections(model))
    assert halves == {"text_model": 4, "vision_model": 4}
    assert len(find_projections(model, parts=["vision"])) == 4


def test_the_vision_half_of_a_dual_model_under_a_head_is_read_whole() -> None:
    small = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    vision = {**small, "image_size": 24, "patch_size": 8}
    config = hf.CLIPConfig(text_config={**small, "vocab_size": 64}, vision_config=vision)
    with torch.device("meta"):
        model = hf.CLIPForImageClassification(config)
    assert {p.role for p in find_projections(model)} == set(ATTENTION_ROLES)
    assert {place.part for place in walk(model)} == {"vision"}
