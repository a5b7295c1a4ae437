"""More tiny models for images and sound, by name: the class, its config's fields, and its input."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
import transformers as hf
from packaging.version import Version
from torch import Tensor

from ailora.versions import TESTED
from tests.architectures import small_settings

Shapes = Mapping[str, tuple[int, ...]]
Inputs = Callable[[int], Mapping[str, Tensor]]

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_IMAGE = {**_SMALL, "intermediate_size": 48, "image_size": 24, "patch_size": 8}
_PIXELS: Shapes = {"pixel_values": (3, 24, 24)}
_BIG: Shapes = {"pixel_values": (3, 32, 32)}
_DEPTH = {"depth": 2, "num_heads": 4, "hidden_size": 32, "intermediate_size": 48, "patch_size": 4}
_GRID = {**_DEPTH, "temporal_patch_size": 2, "out_hidden_size": 32, "image_size": 16}
_STAGES = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "hidden_sizes": [16, 32],
    "num_attention_heads": [2, 4],
    "sr_ratios": [2, 1],
    "mlp_ratios": [2, 2],
    "patch_sizes": [3, 3],
    "strides": [4, 2],
    "decoder_hidden_size": 16,
}
_SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 32,
    "depths": [2],
    "num_heads": [4],
    "window_size": 4,
}
_SAM = {
    **_SMALL,
    "image_size": 32,
    "patch_size": 8,
    "window_size": 2,
    "global_attn_indexes": [1],
    "num_pos_feats": 16,
    "output_channels": 8,
    "mlp_dim": 48,
}
# What reads sound as wav2vec2 does.
CONVOLUTIONS = {
    "conv_dim": [16, 16],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
_WAVES = {**_SMALL, "intermediate_size": 48, **CONVOLUTIONS}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "vocab_size": 64}
_GRANITE = {
    "hidden_dim": 32,
    "input_dim": 16,
    "num_layers": 2,
    "num_heads": 4,
    "dim_head": 8,
    "context_size": 8,
    "max_pos_emb": 8,
    "output_dim": 16,
    "feedforward_mult": 2,
}

# The model of transformers, a class of it, what differs from `small_settings`, and the shape of one
# row of input (of patches in a grid -1, or -2 without time).
_TOWERS: Mapping[str, tuple[str, str, dict[str, Any], Shapes]] = {
    "blip": ("blip", "BlipVisionModel", _IMAGE, _PIXELS),
    "blip_2": ("blip_2", "Blip2VisionModel", _IMAGE, _PIXELS),
    "instructblip": ("instructblip", "InstructBlipVisionModel", _IMAGE, _PIXELS),
    "instructblipvideo": ("instructblipvideo", "InstructBlipVideoVisionModel", _IMAGE, _PIXELS),
    "sam": ("sam", "SamVisionModel", _SAM, _BIG),
    "sam_hq": ("sam_hq", "SamHQVisionModel", _SAM, _BIG),
    "sam2": (
        "sam2",
        "Sam2HieraDetModel",
        {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "image_size": [32, 32],
            "blocks_per_stage": [1, 1],
            "embed_dim_per_stage": [16, 32],
            "num_attention_heads_per_stage": [2, 4],
            "window_size_per_stage": [4, 4],
            "global_attention_blocks": [1],
            "num_query_pool_stages": 0,
            "window_positional_embedding_background_size": [2, 2],
            "mlp_ratio": 2.0,
        },
        _BIG,
    ),
    "got_ocr2": ("got_ocr2", "GotOcr2VisionEncoder", _SAM, _BIG),
    "slanext": ("slanext", "SLANeXtVisionEncoder", _SAM, _BIG),
    "unlimited_ocr": ("unlimited_ocr", "UnlimitedOcrSamVisionEncoder", _SAM, _BIG),
    "vitdet": (
        "vitdet",
        "VitDetModel",
        {
            **_IMAGE,
            "image_size": 32,
            "pretrain_image_size": 32,
            "window_size": 2,
            "window_block_indices": [0],
        },
        _BIG,
    ),
    "timesformer": (
        "timesformer",
        "TimesformerModel",
        {**_IMAGE, "num_frames": 2, "attention_type": "joint_space_time"},
        {"pixel_values": (2, 3, 24, 24)},
    ),
    "mgp_str": (
        "mgp_str",
        "MgpstrModel",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": [8, 16],
            "patch_size": 4,
            "mlp_ratio": 2.0,
        },
        {"pixel_values": (3, 8, 16)},
    ),
    "hiera": (
        "hiera",
        "HieraModel",
        {
            "embed_dim": 32,
            "image_size": [32, 32],
            "depths": [2],
            "num_heads": [4],
            "masked_unit_size": [8, 8],
            "query_stride": [2, 2],
            "num_query_pool": 0,
            "mlp_ratio": 2.0,
            "masked_unit_attention": [True],
        },
        _BIG,
    ),
    "florence2": (
        "florence2",
        "Florence2VisionBackbone",
        {
            "depths": [1],
            "patch_size": [7],
            "patch_stride": [4],
            "patch_padding": [3],
            "patch_prenorm": [False],
            "embed_dim": [32],
            "num_heads": [4],
            "num_groups": [4],
            "window_size": 4,
            "mlp_ratio": 2.0,
            "drop_path_rate": 0.0,
        },
        {"hidden_states": (3, 32, 32)},
    ),
    "segformer": ("segformer", "SegformerModel", _STAGES, _BIG),
    "glpn": ("glpn", "GLPNModel", _STAGES, _BIG),
    "pvt": (
        "pvt",
        "PvtModel",
        {**_STAGES, "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2], "image_size": 32},
        _BIG,
    ),
    "pvt_v2": (
        "pvt_v2",
        "PvtV2Model",
        {
            **_STAGES,
            "num_encoder_blocks": 2,
            "patch_sizes": [7, 3],
            "image_size": 32,
            "mlp_ratios": [2, 2],
        },
        _BIG,
    ),
    "swinv2": ("swinv2", "Swinv2Model", _SWIN, _BIG),
    "swin2sr": (
        "swin2sr",
        "Swin2SRModel",
        {**_SWIN, "patch_size": 1, "image_size": 8},
        {"pixel_values": (3, 8, 8)},
    ),
    "donut": ("donut", "DonutSwinModel", _SWIN, _BIG),
    "maskformer": ("maskformer", "MaskFormerSwinModel", _SWIN, _BIG),
    "granite_speech_plus": (
        "granite_speech_plus",
        "GraniteSpeechPlusCTCEncoder",
        _GRANITE,
        {"hidden_states": (8, 16)},
    ),
    "decision_transformer": (
        "decision_transformer",
        "DecisionTransformerGPT2Model",
        _GPT2,
        {"input_ids": ()},
    ),
    "bark": (
        "bark",
        "BarkSemanticModel",
        {
            **_SMALL,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "block_size": 16,
            "input_vocab_size": 64,
            "output_vocab_size": 64,
        },
        {"input_ids": ()},
    ),
    "pix2struct": (
        "pix2struct",
        "Pix2StructVisionModel",
        {
            "hidden_size": 32,
            "patch_embed_hidden_size": 12,
            "d_ff": 48,
            "d_kv": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        {"flattened_patches": (9, 14)},
    ),
    "imagegpt": ("imagegpt", "ImageGPTModel", _GPT2, {"input_ids": ()}),
    "kosmos2_5": (
        "kosmos2_5",
        "Kosmos2_5VisionModel",
        {
            "hidden_size": 32,
            "patch_embed_hidden_size": 12,
            "intermediate_size": 48,
            "head_dim": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        {"flattened_patches": (9, 14)},
    ),
    "wav2vec2_conformer": (
        "wav2vec2_conformer",
        "Wav2Vec2ConformerModel",
        {**_WAVES, "position_embeddings_type": "relative"},
        {"input_values": (105,)},
    ),
    "parakeet": (
        "parakeet",
        "ParakeetEncoder",
        {**_SMALL, "intermediate_size": 48, "num_mel_bins": 16, "subsampling_conv_channels": 8},
        {"input_features": (64, 16)},
    ),
    "gemma4_audio": ("gemma4", "Gemma4AudioModel", {}, {"input_features": (64, 128)}),
    "granite_speech": (
        "granite_speech",
        "GraniteSpeechCTCEncoder",
        _GRANITE,
        {"hidden_states": (8, 16)},
    ),
    "cohere_compass": (
        "cohere_compass",
        "CohereCompassVisionModel",
        {**_GRID, "num_position_embeddings": 16, "deepstack_visual_indexes": [1]},
        {"hidden_states": (-1,)},
    ),
    "ernie4_5_vl_moe": (
        "ernie4_5_vl_moe",
        "Ernie4_5_VLMoeVisionTransformerPretrainedModel",
        _GRID,
        {"hidden_states": (-2,)},
    ),
    "exaone4_5": (
        "exaone4_5",
        "Exaone4_5_VisionModel",
        {**_GRID, "num_key_value_heads": 2, "window_size": 16, "fullatt_block_indexes": [0, 1]},
        {"hidden_states": (-1,)},
    ),
    "glm5_next": ("glm5_next", "Glm5NextVisionModel", _GRID, {"hidden_states": (-1,)}),
    "glm_image": ("glm_image", "GlmImageVisionModel", _GRID, {"pixel_values": (-2,)}),
    "qwen4_exp": (
        "qwen4_exp",
        "Qwen4ExpVisionModel",
        {**_GRID, "num_position_embeddings": 16},
        {"hidden_states": (-1,)},
    ),
}


def is_newest() -> bool:
    """Whether these models can be built: others' configs have other fields."""
    return Version(hf.__version__) >= Version(TESTED["transformers"][1])


