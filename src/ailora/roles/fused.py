"""Weights that hold several roles: which rows of W belong to which, by attention class.

Every layout known repeats a pattern of blocks of rows down the weight: GPT-2's is q, k, v once,
BLOOM's the same once a head, Falcon's once a group of heads. A class stands here only after a test
has perturbed its rows (``tests/roles/test_behaviour.py``); no name of a layer tells the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ailora.roles.projection import RoleName, Rows

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


@dataclass(frozen=True, kw_only=True)
class Fused:
    """One attention class: the child that holds several roles, and the layout of its weight.

    ``layout`` takes the attention module and the number of rows of the weight.
    """

    child: str
    layout: Callable[[Any, int], Layout]


def layouts_of(attention: nn.Module) -> Mapping[str, Callable[[Any, int], Layout]]:
    """The fused children of an attention module by name; empty for a class that is not known.

    Only classes of transformers itself count: a class of the same name in someone's own code may
    order its rows differently.
    """
    for cls in type(attention).__mro__:
        if cls.__module__.startswith("transformers."):
            known = _FUSED.get(f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}")
            if known is not None:
                return {known.child: known.layout}
    return {}


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


_FUSED: Mapping[str, Fused] = {
    "modeling_gpt2.GPT2Attention": Fused(child="c_attn", layout=_gpt2),
    "modeling_openai.Attention": Fused(child="c_attn", layout=_thirds),
    "modeling_gpt_bigcode.GPTBigCodeAttention": Fused(child="c_attn", layout=_gpt_bigcode),
    "modeling_bloom.BloomAttention": Fused(child="query_key_value", layout=_by_num_heads),
    "modeling_gpt_neox.GPTNeoXAttention": Fused(child="query_key_value", layout=_gpt_neox),
    "modeling_gpt_neox_japanese.GPTNeoXJapaneseAttention": Fused(
        child="query_key_value", layout=_by_num_attention_heads
    ),
    "modeling_persimmon.PersimmonAttention": Fused(child="query_key_value", layout=_by_num_heads),
    "modeling_falcon.FalconAttention": Fused(child="query_key_value", layout=_falcon),
    "modeling_codegen.CodeGenAttention": Fused(child="qkv_proj", layout=_codegen),
    "modeling_mpt.MptAttention": Fused(child="Wqkv", layout=_thirds),
    "modeling_dbrx.DbrxAttention": Fused(child="Wqkv", layout=_dbrx),
    "modeling_modernbert.ModernBertAttention": Fused(child="Wqkv", layout=_thirds),
    "modeling_phi3.Phi3Attention": Fused(child="qkv_proj", layout=_phi3),
    "modeling_phi4_multimodal.Phi4MultimodalAttention": Fused(child="qkv_proj", layout=_phi3),
    "modeling_deberta.DisentangledSelfAttention": Fused(
        child="in_proj", layout=_by_num_attention_heads
    ),
    "modeling_qwen3_next.Qwen3NextAttention": Fused(child="q_proj", layout=_gated_query),
    "modeling_qwen3_5.Qwen3_5Attention": Fused(child="q_proj", layout=_gated_query),
    "modeling_qwen3_5_moe.Qwen3_5MoeAttention": Fused(child="q_proj", layout=_gated_query),
    "modeling_qwen4_exp.Qwen4ExpTextAttention": Fused(child="q_proj", layout=_gated_query),
}
