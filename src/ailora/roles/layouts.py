"""Weights that hold several roles: which of their rows are whose, by class of attention.

No name tells that. Every layout known repeats a pattern of blocks of rows down the weight: GPT-2's
is q, k, v once, BLOOM's the same once per head, Falcon's once per group of heads. A class is listed
only after a test has perturbed its rows (``tests/roles/test_behaviour.py``, ``test_parts.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ailora.roles.architectures import known_class
from ailora.roles.projection import RoleName, Rows

_LATENT_KEY_VALUE = "kv_b_proj"

Pattern = tuple[tuple[RoleName | None, int], ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What one weight holds, from its first row to its last.

    Attributes:
        repeats: How often the pattern stands in the weight.
        pattern: Blocks of rows as (role, number of rows); the role is None for what plays none
            (the output gate in Qwen3-Next's ``q_proj``).
    """

    repeats: int
    pattern: Pattern

    @property
    def height(self) -> int:
        """Number of rows of the whole weight."""
        return self.repeats * sum(size for _, size in self.pattern)

    def rows(self) -> dict[RoleName, Rows]:
        """For each role its half-open blocks of rows, ascending, touching ones merged."""
        found: dict[RoleName, list[tuple[int, int]]] = {}
        start = 0
        for role, size in self.pattern * self.repeats:
            stop = start + size
            if role is not None:
                blocks = found.setdefault(role, [])
                if blocks and blocks[-1][1] == start:
                    start = blocks.pop()[0]
                blocks.append((start, stop))
            start = stop
        return {role: tuple(blocks) for role, blocks in found.items()}


Fused = Mapping[str, Callable[[Any, int], Layout]]
"""One attention class: its children that hold several roles, each with what makes the layout of its
weight from the attention module and the weight's number of rows."""


def layouts_of(attention: nn.Module) -> Fused:
    """The fused children of an attention module by name; empty for a class that is not known."""
    known = known_class(attention, _FUSED)
    return {} if known is None else _FUSED[known]


def latent_heads(attention: nn.Module) -> tuple[int, int, int] | None:
    """(heads, rows of one head's query, rows of its value) of a known class of latent attention.

    None for any other. A query has as many rows as the key that it meets: those without position,
    which are in the weight, and those with it, which all heads share.
    """
    if _LATENT_KEY_VALUE not in layouts_of(attention):
        return None
    known: Any = attention
    return known.num_heads, known.qk_nope_head_dim + known.qk_rope_head_dim, known.v_head_dim


def _contiguous(q: int, k: int, v: int) -> Layout:
    return Layout(repeats=1, pattern=(("q", q), ("k", k), ("v", v)))


