"""Where each architecture keeps its q, k, v and o: plain data, keyed by ``config.model_type``.

A projection's path ends in ``<block>.<name>``: ``attention.self.query`` in BERT,
``self_attn.q_proj`` in LLaMA. The block tells self-attention from cross-attention.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ailora.roles.projection import AttentionKind, RoleName, Stack


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How one architecture names its attention.

    Attributes:
        names: For each role, the dotted name of its module below the attention block.
        self_block: Name of the block of self-attention.
        cross_block: Name of the block of cross-attention; None where there is never one.
        shared: One set of weights serves every layer, so numbers in the path count no layers.
    """

    names: Mapping[RoleName, str]
    self_block: str
    cross_block: str | None = None
    shared: bool = False

    def classify(self, path: str) -> tuple[RoleName, AttentionKind] | None:
        """The role and kind of attention of the module at ``path``; None if it has no role."""
        blocks: tuple[tuple[AttentionKind, str | None], ...] = (
            ("self", self.self_block),
            ("cross", self.cross_block),
        )
        for kind, block in blocks:
            for role, name in self.names.items():
                if block is not None and matches(path, f"{block}.{name}"):
                    return role, kind
        return None


_BERT = Naming(
    names={"q": "self.query", "k": "self.key", "v": "self.value", "o": "output.dense"},
    self_block="attention",
    cross_block="crossattention",
)
_DEBERTA_V2 = Naming(
    names={
        "q": "self.query_proj",
        "k": "self.key_proj",
        "v": "self.value_proj",
        "o": "output.dense",
    },
    self_block="attention",
)
_MPNET = Naming(
    names={"q": "attn.q", "k": "attn.k", "v": "attn.v", "o": "attn.o"}, self_block="attention"
)
_DISTILBERT = Naming(
    names={"q": "q_lin", "k": "k_lin", "v": "v_lin", "o": "out_lin"}, self_block="attention"
)
_ALBERT = Naming(
    names={"q": "query", "k": "key", "v": "value", "o": "dense"},
    self_block="attention",
    shared=True,
)
_LLAMA = Naming(
    names={"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}, self_block="self_attn"
)
_BART = Naming(
    names={"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"},
    self_block="self_attn",
    cross_block="encoder_attn",
)
_T5 = Naming(
    names={"q": "q", "k": "k", "v": "v", "o": "o"},
    self_block="SelfAttention",
    cross_block="EncDecAttention",
)

NAMINGS: Mapping[str, Naming] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "deberta-v2": _DEBERTA_V2,  # DeBERTa-v3 checkpoints say "deberta-v2" too
    "mpnet": _MPNET,
    "distilbert": _DISTILBERT,
    "albert": _ALBERT,
    "llama": _LLAMA,  # SmolLM and SmolLM2 as well
    "smollm3": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "opt": _BART,
    "bart": _BART,
    "t5": _T5,
    "mt5": _T5,
}

_CROSS_BLOCKS = {naming.cross_block for naming in NAMINGS.values() if naming.cross_block}
_NUMBERED = re.compile(r"(?:^|\.)[^.]+\.(\d+)(?:\.|$)")


def matches(path: str, entry: str) -> bool:
    """Whether ``path`` is ``entry`` or ends with it after a dot: PEFT's ``target_modules``."""
    return path == entry or path.endswith(f".{entry}")


def layer_of(path: str) -> int | None:
    """The outermost number that follows a name in ``path``; None without one.

    PEFT 0.21 reads ``layers_to_transform`` the same way, except that it misses layers at the very
    start of a path (``layers.0...`` of a bare ``LlamaModel``).
    """
    found = _NUMBERED.search(path)
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
    """``"cross"`` if a part of ``path`` is some architecture's block of cross-attention."""
    return "cross" if _CROSS_BLOCKS.intersection(path.split(".")) else "self"
