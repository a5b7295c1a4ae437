"""Tiny random models for images and sound, and of several modalities, from their own configs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
import transformers as hf

from tests import more_towers
from tests.more_towers import Inputs

_OLD = hf.__version__.startswith("4.")
_ROPE, _THETA = ("rope_scaling", {}) if _OLD else ("rope_parameters", {"rope_theta": 10000.0})
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_BERT = {**_SMALL, "intermediate_size": 48}
_IMAGE = {**_BERT, "image_size": 24, "patch_size": 8}
# The configs of a model of two halves side by side, as CLIP and SigLIP take them.
HALVES = {
    "text_config": {
        **_BERT,
        "vocab_size": 64,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "vision_config": _IMAGE,
}
_SOUND = {**_BERT, **more_towers.CONVOLUTIONS}
_PATCHES = {"depth": 2, "num_heads": 4, "patch_size": 4, "temporal_patch_size": 2}
_QWEN_2 = {**_PATCHES, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32}
_QWEN_2_5 = {**_QWEN_2, "window_size": 16, "fullatt_block_indexes": [0, 1]}
_QWEN_3_5 = {**_QWEN_2, "num_position_embeddings": 16}
_QWEN_3 = {**_QWEN_3_5, "deepstack_visual_indexes": [1]}
_QWEN: Mapping[str, dict[str, Any]] = {
    "qwen2_vl": {**_PATCHES, "embed_dim": 32, "mlp_ratio": 2, "hidden_size": 32},
    "qwen2_5_vl": _QWEN_2_5,
    "qwen3_vl": _QWEN_3,
}
_GLM = {**_QWEN_2, "image_size": 16}
_MUSE = {**_BERT, "patch_size": 4, "pos_emb_height": 4, "pos_emb_width": 4}
_JANUS = {**_SMALL, "mlp_ratio": 2.0, "image_size": 24, "patch_size": 8}
_VIDEO = {
    "crop_size": 16,
    "patch_size": 8,
    "frames_per_clip": 4,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 2.0,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 2,
    "pred_num_attention_heads": 2,
    "pred_num_mask_tokens": 1,
}
# Towers of larger models by the module of transformers that they are in: the class, the argument
# that takes patches of a grid (none: it takes images), and its config's fields.
_INSIDE: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "qwen2_5_omni": ("Qwen2_5OmniVisionEncoder", "hidden_states", _QWEN_2_5),
    "qwen3_vl_moe": ("Qwen3VLMoeVisionModel", "hidden_states", _QWEN_3),
    "qwen3_omni_moe": ("Qwen3OmniMoeVisionEncoder", "hidden_states", _QWEN_3),
    "qwen3_5": ("Qwen3_5VisionModel", "hidden_states", _QWEN_3_5),
    "qwen3_5_moe": ("Qwen3_5MoeVisionModel", "hidden_states", _QWEN_3_5),
    "glm4v": ("Glm4vVisionModel", "hidden_states", _GLM),
    "glm4v_moe": ("Glm4vMoeVisionModel", "hidden_states", _GLM),
    "glm_ocr": ("GlmOcrVisionModel", "hidden_states", _GLM),
    "kimi_k25": ("Kimi_K25VisionModel", "pixel_values", _MUSE),
    "muse_glimmer": (
        "MuseGlimmerVisionModel",
        "pixel_values",
        {**_MUSE, "max_position_embeddings": 16},
    ),
    "muse_spark": (
        "MuseSparkVisionModel",
        "pixel_values",
        {**_MUSE, "max_position_embeddings": 16},
    ),
    "internvl": ("InternVLVisionModel", "", _IMAGE),
    "qianfan_ocr": ("QianfanOCRVisionModel", "", {**_IMAGE, "drop_path_rate": 0.0}),
    "janus": ("JanusVisionModel", "", _JANUS),
}


def _swin() -> hf.PreTrainedModel:
    sizes = {"embed_dim": 32, "depths": [2], "num_heads": [4], "window_size": 4}
    return hf.SwinModel(hf.SwinConfig(image_size=32, patch_size=4, **sizes))  # four windows


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


def is_there(name: str) -> bool:
    """Whether this transformers has a module of models of that name."""
    return importlib.util.find_spec(f"transformers.models.{name}") is not None


def _inside(name: str) -> hf.PreTrainedModel:
    class_name, _, sizes = _INSIDE[name]
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    tower = getattr(module, class_name)
    return cast("hf.PreTrainedModel", tower(tower.config_class(**sizes)))


_HALF = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}
TOWERS: Mapping[str, Callable[[], hf.PreTrainedModel]] = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**{**_IMAGE, "image_size": (8, 56)})),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**_IMAGE)),
    "swin": _swin,
    "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**_IMAGE)),
    "whisper": _whisper,
    "wav2vec2": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**_SOUND)),
    "hubert": lambda: hf.HubertModel(hf.HubertConfig(**_SOUND)),
    "qwen2_vl": lambda: _qwen("qwen2_vl"),
    "qwen2_5_vl": lambda: _qwen("qwen2_5_vl"),
    "qwen3_vl": lambda: _qwen("qwen3_vl"),
    "vjepa2": lambda: hf.VJEPA2Model(hf.VJEPA2Config(**_VIDEO)),
    **{name: partial(_inside, name) for name in _INSIDE if is_there(name)},
    **more_towers.TOWERS,
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
        _ROPE: {"rope_type": "default", "mrope_section": [2, 1, 1], **_THETA},
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
    if name not in _QWEN and name not in more_towers.TOWERS:
        model.set_attn_implementation("eager")
    return model


def language_model(name: str) -> Any:
    """A whole seeded Qwen-VL, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _full(name).eval()


def tower_inputs(name: str) -> Inputs:
    """What makes inputs of a number of rows, all alike."""
    if name in more_towers.TOWERS:
        return more_towers.inputs(name)
    generator = torch.Generator().manual_seed(1)
    key = "hidden_states" if name in _QWEN else _INSIDE[name][1] if name in _INSIDE else ""
    if key:
        frames = 1 if name == "kimi_k25" else 2  # in a patch
        patches = torch.randn(16, 3 * frames * 4 * 4, generator=generator)
        patches = patches.view(16, 3, 4, 4) if frames == 1 else patches
        grid = torch.tensor([[1, 4, 4]])
        return lambda n: {key: torch.cat([patches] * n), "grid_thw": grid.repeat(n, 1)}
    if name == "vjepa2":
        video = torch.randn(1, 4, 3, 16, 16, generator=generator)
        return lambda n: {"pixel_values_videos": video.expand(n, -1, -1, -1, -1)}
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
    size = {"swin": (32, 32), "vit": (8, 56)}.get(name, (24, 24))
    image = torch.randn(1, 3, *size, generator=generator)
    return lambda n: {"pixel_values": image.expand(n, -1, -1, -1)}