def _thirds(_attention: Any, height: int) -> Layout:
    return _contiguous(*(height // 3,) * 3)


def _halves(_attention: Any, height: int) -> Layout:
    return Layout(repeats=1, pattern=(("k", height // 2), ("v", height // 2)))


def _each_head(heads: int, height: int) -> Layout:
    size = height // (3 * heads)
    return Layout(repeats=heads, pattern=(("q", size), ("k", size), ("v", size)))


def _gpt2(attention: Any, height: int) -> Layout:
    if attention.is_cross_attention:  # the query has a layer of its own, q_attn
        return _halves(attention, height)
    return _thirds(attention, height)


def _gpt_bigcode(attention: Any, height: int) -> Layout:
    if attention.multi_query:
        return _contiguous(attention.embed_dim, attention.kv_dim, attention.kv_dim)
    return _each_head(attention.num_heads, height)


def _falcon(attention: Any, height: int) -> Layout:
    size = attention.head_dim
    if attention.new_decoder_architecture:
        group = attention.num_heads // attention.num_kv_heads
        pattern: Pattern = (("q", group * size), ("k", size), ("v", size))
        return Layout(repeats=attention.num_kv_heads, pattern=pattern)
    if attention.multi_query:
        return _contiguous(attention.num_heads * size, size, size)
    return _each_head(attention.num_heads, height)


def _codegen(_attention: Any, height: int) -> Layout:
    # Four blocks, one for each TPU core that it was trained on; the value stands before the key.
    size = height // 12
    return Layout(repeats=4, pattern=(("q", size), ("v", size), ("k", size)))


def _phi3(attention: Any, _height: int) -> Layout:
    key_value = attention.num_key_value_heads * attention.head_dim
    return _contiguous(attention.config.num_attention_heads * attention.head_dim, *[key_value] * 2)


def _dbrx(attention: Any, _height: int) -> Layout:
    key_value = attention.num_key_value_heads * attention.head_dim
    return _contiguous(attention.hidden_size, key_value, key_value)


def _exaone_vision(attention: Any, _height: int) -> Layout:
    return _contiguous(attention.q_dim, attention.kv_dim, attention.kv_dim)


def _by_num_heads(attention: Any, height: int) -> Layout:
    return _each_head(attention.num_heads, height)


def _by_num_attention_heads(attention: Any, height: int) -> Layout:
    return _each_head(attention.num_attention_heads, height)


def _gpt_neox(attention: Any, height: int) -> Layout:
    return _each_head(attention.config.num_attention_heads, height)


def _gated_query(attention: Any, height: int) -> Layout:
    size = attention.head_dim
    return Layout(repeats=height // (2 * size), pattern=(("q", size), (None, size)))


def _latent(attention: Any, _height: int) -> Layout:
    # The key's rows without position; the ones with it are kv_a_proj_with_mqa's, for all heads.
    pattern: Pattern = (("k", attention.qk_nope_head_dim), ("v", attention.v_head_dim))
    return Layout(repeats=attention.num_heads, pattern=pattern)


def _latent_gated_query(attention: Any, _height: int) -> Layout:
    pattern: Pattern = (("q", attention.qk_head_dim), (None, attention.v_head_dim))
    return Layout(repeats=attention.num_heads, pattern=pattern)


_FUSED: Mapping[str, Fused] = {
    "modeling_gpt2.GPT2Attention": {"c_attn": _gpt2},
    "modeling_decision_transformer.DecisionTransformerGPT2Attention": {"c_attn": _gpt2},
    "modeling_imagegpt.ImageGPTAttention": {"c_attn": _gpt2},
    "modeling_openai.Attention": {"c_attn": _thirds},
    "modeling_gpt_bigcode.GPTBigCodeAttention": {"c_attn": _gpt_bigcode},
    "modeling_bloom.BloomAttention": {"query_key_value": _by_num_heads},
    "modeling_gpt_neox.GPTNeoXAttention": {"query_key_value": _gpt_neox},
    "modeling_gpt_neox_japanese.GPTNeoXJapaneseAttention": {
        "query_key_value": _by_num_attention_heads
    },
    "modeling_persimmon.PersimmonAttention": {"query_key_value": _by_num_heads},
    "modeling_falcon.FalconAttention": {"query_key_value": _falcon},
    "modeling_codegen.CodeGenAttention": {"qkv_proj": _codegen},
    "modeling_mpt.MptAttention": {"Wqkv": _thirds},
    "modeling_bark.BarkSelfAttention": {"att_proj": _thirds},
    "modeling_granite_speech.GraniteSpeechConformerAttention": {"to_kv": _halves},
    "modeling_granite_speech_plus.GraniteSpeechPlusConformerAttention": {"to_kv": _halves},
    "modeling_exaone4_5.Exaone4_5_VisionAttention": {"qkv": _exaone_vision},
    "modeling_dbrx.DbrxAttention": {"Wqkv": _dbrx},
    "modeling_modernbert.ModernBertAttention": {"Wqkv": _thirds},
    "modeling_phi3.Phi3Attention": {"qkv_proj": _phi3},
    "modeling_phi4_multimodal.Phi4MultimodalAttention": {"qkv_proj": _phi3},
    "modeling_deberta.DisentangledSelfAttention": {"in_proj": _by_num_attention_heads},
    "modeling_qwen3_next.Qwen3NextAttention": {"q_proj": _gated_query},
    "modeling_qwen3_5.Qwen3_5Attention": {"q_proj": _gated_query},
    "modeling_qwen3_5_moe.Qwen3_5MoeAttention": {"q_proj": _gated_query},
    "modeling_qwen4_exp.Qwen4ExpTextAttention": {"q_proj": _gated_query},
    **{
        name: {"qkv": _thirds}
        for name in (
            "modeling_blip.BlipAttention",
            "modeling_blip_2.Blip2Attention",
            "modeling_cohere_compass.CohereCompassVisionAttention",
            "modeling_ernie4_5_vl_moe.Ernie4_5_VLMoeVisionAttention",
            "modeling_florence2.Florence2VisionWindowAttention",
            "modeling_glm4v.Glm4vVisionAttention",
            "modeling_glm5_next.Glm5NextVisionAttention",
            "modeling_glm_image.GlmImageVisionAttention",
            "modeling_got_ocr2.GotOcr2VisionAttention",
            "modeling_hiera.HieraMaskUnitAttention",
            "modeling_instructblip.InstructBlipAttention",
            "modeling_instructblipvideo.InstructBlipVideoAttention",
            "modeling_mgp_str.MgpstrAttention",
            "modeling_qwen4_exp.Qwen4ExpVisionAttention",
            "modeling_sam.SamVisionAttention",
            "modeling_sam2.Sam2MultiScaleAttention",
            "modeling_sam_hq.SamHQVisionAttention",
            "modeling_slanext.SLANeXtVisionAttention",
            "modeling_timesformer.TimesformerSelfAttention",
            "modeling_unlimited_ocr.UnlimitedOcrSamVisionAttention",
            "modeling_vitdet.VitDetAttention",
            "modeling_glm4v_moe.Glm4vMoeVisionAttention",
            "modeling_glm_ocr.GlmOcrVisionAttention",
            "modeling_qwen2_5_vl.Qwen2_5_VLVisionAttention",
            "modeling_qwen2_vl.VisionAttention",
            "modeling_qwen3_5.Qwen3_5VisionAttention",
            "modeling_qwen3_5_moe.Qwen3_5MoeVisionAttention",
            "modeling_qwen3_omni_moe.Qwen3OmniMoeVisionAttention",
            "modeling_qwen3_vl.Qwen3VLVisionAttention",
            "modeling_qwen3_vl_moe.Qwen3VLMoeVisionAttention",
        )
    },
    **{
        name: {_LATENT_KEY_VALUE: _latent}
        for name in (
            "modeling_axk1.AXK1Attention",
            "modeling_bailing_hybrid.BailingHybridAttention",
            "modeling_deepseek_v2.DeepseekV2Attention",
            "modeling_deepseek_v3.DeepseekV3Attention",
            "modeling_deepseek_v32.DeepseekV32Attention",
            "modeling_dots3_note.Dots3NoteTextAttention",
            "modeling_glm4_moe_lite.Glm4MoeLiteAttention",
            "modeling_glm5_next.Glm5NextTextAttention",
            "modeling_glm_moe_dsa.GlmMoeDsaAttention",
            "modeling_hy_v4.HYV4Attention",
            "modeling_hy_v4_vl.HYV4VLAttention",
            "modeling_kimi_linear.KimiLinearAttention",
            "modeling_longcat_flash.LongcatFlashMLA",
            "modeling_minicpm3.MiniCPM3Attention",
            "modeling_mistral4.Mistral4Attention",
            "modeling_mistral_large4.MistralLarge4TextAttention",
            "modeling_youtu.YoutuAttention",
        )
    },
    "modeling_axk2.AXK2Attention": {
        "q_gate_proj": _latent_gated_query,
        _LATENT_KEY_VALUE: _latent,
    },
}
