"""Tiny random models, one for each family that ``ailora.roles`` knows.

Each is built offline from its own config in milliseconds, with seeded weights (the caller's random
state is left alone) and in eval mode, as ``from_pretrained`` would hand it over. Two layers of
width 32 with four heads; families with grouped keys and values have two key/value heads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers as hf
from transformers import PreTrainedModel

HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB = 32, 2, 4, 2, 64
PAD, FIRST_ORDINARY_ID = 1, 5
ENCODER_DECODERS = ("bart", "t5", "mt5")
DECODERS = (
    "llama",
    "smollm2",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "smollm3",
    "opt",
)

_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.1,
    "pad_token_id": PAD,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_ENCODER = {**_BASE, "num_labels": 2}
_GROUPED = {**_BASE, "num_key_value_heads": KV_HEADS, "head_dim": HIDDEN // HEADS}
_DEBERTA = {
    **_ENCODER,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "d_kv": HIDDEN // HEADS,
    "d_ff": 48,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
}
_BART: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
    "init_std": 0.1,
    "pad_token_id": PAD,
}
_DISTILBERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "dim": HIDDEN,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "hidden_dim": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.1,
    "pad_token_id": PAD,
    "num_labels": 2,
}
_OPT: dict[str, Any] = {
    **_BASE,
    "ffn_dim": 48,
    "word_embed_proj_dim": HIDDEN,
    "init_std": 0.1,
}
del _OPT["intermediate_size"], _OPT["initializer_range"]


def _build(
    architecture: type[PreTrainedModel],
    config_class: Callable[..., hf.PretrainedConfig],
    settings: dict[str, Any],
) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return architecture(config_class(**settings)).eval()


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": partial(_build, hf.BertForSequenceClassification, hf.BertConfig, _ENCODER),
    "roberta": partial(_build, hf.RobertaForSequenceClassification, hf.RobertaConfig, _ENCODER),
    "xlm-roberta": partial(
        _build, hf.XLMRobertaForSequenceClassification, hf.XLMRobertaConfig, _ENCODER
    ),
    "camembert": partial(
        _build, hf.CamembertForSequenceClassification, hf.CamembertConfig, _ENCODER
    ),
    "deberta-v2": partial(
        _build, hf.DebertaV2ForSequenceClassification, hf.DebertaV2Config, _DEBERTA
    ),
    "deberta-v3": partial(
        _build,
        hf.DebertaV2ForSequenceClassification,
        hf.DebertaV2Config,
        {**_DEBERTA, "share_att_key": True},
    ),
    "mpnet": partial(_build, hf.MPNetForSequenceClassification, hf.MPNetConfig, _ENCODER),
    "distilbert": partial(
        _build, hf.DistilBertForSequenceClassification, hf.DistilBertConfig, _DISTILBERT
    ),
    "electra": partial(
        _build,
        hf.ElectraForSequenceClassification,
        hf.ElectraConfig,
        {**_ENCODER, "embedding_size": 16},
    ),
    "albert": partial(
        _build,
        hf.AlbertForSequenceClassification,
        hf.AlbertConfig,
        {**_ENCODER, "embedding_size": 16},
    ),
    "llama": partial(_build, hf.LlamaForCausalLM, hf.LlamaConfig, _GROUPED),
    "smollm2": partial(
        _build, hf.LlamaForCausalLM, hf.LlamaConfig, {**_GROUPED, "tie_word_embeddings": True}
    ),
    "mistral": partial(_build, hf.MistralForCausalLM, hf.MistralConfig, _GROUPED),
    "qwen2": partial(_build, hf.Qwen2ForCausalLM, hf.Qwen2Config, _GROUPED),
    "qwen3": partial(_build, hf.Qwen3ForCausalLM, hf.Qwen3Config, _GROUPED),
    "gemma": partial(_build, hf.GemmaForCausalLM, hf.GemmaConfig, _GROUPED),
    "gemma2": partial(_build, hf.Gemma2ForCausalLM, hf.Gemma2Config, _GROUPED),
    "gemma3": partial(_build, hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, _GROUPED),
    "smollm3": partial(_build, hf.SmolLM3ForCausalLM, hf.SmolLM3Config, _GROUPED),
    "opt": partial(_build, hf.OPTForCausalLM, hf.OPTConfig, _OPT),
    "bart": partial(_build, hf.BartForConditionalGeneration, hf.BartConfig, _BART),
    "t5": partial(_build, hf.T5ForConditionalGeneration, hf.T5Config, _T5),
    "mt5": partial(_build, hf.MT5ForConditionalGeneration, hf.MT5Config, _T5),
}


def inputs_for(
    name: str, model: PreTrainedModel, *, labels: bool = False, rows: int = 3, length: int = 7
) -> dict[str, torch.Tensor]:
    """A small seeded batch for the family's model, with padding at the end of the last row.

    Args:
        name: A key of ``FAMILIES``.
        model: The model, for its device.
        labels: Add ``labels``: int64 class ids for classifiers, token ids for the rest.
        rows: Number of rows of the batch.
        length: Tokens a row.

    Returns:
        Keyword arguments for ``model(**inputs)``, int64 tensors on the model's device.
    """
    generator = torch.Generator().manual_seed(1)

    def tokens() -> torch.Tensor:
        return torch.randint(FIRST_ORDINARY_ID, VOCAB, (rows, length), generator=generator)

    batch = {"input_ids": tokens(), "attention_mask": torch.ones(rows, length, dtype=torch.long)}
    batch["input_ids"][-1, -2:] = PAD
    batch["attention_mask"][-1, -2:] = 0
    if labels:
        generative = name in DECODERS or name in ENCODER_DECODERS
        batch["labels"] = tokens() if generative else torch.arange(rows) % 2
    elif name in ENCODER_DECODERS:
        batch["decoder_input_ids"] = tokens()
    return {key: value.to(model.device) for key, value in batch.items()}
