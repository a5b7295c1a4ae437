"""More tiny transformers and UNets of diffusers, whose roles are tried: (class, config, inputs)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.diffusion import draw_weights

Shapes = dict[str, tuple[int, ...]]

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4}
_UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
_SIMPLE = {
    **_UNET,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "cross_attention_dim": 12,
    "resnet_time_scale_shift": "scale_shift",
}
_PIXART = {**HEADS, "sample_size": 8, "num_layers": 1, "cross_attention_dim": 16}
_WAN = {
    **HEADS,
    "attention_head_dim": 12,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 16,
    "num_layers": 1,
    "rope_max_seq_len": 16,
}
_IMAGE = (4, 8, 8)
_TEXT = {"encoder_hidden_states": (5, 12)}

MODELS: dict[str, tuple[str, dict[str, Any], Shapes]] = {
    "pixels": (
        "UNet2DModel",
        {
            **_UNET,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        {"sample": _IMAGE},
    ),
    "keys and values added": ("UNet2DConditionModel", _SIMPLE, {"sample": _IMAGE, **_TEXT}),
    "only those": (
        "UNet2DConditionModel",
        {**_SIMPLE, "only_cross_attention": True, "mid_block_only_cross_attention": True},
        {"sample": _IMAGE, **_TEXT},
    ),
    "PixArt": (
        "PixArtTransformer2DModel",
        {**_PIXART, "out_channels": 8, "caption_channels": 12, "use_additional_conditions": False},
        {"hidden_states": _IMAGE, **_TEXT},
    ),
    "Wan": ("WanTransformer3DModel", _WAN, {"hidden_states": (4, 1, 4, 6), **_TEXT}),
    "Wan, from an image": (  # one query for two calls of attention
        "WanTransformer3DModel",
        {**_WAN, "added_kv_proj_dim": 24, "image_dim": 10},
        {
            "hidden_states": (4, 1, 4, 6),
            "encoder_hidden_states": (517, 12),
            "encoder_hidden_states_image": (5, 10),
        },
    ),
    "AuraFlow": (
        "AuraFlowTransformer2DModel",
        {
            **HEADS,
            "sample_size": 8,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "caption_projection_dim": 16,
            "joint_attention_dim": 12,
            "pos_embed_max_size": 64,
        },
        {"hidden_states": _IMAGE, **_TEXT},
    ),
    "CogVideoX": (
        "CogVideoXTransformer3DModel",
        {
            **HEADS,
            "time_embed_dim": 4,
            "text_embed_dim": 12,
            "num_layers": 1,
            "sample_width": 4,
            "sample_height": 4,
            "sample_frames": 1,
            "max_text_seq_length": 5,
        },
        {"hidden_states": (1, 4, 4, 4), **_TEXT},
    ),
    "HunyuanVideo": (
        "HunyuanVideoTransformer3DModel",
        {
            **HEADS,
            "attention_head_dim": 10,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "patch_size": 1,
            "guidance_embeds": False,
            "text_embed_dim": 12,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (2, 4, 4),
        },
        {
            "hidden_states": (4, 1, 3, 3),
            **_TEXT,
            "pooled_projections": (8,),
            "encoder_attention_mask": (5,),
        },
    ),
}


def build(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model with random weights in eval mode, and the inputs of one call (one row)."""
    import diffusers

    cls, config, shapes = MODELS[name]
    torch.manual_seed(0)
    model = getattr(diffusers, cls)(**config)
    draw_weights(model)
    inputs = {
        name: torch.ones(1, *shape).bool() if name.endswith("mask") else torch.randn(1, *shape)
        for name, shape in shapes.items()
    }
    return model.eval(), {**inputs, "timestep": torch.tensor([5])}
