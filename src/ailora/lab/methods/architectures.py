"""The paper's models as configs, to count parameters without a hub; and what the paper counts.

The sizes are those of the ``config.json`` of FacebookAI/roberta-large, microsoft/deberta-v3-base,
facebook/bart-large and meta-llama/Llama-2-7b-hf; nothing that has no part in the count is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from ailora.roles import RoleName

_SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-large": (
        "roberta",
        {
            "vocab_size": 50265,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
        },
    ),
    "deberta-v3-base": (
        "deberta-v2",
        {
            "vocab_size": 128100,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 512,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 256,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "pooler_hidden_size": 768,
        },
    ),
    "bart-large": (
        "bart",
        {
            "vocab_size": 50265,
            "d_model": 1024,
            "encoder_layers": 12,
            "decoder_layers": 12,
            "encoder_attention_heads": 16,
            "decoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "decoder_ffn_dim": 4096,
            "max_position_embeddings": 1024,
        },
    ),
    "llama-2-7b": (
        "llama",
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 11008,
            "max_position_embeddings": 4096,
        },
    ),
}
ARCHITECTURES = tuple(_SIZES)

MODEL = "roberta-large"

# Table 4 of the paper, RoBERTa-large, in millions. The paper does not say so, but full
# fine-tuning, adapters, BitFit and VeRA come out with the classifier (1.05M) counted, DoRA, rsLoRA
# and AILoRA without it.
TABLE_4: Mapping[str, float] = {
    "full": 355.36,
    "houlsby": 7.40,
    "bitfit": 1.32,
    "dora": 0.84,
    "rslora": 0.79,
    "vera": 1.11,
    "ailora": 0.79,
}

# Table 5: ranks by role within one budget, 0.79M.
TABLE_5: Mapping[str, Mapping[RoleName, int]] = {
    "q 8, v 8": {"q": 8, "v": 8},
    "q 16": {"q": 16},
    "k 16": {"k": 16},
    "v 16": {"v": 16},
    "o 16": {"o": 16},
    "q 8, k 8": {"q": 8, "k": 8},
    "k 8, v 8": {"k": 8, "v": 8},
    "q 4, k 4, v 4, o 4": {"q": 4, "k": 4, "v": 4, "o": 4},
}
TABLE_5_MILLIONS = 0.79


def architecture(name: str) -> Any:
    """The transformers config of one of `ARCHITECTURES`."""
    model_type, sizes = _SIZES[name]
    return AutoConfig.for_model(model_type, **sizes)
