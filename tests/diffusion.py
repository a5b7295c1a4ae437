"""Tiny models of diffusers with random weights, each with the inputs of one call (batch of 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]

_JOINT = {
    "in_channels": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
}


def _text() -> Inputs:
    """What joint attention reads of a text."""
    return {
        "encoder_hidden_states": torch.randn(2, 5, 12),
        "pooled_projections": torch.randn(2, 10),
    }


def unet() -> tuple[nn.Module, Inputs]:
    """Stable Diffusion's: self-attention, cross-attention and GEGLU in one block."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return model, {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([5, 9]),
        "encoder_hidden_states": torch.randn(2, 5, 12),
    }


def sd3() -> tuple[nn.Module, Inputs]:
    """Joint attention; the first block has a second, plain one, the last leaves the text out."""
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        **_JOINT,
        sample_size=8,
        out_channels=4,
        num_layers=2,
        caption_projection_dim=16,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return model, {
        "hidden_states": torch.randn(2, 4, 8, 8),
        **_text(),
        "timestep": torch.tensor([5.0, 9.0]),
    }


def flux() -> tuple[nn.Module, Inputs]:
    """Joint attention, and a block without an output projection of its own."""
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        **_JOINT,
        num_layers=1,
        num_single_layers=1,
        axes_dims_rope=(2, 2, 4),
    )
    return model, {
        "hidden_states": torch.randn(2, 6, 4),
        **_text(),
        "timestep": torch.tensor([0.5, 0.9]),
        "img_ids": torch.zeros(6, 3),
        "txt_ids": torch.zeros(5, 3),
    }


MODELS: Mapping[str, Callable[[], tuple[nn.Module, Inputs]]] = {
    "unet": unet,
    "sd3": sd3,
    "flux": flux,
}


def build(kind: str) -> tuple[Any, Inputs]:
    """The same model and inputs each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = MODELS[kind]()
        draw_weights(model)
    return model.eval(), inputs


@torch.no_grad()
def draw_weights(model: nn.Module) -> None:
    """Random weights of a size at which all of them matter."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.copy_(0.2 * torch.randn(parameter.shape))
        else:
            parameter.add_(0.05 * torch.randn(parameter.shape))


@torch.no_grad()
def output(model: Any, inputs: Inputs) -> Tensor:
    """What the model predicts, in eval mode."""
    found: Tensor = model.eval()(**inputs).sample
    return found