def _class_of(name: str) -> Any:
    model, class_name, _, _ = _TOWERS[name]
    found = getattr(hf, class_name, None)
    module = f"transformers.models.{model}.modeling_{model}"
    return found or getattr(importlib.import_module(module), class_name)


def build(name: str) -> hf.PreTrainedModel:
    """A model with random weights of a size at which they matter (BLIP's are almost zero)."""
    model_class = _class_of(name)
    settings = small_settings(model_class.config_class) | _TOWERS[name][2]
    config = model_class.config_class(**settings)
    model = cast(
        "hf.PreTrainedModel", model_class._from_config(config, attn_implementation="eager")
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    return model


def inputs(name: str) -> Inputs:
    """What makes inputs of a number of rows, all alike."""
    generator = torch.Generator().manual_seed(1)
    ((key, shape),) = _TOWERS[name][3].items()
    if key == "input_ids":
        return lambda n: {key: torch.arange(5, 13)[None].expand(n, -1)}
    if min(shape) < 0:
        frames = 2 if shape == (-1,) else 1
        patches = torch.randn(16, 3 * frames * 4 * 4, generator=generator)
        grid = torch.tensor([[1, 4, 4]])
        return lambda n: {key: torch.cat([patches] * n), "grid_thw": grid.repeat(n, 1)}
    row = torch.randn(1, *shape, generator=generator)
    if key == "flattened_patches":  # the first two columns are the patch's place
        row[..., 0], row[..., 1] = torch.arange(9) // 3, torch.arange(9) % 3
    return lambda n: {key: row.expand(n, *shape)}


TOWERS: Mapping[str, Callable[[], hf.PreTrainedModel]] = (
    {name: partial(build, name) for name in _TOWERS} if is_newest() else {}
)
