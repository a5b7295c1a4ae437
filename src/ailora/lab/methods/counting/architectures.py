"""The paper's models as configs, so that their parameters can be counted without a hub.

The sizes are those of the ``config.json`` of FacebookAI/roberta-large, microsoft/deberta-v3-base,
facebook/bart-large and meta-llama/Llama-2-7b-hf; nothing that has no part in the count is here.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

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


def architecture(name: str) -> Any:
    """The transformers config of one of `ARCHITECTURES`."""
    model_type, sizes = _SIZES[name]
    return AutoConfig.for_model(model_type, **sizes)
