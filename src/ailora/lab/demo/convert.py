"""A GGUF file as a folder of safetensors that trains like any other model's."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase


def convert_gguf(source: Path, target: Path) -> None:
    """Write a decoder and its tokeniser from a GGUF file into a folder.

    Weights are de-quantised to fp32, which holds what 4-bit blocks stand for exactly; bf16 would
    move them by 0.14 %, fp16 by 0.02 %. The mark "quantized" is left out: Trainer refuses to train
    what has it, though nothing is quantised any more.

    Args:
        source: The ``.gguf`` file, of a model whose vocabulary splits digits ("smollm").
        target: Where to; the folder is made.
    """
    folder, name = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model.hf_quantizer = None
    del model.config.quantization_config
    tokenizer.model_max_length = model.config.max_position_embeddings
    _split_digits(tokenizer)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Digits go apart before words do: a rule in the file that transformers passes over.

    Only white space before a digit is cut differently without it.
    """
    inner = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, inner.pre_tokenizer])
