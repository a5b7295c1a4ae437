"""Roles of attention in models of diffusers, held against what the layers do."""

from __future__ import annotations

import re

import pytest
from torch import nn

from ailora.errors import UserError
from ailora.roles import find_projections
from tests.diffusion import MODELS, build
from tests.roles import diffusion_models, feed_forward_probe
from tests.roles.diffusion_probe import observed
from tests.roles.survey import feed_forward

pytest.importorskip("diffusers", reason="an optional dependency of the tests")

_IN_ATTENTION = re.compile(r"\.attn\d?\.")


@pytest.mark.parametrize("kind", [*MODELS, *diffusion_models.MODELS])
def test_every_channel_does_what_its_role_says(kind: str) -> None:
    model, inputs = build(kind) if kind in MODELS else diffusion_models.build(kind)
    for projection in find_projections(model):
        block = model.get_submodule(projection.name.partition(".to_")[0].partition(".add_")[0])
        found = observed(model, inputs, block, projection.module)
        assert found == [projection.role] * len(found), projection.name


@pytest.mark.parametrize("kind", [*MODELS, *diffusion_models.MODELS])
def test_feed_forward_blocks_are_what_their_behaviour_shows(kind: str) -> None:
    model, _ = build(kind) if kind in MODELS else diffusion_models.build(kind)
    sites = feed_forward_probe.sites(feed_forward(model))
    blocks = [name for name, m in model.named_modules() if type(m).__name__ == "FeedForward"]
    layers = [name for name in blocks if re.search(r"\.\d+\.\w+$", name)]
    assert {site.down.name.removesuffix(".net.2") for site in sites} >= set(layers)
    for site in sites:
        seen = feed_forward_probe.observed(model, {}, site, any_length=True)
        assert feed_forward_probe.contradictions(site, seen) == []


def test_a_gated_block_of_diffusers_holds_up_first() -> None:
    model, _ = build("unet")
    roles = {
        p.key.partition(".ff.")[2]: p.rows for p in feed_forward(model) if "mid_block" in p.name
    }
    assert roles == {
        "net.0.proj.up": ((0, 64),),
        "net.0.proj.gate": ((64, 128),),
        "net.2": None,
    }


@pytest.mark.parametrize("kind", MODELS)
def test_every_linear_layer_of_attention_has_a_role(kind: str) -> None:
    model, _ = build(kind)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = {projection.name for projection in find_projections(model)}
    assert found == {name for name in linear if _IN_ATTENTION.search(name)}


def test_both_sets_of_joint_attention_have_the_same_roles() -> None:
    model, _ = build("flux")
    names = {"q": [], "k": [], "v": [], "o": []}
    for projection in find_projections(model):
        if projection.name.startswith("transformer_blocks.0."):
            names[projection.role].append(projection.name.partition(".attn.")[2])
    assert names == {
        "q": ["to_q", "add_q_proj"],
        "k": ["to_k", "add_k_proj"],
        "v": ["to_v", "add_v_proj"],
        "o": ["to_out.0", "to_add_out"],
    }


def test_attention_to_the_text_is_cross_attention() -> None:
    model, _ = build("unet")
    for projection in find_projections(model):
        assert (projection.attention == "cross") == (".attn2." in projection.name)


def test_fused_projections_are_refused_by_name() -> None:
    model, _ = build("unet")
    model.fuse_qkv_projections()
    with pytest.raises(UserError, match="'to_qkv' holds several roles"):
        find_projections(model)


def test_an_image_prompt_in_the_processor_is_refused_by_name() -> None:
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    model, _ = build("unet")
    attention = model.mid_block.attentions[0].transformer_blocks[0].attn2
    attention.set_processor(IPAdapterAttnProcessor2_0(hidden_size=16, cross_attention_dim=12))
    with pytest.raises(UserError, match=r"'processor\.to_k_ip\.0' in it is not understood"):
        find_projections(model)


def test_two_sets_that_do_not_fit_are_refused() -> None:
    model, _ = build("sd3")
    model.transformer_blocks[0].attn.add_k_proj = nn.Linear(16, 24)
    with pytest.raises(UserError, match="would not fit beside one another"):
        find_projections(model)


def test_linear_attention_has_no_roles() -> None:
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel(
        **diffusion_models.HEADS,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=12,
        sample_size=8,
    )
    names = {projection.name for projection in find_projections(model)}
    assert names == {
        f"transformer_blocks.0.attn2.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")
    }
