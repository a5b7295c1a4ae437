"""What is known about architectures, as plain data: names of attention's parts, and fused layouts.

An attention block is a module that has its query, key and value side by side. A few spellings
cover nearly every architecture, so none is listed by name; ``ailora.roles.attention`` checks
that a block is what its spelling promises.

Where one weight holds several roles, no name tells which rows are whose: that is listed by class.
Every layout known repeats a pattern of blocks of rows down the weight: GPT-2's is q, k, v once,
BLOOM's the same once per head, Falcon's once per group of heads. A class is listed only after a
test has perturbed its rows (``tests/roles/test_behaviour.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ailora.roles.projection import AttentionKind, RoleName, Rows, Stack

# The children of a block that are its q, k and v.
SPELLINGS: tuple[tuple[str, str, str], ...] = (
    ("q_proj", "k_proj", "v_proj"),  # LLaMA, BART, GPT-J, ...
    ("q_proj.linear", "k_proj.linear", "v_proj.linear"),  # Moshi, Inkling 2
    ("query", "key", "value"),  # BERT
    ("query_proj", "key_proj", "value_proj"),  # DeBERTa-v2, ProphetNet
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT, XLM
    ("q", "k", "v"),  # T5, MPNet
    ("q_head", "k_head", "v_head"),  # Funnel
    ("project_q", "project_k", "project_v"),  # CPM-Ant
    ("linear_q", "linear_k", "linear_v"),
    ("Wq", "Wk", "Wv"),  # CTRL
    ("wq", "wk", "wv"),
    ("to_q", "to_k", "to_v"),  # diffusers
)
# The query of classes whose keys and values share a weight: GPT-2's cross-attention, and latent
# attention, which has one of the last two.
FUSED_QUERIES = ("q_attn", "q_b_proj", "q_proj")
# The output projection, in the block or, as in BERT, beside it.
OUTPUTS = (
    "o_proj",
    "o_proj.linear",  # Inkling 2
    "output_projection.o_proj",  # NeoMME
    "out_proj",
    "dense",
    "Wo",
    "wo",
    "o",
    "out_lin",
    "post_proj",
    "attention_out",
    "c_proj",
    "linear_out",
    "to_out",
    "to_out.0",  # diffusers, where a dropout follows
    "proj",  # vision towers of Qwen-VL, SAM
    "projection_layer",  # InternVL
)
OUTPUTS_BESIDE = ("output.dense", "output", "out_proj", "dense")
# The second set of joint attention in diffusers (SD3, Flux): those of the text, whose queries, keys
# and values are put beside the image's. Some classes add keys and values alone.
ADDED: Mapping[RoleName, str] = {
    "q": "add_q_proj",
    "k": "add_k_proj",
    "v": "add_v_proj",
    "o": "to_add_out",
}
# Children with matrices that change nothing about who is q, k, v and o: gates on the output, what
# latent attention makes its latents with, and Swin's table of biases.
HARMLESS = frozenset(
    {"gate_proj", "g_proj", "q_a_proj", "kv_a_proj_with_mqa", "relative_position_bias"}
)
_INDEXER = "an indexer, which is left alone, chooses the keys that are attended to"
# Attention classes whose further matrices were looked at, and what there is to know about them.
UNDERSTOOD: Mapping[str, str] = {
    "AXK2Attention": _INDEXER,
    "ConvBertSelfAttention": "the query also steers the span convolution",
    "DeepseekV32Attention": _INDEXER,
    "DisentangledSelfAttention": "projections of relative positions are left alone",
    "DogeAttention": "the value also steers the attention mask",
    "Dots3NoteTextAttention": _INDEXER,
    "Glm5NextTextAttention": _INDEXER,
    "GlmMoeDsaAttention": _INDEXER,
    "HYV4Attention": _INDEXER,
    "HYV4VLAttention": _INDEXER,
    "Inkling2FullAttention": "short convolutions follow key and value",
    "Inkling2LoopFullAttention": "short convolutions follow key and value",
    "Inkling2LoopSlidingAttention": "short convolutions follow key and value",
    "Inkling2SlidingAttention": "short convolutions follow key and value",
    "InklingAttention": "short convolutions follow key and value",
    "LEDEncoderSelfAttention": "query_global, key_global and value_global are left alone",
    "LiltSelfAttention": "layout_query, layout_key and layout_value are left alone",
    "LongformerSelfAttention": "query_global, key_global and value_global are left alone",
    "LukeSelfAttention": "w2e_query, e2w_query and e2e_query are left alone",
    "MistralLarge4TextAttention": _INDEXER,
    "NystromformerSelfAttention": "a convolution over the value is added to the output",
    "ProphetNetNgramSelfAttention": "projections of relative positions are left alone",
}

_CROSS = re.compile(r"cross|encoder_attn|encdec", re.IGNORECASE)
_NO_SOFTMAX = re.compile(
    r"(?i:linear_?att|lightning|delta|mamba|rwkv|retention|retnet|hyena|lstm)|SSM|^ssm|"
    r"^GroupViTAssign"  # its softmax is over the queries, which compete for each key
)
_ATTENTION = re.compile(r"att", re.IGNORECASE)
_STATE = re.compile(r"^(A_log|dt_bias|.*decay.*)$", re.IGNORECASE)
_FUSED_NAME = re.compile(
    r"qkv|^(query_key(_value)?|c_attn|in_proj|kv_proj|kv_b_proj|q_?k_proj|to_kv)$"
)
_LATENT = re.compile(r"^(kv_a_proj.*|kv_b_proj|q_a_proj|q_b_proj)$")
_LATENT_KEY_VALUE = "kv_b_proj"
_NUMBERED = re.compile(r"(?:^|\.)[^.]+\.(\d+)(?:\.|$)")
_SHARED = re.compile(r"(?:^|\.)\w*layer_groups\.")  # ALBERT: numbers of groups, not of layers


def matches(path: str, entry: str) -> bool:
    """Whether ``path`` is ``entry`` or ends with it after a dot: PEFT's ``target_modules``."""
    return path == entry or path.endswith(f".{entry}")


