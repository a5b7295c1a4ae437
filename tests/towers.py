"""Tiny random models for images and sound, and of several modalities, from their own configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as hf
from torch import Tensor

Inputs = Callable[[int], Mapping[str, Tensor]]

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_BERT = {**_SMALL, "intermediate_size": 48}
_IMAGE = {**_BERT, "image_size": 24, "patch_size": 8}
_SOUND = {
    **_BERT,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 2,
}
_VISION_QWEN = {"depth": 2, "num_heads": 4, "patch_size": 4, "temporal_patch_size": 2}
_QWEN: Mapping[str, dict[str, Any]] = {
    "qwen2_vl": {**_VISION_QWEN, "embed_dim": 32, "mlp_ratio": 2, "hidden_size": 32},
    "qwen2_5_vl": {
        **_VISION_QWEN,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "window_size": 16,
        "fullatt_block_indexes": [0, 1],
    },
    "qwen3_vl": {
        **_VISION_QWEN,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [1],
        "num_position_embeddings": 16,
    },
}


def _swin() -> hf.PreTrainedModel:
    sizes = {"embed_dim": 32, "depths": [2], "num_heads": [4], "window_size": 4}
    return hf.SwinModel(hf.SwinConfig(image_size=16, patch_size=4, **sizes))


def _whisper() -> hf.PreTrainedModel:
    sizes = {f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in _HALF.items()}
    return hf.WhisperModel(
        hf.WhisperConfig(
            d_model=32,
            num_mel_bins=8,
            max_source_positions=8,
            max_target_positions=16,
            vocab_size=64,
            pad_token_id=1,
            bos_token_id=2,
            eos_token_id=3,
            decoder_start_token_id=1,
            **sizes,
        )
    )


_HALF = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}
TOWERS: Mapping[str, Callable[[], hf.PreTrainedModel]] = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**_IMAGE)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**_IMAGE)),
    "swin": _swin,
    "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**_IMAGE)),
    "whisper": _whisper,
    "wav2vec2": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**_SOUND)),
    "hubert": lambda: hf.HubertModel(hf.HubertConfig(**_SOUND)),
    "qwen2_vl": lambda: _qwen("qwen2_vl"),
    "qwen2_5_vl": lambda: _qwen("qwen2_5_vl"),
    "qwen3_vl": lambda: _qwen("qwen3_vl"),
}


def _qwen(name: str) -> hf.PreTrainedModel:
    """The vision tower alone."""
    return _full(name).model.visual


def _full(name: str) -> Any:
    model_class = {
        "qwen2_vl": hf.Qwen2VLForConditionalGeneration,
        "qwen2_5_vl": hf.Qwen2_5_VLForConditionalGeneration,
        "qwen3_vl": hf.Qwen3VLForConditionalGeneration,
    }[name]
    text = {
        **_BERT,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 64,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
        },
    }
    config = model_class.config_class(
        text_config=text,
        vision_config=_QWEN[name],
        image_token_id=60,
        video_token_id=61,
        vision_start_token_id=62,
        vision_end_token_id=63,
    )
    return model_class._from_config(config, attn_implementation="eager")


def build_tower(name: str) -> hf.PreTrainedModel:
    """A seeded model of one kind of input, or the vision tower of a larger one, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TOWERS[name]().eval()
    if name not in _QWEN:
        model.set_attn_implementation("eager")
    return model


def language_model(name: str) -> Any:
    """A whole seeded Qwen-VL, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _full(name).eval()


def tower_inputs(name: str) -> Inputs:
    """What makes inputs of a number of rows, all alike."""
    generator = torch.Generator().manual_seed(1)
    if name in _QWEN:
        patches = torch.randn(16, 3 * 2 * 4 * 4, generator=generator)
        key = "hidden_states"
        grid = torch.tensor([[1, 4, 4]])
        return lambda n: {key: patches.repeat(n, 1), "grid_thw": grid.repeat(n, 1)}
    if name == "whisper":
        sound = torch.randn(1, 8, 16, generator=generator)
        ids = torch.arange(5, 13)[None]
        return lambda n: {
            "input_features": sound.expand(n, -1, -1),
            "decoder_input_ids": ids.expand(n, -1),
        }
    if name in ("wav2vec2", "hubert"):
        wave = torch.randn(1, 105, generator=generator)
        return lambda n: {"input_values": wave.expand(n, -1)}
    side = 16 if name == "swin" else 24
    image = torch.randn(1, 3, side, side, generator=generator)
    return lambda n: {"pixel_values": image.expand(n, -1, -1, -1)}
