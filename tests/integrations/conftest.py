"""A tiny causal model with a tokeniser, as trainers load them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf

from tests.conftest import tokenizer


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer LLaMA of width 32 with grouped keys and values, and its tokeniser."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    words = tokenizer()
    words.eos_token, words.bos_token = "[SEP]", "[CLS]"
    config = hf.LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf.LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