def layer_of(path: str) -> int | None:
    """The outermost number that follows a name in ``path``; None without one.

    PEFT 0.21 reads ``layers_to_transform`` the same way, except that it misses layers at the very
    start of a path (``layers.0...`` of a bare ``LlamaModel``). ALBERT's numbers count groups of
    layers that share their weights, so there it is None.
    """
    found = None if _SHARED.search(path) else _NUMBERED.search(path)
    return int(found.group(1)) if found else None


def stack_of(path: str) -> Stack:
    """``"encoder"`` or ``"decoder"``, whichever stands first in ``path``; else ``""``."""
    for part in path.split("."):
        if part == "encoder":
            return "encoder"
        if part == "decoder":
            return "decoder"
    return ""


def attention_of(path: str) -> AttentionKind:
    """``"cross"`` if a part of ``path`` is called like a block of cross-attention."""
    return "cross" if _CROSS.search(path) else "self"


def has_no_softmax(class_name: str, path: str, parameters: list[str]) -> bool:
    """Whether names betray linear attention, a state-space model or another that has no q, k, v."""
    named = _NO_SOFTMAX.search(class_name) or _NO_SOFTMAX.search(path.rpartition(".")[2])
    return bool(named) or any(map(_STATE.match, parameters))


def kind_of(attention: nn.Module, path: str) -> AttentionKind:
    """``"cross"`` if a block of attention says so itself, as diffusers' do, or by its path."""
    return (
        "cross" if getattr(attention, "is_cross_attention", False) is True else attention_of(path)
    )


def is_attention(class_name: str, path: str) -> bool:
    """Whether a module is called attention, by its class or by its own name."""
    return bool(_ATTENTION.search(class_name) or _ATTENTION.search(path.rpartition(".")[2]))


def looks_fused(child: str) -> bool:
    """Whether a layer is named as one that holds several roles."""
    return bool(_FUSED_NAME.search(child.rpartition(".")[2]))


def is_latent(child: str) -> bool:
    """Whether a layer is named as a part of multi-head latent attention (DeepSeek-V2)."""
    return bool(_LATENT.match(child))


def children_by_role(spelling: tuple[str, str, str]) -> dict[RoleName, str]:
    """A spelling with its roles: ``{"q": "q_proj", "k": "k_proj", "v": "v_proj"}``."""
    return {"q": spelling[0], "k": spelling[1], "v": spelling[2]}


# --- Weights that hold several roles ----------------------------------------------------------

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


def known_class(module: nn.Module, known: Collection[str]) -> str | None:
    """The first of a module's classes of transformers, ``"modeling_gpt2.GPT2MLP"``, in ``known``.

    Only classes of transformers itself count: a class of the same name in someone's own code may
    order its rows differently.
    """
    for cls in type(module).__mro__:
        name = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
        if cls.__module__.startswith("transformers.") and name in known:
            return name
    return None


def _contiguous(q: int, k: int, v: int) -> Layout:
    return Layout(repeats=1, pattern=(("q", q), ("k", k), ("v", v)))


def _thirds(_attention: Any, height: int) -> Layout:
    return _contiguous(*(height // 3,) * 3)


def _each_head(heads: int, height: int) -> Layout:
    size = height // (3 * heads)
    return Layout(repeats=heads, pattern=(("q", size), ("k", size), ("v", size)))


def _gpt2(attention: Any, height: int) -> Layout:
    if attention.is_cross_attention:  # the query has a layer of its own, q_attn
        return Layout(repeats=1, pattern=(("k", height // 2), ("v", height // 2)))
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
            "modeling_glm4v.Glm4vVisionAttention",
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
