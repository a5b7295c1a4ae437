"""Tiny random models that read an image and text: a tower, a projector and a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as hf
from torch import Tensor

_IMAGE_TOKEN = 60
_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_VISION = {**_SMALL, "image_size": 16, "patch_size": 4}  # 16 patches
_TEXT = {
    **_SMALL,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def _llava() -> Any:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_VISION),
        text_config=hf.LlamaConfig(**_TEXT),
        image_token_index=_IMAGE_TOKEN,
        vision_feature_layer=-1,
    )
    return hf.LlavaForConditionalGeneration(config)


def _gemma3() -> Any:
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**_VISION, vision_use_head=False),
        text_config=hf.Gemma3TextConfig(**_TEXT),
        image_token_index=_IMAGE_TOKEN,
        mm_tokens_per_image=4,
    )
    return hf.Gemma3ForConditionalGeneration(config)


def _paligemma() -> Any:
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**_VISION, vision_use_head=False),
        text_config=hf.GemmaConfig(**_TEXT),
        image_token_index=_IMAGE_TOKEN,
        projection_dim=32,
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def _idefics3() -> Any:
    config = hf.Idefics3Config(
        vision_config=_VISION,
        text_config=hf.LlamaConfig(**_TEXT),
        image_token_id=_IMAGE_TOKEN,
        scale_factor=2,
        pad_token_id=1,
    )
    return hf.Idefics3ForConditionalGeneration(config)


MODELS: Mapping[str, Callable[[], Any]] = {
    "llava": _llava,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "idefics3": _idefics3,
}
# How many tokens of text an image becomes, and the part of a name that the tower's layers have.
_TOKENS = {"llava": 16, "gemma3": 4, "paligemma": 16, "idefics3": 4}
TOWER = {
    "llava": "vision_tower",
    "gemma3": "vision_tower",
    "paligemma": "vision_tower",
    "idefics3": "vision_model",
}


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A seeded model in eval mode, with weights of a size at which all of them matter."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = MODELS[name]().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            parameter.data = parameter.data.to(dtype)  # buffers stay, as from_pretrained has it
    return model


def inputs(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Two rows, each an image and six tokens of text."""
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    seen = torch.full((2, _TOKENS[name]), _IMAGE_TOKEN)
    ids = torch.cat([seen, torch.arange(5, 17).view(2, 6)], dim=1)
    made = {"input_ids": ids, "pixel_values": image[:, None] if name == "idefics3" else image}
    if name in ("gemma3", "paligemma"):
        made["token_type_ids"] = (ids == _IMAGE_TOKEN).long()
    return made
