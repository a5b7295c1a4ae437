"""Multi-head latent attention: a weight that holds keys and values, head after head."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from ailora.errors import UserError
from ailora.roles import find_projections
from tests.architectures import build, small_settings
from tests.roles import probe
from tests.roles.survey import verify

# The text part of models that take images too: (module, config, model, further settings).
TEXT_PARTS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    (
        "glm5_next",
        "Glm5NextTextConfig",
        "Glm5NextTextModel",
        {"qk_rope_head_dim": 0, "linear_head_dim": 8, "linear_num_heads": 4},
    ),
    (
        "hy_v4_vl",
        "HYV4VLTextConfig",
        "HYV4VLTextModel",
        {
            "qk_rope_head_dim": 6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [1, 1, 1],
            },
        },
    ),
    ("mistral_large4", "MistralLarge4TextConfig", "MistralLarge4TextModel", {}),
)


def _text_part(name: str, config: str, model: str, more: dict[str, Any]) -> PreTrainedModel:
    package = f"transformers.models.{name}"
    configuration = pytest.importorskip(f"{package}.configuration_{name}")
    modeling = importlib.import_module(f"{package}.modeling_{name}")
    config_class = getattr(configuration, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: PreTrainedModel = getattr(modeling, model)._from_config(
            config_class(**(small_settings(config_class) | more)), attn_implementation="eager"
        )
    return built.eval()


@pytest.mark.parametrize("part", TEXT_PARTS, ids=lambda part: part[0])
def test_every_channel_of_a_text_part_does_what_its_role_says(
    part: tuple[str, str, str, dict[str, Any]],
) -> None:
    verdict = verify(_text_part(*part))
    assert (verdict.error, verdict.wrong) == ("", ())
    assert verdict.ran == verdict.blocks > 0 and verdict.with_softmax


def test_the_probe_contradicts_keys_above_values_and_values_above_keys() -> None:
    model = build("deepseek_v3")
    probe.randomise(model)
    site = probe.sites(find_projections(model))[0]
    module = next(p.module for p in site.projections if p.role == "v")
    seen = probe.observed(model, {"input_ids": torch.arange(5, 13)[None]}, site)[id(module)]
    assert seen == probe.claimed(site)[id(module)] == (["k"] * 8 + ["v"] * 12) * 4
    assert seen != ["k"] * 32 + ["v"] * 48
    assert seen != (["v"] * 12 + ["k"] * 8) * 4


def test_a_roles_weight_is_its_rows_of_every_head() -> None:
    found = {p.role: p for p in find_projections(build("deepseek_v3")) if p.layer == 0}
    assert {role: p.name.rpartition(".")[2] for role, p in found.items()} == {
        "q": "q_b_proj",
        "k": "kv_b_proj",
        "v": "kv_b_proj",
        "o": "o_proj",
    }
    heads = found["v"].module.weight.detach().view(4, 20, 16)
    assert torch.equal(found["k"].weight(), heads[:, :8].flatten(0, 1))
    assert torch.equal(found["v"].weight(), heads[:, 8:].flatten(0, 1))


@pytest.mark.parametrize("model_type", ["deepseek_v2", "deepseek_v3"])
def test_without_a_latent_of_its_own_the_query_is_q_proj(model_type: str) -> None:
    model = build(model_type, q_lora_rank=None)
    names = {p.name.rpartition(".")[2] for p in find_projections(model, ["q"])}
    assert names == {"q_proj"}
    verdict = verify(model)
    assert (verdict.error, verdict.wrong, verdict.ran) == ("", (), verdict.blocks)


@pytest.mark.parametrize(
    ("child", "shape", "complaint"),
    [
        ("kv_b_proj", (96, 16), "'kv_b_proj' has 96 rows where 80 are expected"),
        ("q_b_proj", (64, 16), "its q has 64 rows and its o 48 columns"),
        ("o_proj", (32, 32), "its q has 48 rows and its o 32 columns"),
    ],
)
def test_sizes_that_do_not_add_up_are_refused(
    child: str, shape: tuple[int, int], complaint: str
) -> None:
    model = build("deepseek_v3", device="meta")
    rows, columns = shape
    setattr(model.model.layers[1].self_attn, child, nn.Linear(columns, rows, device="meta"))
    with pytest.raises(UserError, match=complaint):
        find_projections(model, ["q", "v"])


def test_a_class_elsewhere_that_is_called_alike_is_refused() -> None:
    class DeepseekV3Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.qk_nope_head_dim, self.v_head_dim = 4, 8, 12
            self.q_proj, self.o_proj = nn.Linear(32, 48), nn.Linear(48, 32)
            self.kv_b_proj = nn.Linear(16, 80)

    model = nn.ModuleDict({"self_attn": DeepseekV3Attention()})
    with pytest.raises(UserError, match="'kv_b_proj' belongs to multi-head latent attention"):
        find_projections(model, ["q"])
    with pytest.raises(UserError, match="kv_b_proj', which by its name holds several roles"):
        find_projections(model, ["v"], modules={"v": ["kv_b_proj"]})


def test_one_projection_for_keys_and_values_stays_refused() -> None:
    with pytest.raises(UserError, match="belongs to multi-head latent attention"):
        find_projections(build("deepseek_v4", device="meta"), ["v"])
