"""What is known about architectures, as plain data: names of attention's parts.

An attention block is a module that has its query, key and value side by side. A few spellings
cover nearly every architecture, so none is listed by name; ``ailora.roles.attention`` checks
that a block is what its spelling promises.

Where one weight holds several roles, no name tells which rows are whose: that is
`ailora.roles.layouts`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import nn

from ailora.roles.projection import AttentionKind, RoleName, Stack

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
# The query of classes whose keys and values share a weight: GPT-2's cross-attention, latent
# attention, which has one of the next two, and Granite Speech.
FUSED_QUERIES = ("q_attn", "q_b_proj", "q_proj", "to_q")
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
    "projection",  # BLIP
    "projection_layer",  # InternVL
    "output",  # Pix2Struct
    "output_proj",  # the head of AIMv2
    "post.linear",  # the sound of Gemma 4
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
# latent attention makes its latents with, projections of relative positions and tables of biases,
# and what makes keys and values of fewer places than queries.
HARMLESS = frozenset(
    {
        "gate_proj",
        "g_proj",
        "q_a_proj",
        "kv_a_proj_with_mqa",
        "linear_pos",
        "relative_k_proj",
        "relative_position_bias",
        "continuous_position_bias_mlp",
        "sequence_reduction",
        "spatial_reduction",
        "sr",
    }
)
_INDEXER = "an indexer, which is left alone, chooses the keys that are attended to"
# Attention classes whose further matrices were looked at, and what there is to know about them.
UNDERSTOOD: Mapping[str, str] = {
    "AXK2Attention": _INDEXER,
    "ConvBertSelfAttention": "the query also steers the span convolution",
    "DeepseekV32Attention": _INDEXER,
    "DisentangledSelfAttention": "projections of relative positions are left alone",
    "FunAsrNanoAttention": "a convolution over the value is added to the output",
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
    r"^GroupViTAssign|"  # its softmax is over the queries, which compete for each key
    r"^Florence2VisionChannelAttention"  # of channels, not places, to one another
)
_ATTENTION = re.compile(r"att", re.IGNORECASE)
_STATE = re.compile(r"^(A_log|dt_bias|.*decay.*)$", re.IGNORECASE)
_FUSED_NAME = re.compile(
    r"qkv|^(query_key(_value)?|c_attn|att_proj|in_proj|kv_proj|kv_b_proj|q_?k_proj|to_kv)$"
)
_LATENT = re.compile(r"^(kv_a_proj.*|kv_b_proj|q_a_proj|q_b_proj)$")
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


def known_class(module: nn.Module, known: Collection[str]) -> str | None:
    """The first of a module's classes, ``"modeling_gpt2.GPT2MLP"``, that is in ``known``.

    Only classes of transformers and diffusers count: a class of the same name in someone's own code
    may order its rows differently.
    """
    for cls in type(module).__mro__:
        name = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
        if cls.__module__.startswith(("transformers.", "diffusers.")) and name in known:
            return name
    return None
