"""Tiny models under the hub's names that PEFT's tests load, in a hub cache that needs no network.

Each is of the class that stands on the hub, made from its config with fixed random weights.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

VOCABULARY = 1024
# Wide enough for twice the highest rank of these tests, 20, which an anchored adapter has.
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "initializer_range": 0.1,  # 0.02 would leave an adapter's effect below rounding
}
# Padding is no token that the tests feed, since its embedding is zero.
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 32, "pad_token_id": 3}
OPT = SIZES | {"num_hidden_layers": 5, "init_std": 0.1, "ffn_dim": 64, "word_embed_proj_dim": 64}
GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
    "rotary_dim": 4, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
    "initializer_range": 0.1,
}  # fmt: skip
BART = {
    "vocab_size": VOCABULARY, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "max_position_embeddings": 128, "init_std": 0.1,
}  # fmt: skip
T5 = {
    "vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2,
    "num_heads": 4, "decoder_start_token_id": 0,
}  # fmt: skip
GEMMA = GROUPED | {"sliding_window": 64}
DEBERTA = SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}

# The hub's name, the class and the config's fields.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": ("OPTForCausalLM", OPT),
    "peft-internal-testing/opt-125m": ("OPTForCausalLM", OPT),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", GPT2),
    "hf-internal-testing/tiny-random-gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "bert-base-uncased": ("BertForMaskedLM", SIZES),
    "peft-internal-testing/tiny-random-gpt2": ("GPT2LMHeadModel", GPT2),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("GPTJForCausalLM", GPT2),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", GROUPED),
    "hf-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", GROUPED),
    "peft-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", GROUPED),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2ForCausalLM", GROUPED),
    "trl-internal-testing/tiny-Qwen3ForCausalLM": ("Qwen3ForCausalLM", GROUPED),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", GEMMA),
    "hf-internal-testing/tiny-random-MistralForCausalLM": ("MistralForCausalLM", GROUPED),
    "peft-internal-testing/tiny-random-BloomForCausalLM": (
        "BloomForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "n_layer": 2,
            "n_head": 4,
            "initializer_range": 0.1,
        },
    ),
    "peft-internal-testing/tiny-random-GPTNeoXForCausalLM": ("GPTNeoXForCausalLM", SIZES),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": (
        "BartForConditionalGeneration",
        BART,
    ),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": (
        "T5ForConditionalGeneration",
        T5,
    ),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration": (
        "T5ForConditionalGeneration",
        T5,
    ),
    "peft-internal-testing/tiny-random-t5": ("T5ForConditionalGeneration", T5),
    "peft-internal-testing/tiny-random-BertModel": ("BertModel", SIZES),
    "peft-internal-testing/tiny-random-RobertaModel": ("RobertaModel", SIZES),
    "peft-internal-testing/tiny-random-DebertaModel": ("DebertaModel", DEBERTA),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("DebertaV2Model", DEBERTA),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (
        "BertForSequenceClassification",
        SIZES,
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "RobertaForSequenceClassification",
        SIZES,
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "LlamaForSequenceClassification",
        GROUPED,
    ),
}


def make(cache: Path, on_model: Callable[[str], None] = lambda name: None) -> None:
    """Write those that are not there yet into ``cache``, as huggingface_hub lays it out."""
    for name, (kind, fields) in MODELS.items():
        commit = hashlib.sha1(f"{kind} {fields}".encode()).hexdigest()  # noqa: S324 (a commit's)
        repository = cache / f"models--{name.replace('/', '--')}"
        ref = repository / "refs" / "main"
        if ref.exists() and ref.read_text() == commit:
            continue
        on_model(name)
        snapshot = repository / "snapshots" / commit
        cls = getattr(hf, kind)
        torch.manual_seed(0)
        model = cls(cls.config_class(**fields))
        model.save_pretrained(snapshot)
        _tokenizer().save_pretrained(snapshot)
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)  # last: a model without it is made again


def _tokenizer() -> hf.PreTrainedTokenizerFast:
    special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    words = [*special.values(), *(f"word{n}" for n in range(VOCABULARY - len(special)))]
    ids = {word: number for number, word in enumerate(words)}
    split = Tokenizer(models.WordLevel(ids, unk_token=special["unk"]))
    split.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{kind}_token": token for kind, token in special.items()}
    return hf.PreTrainedTokenizerFast(tokenizer_object=split, **names)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
