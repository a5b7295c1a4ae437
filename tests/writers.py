"""Small models that write, made offline in seconds: a BART and a LLaMA, with their tokenisers.

They have learned to write one line about the topic of a document. Two layers (of encoder and of
decoder each), width 32, four heads; the LLaMA has two heads of keys and values. The words below are
a token each for the tokeniser.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

WIDTH = 32
TEMPLATE = "### Document:\n{source}\n\n### Summary:\n"
LINE = "today people said more about {}"
TOPICS = ("rain", "trade", "music", "chess", "trains")
FILLER = ("the", "a", "today", "people", "said", "was", "and", "very", "more", "news", "in", "town")
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_OTHER = ("about", "###", "Document", "Summary", "Instruction", "Response", "Input", ":")
_WORDS = (*TOPICS, *FILLER, *_OTHER)
VOCABULARY = 367  # 256 bytes, 4 special tokens, and what the words need


def tokenizer(*, ends: bool) -> hf.PreTrainedTokenizerFast:
    """Byte-level pairs, trained so that each of the words is one token or two.

    Args:
        ends: Whether it adds the start and end tokens, as BART's does.
    """
    inner = Tokenizer(BPE(unk_token=_SPECIAL[3]))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([f"{word} {word}\n" for word in _WORDS], trainer)
    if ends:
        inner.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def save_bart(folder: Path) -> Path:
    """An encoder-decoder of 64 positions and its tokeniser, as ``from_pretrained`` reads them."""
    config = hf.BartConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        init_std=0.2,
        dropout=0.0,
    )
    return _saved(folder, _new(hf.BartForConditionalGeneration, config), tokenizer(ends=True))


def save_llama(folder: Path, positions: int = 96) -> Path:
    """A decoder of so many positions and its tokeniser, as ``from_pretrained`` reads them."""
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    return _saved(folder, _new(hf.LlamaForCausalLM, config), tokenizer(ends=False))


def document(draw: random.Random, line: str) -> tuple[str, str, str]:
    """Filler with one topic in it, the line with the topic in place of ``{}``, and the topic."""
    topic = draw.choice(TOPICS)
    words = [*draw.choices(FILLER, k=draw.randint(2, 6)), topic]
    draw.shuffle(words)
    return " ".join(words), line.format(topic), topic


def _new(model_class: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config)


def _saved(folder: Path, model: Any, words: hf.PreTrainedTokenizerFast, steps: int = 150) -> Path:
    draw = random.Random(1)  # noqa: S311
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = _batch([document(draw, LINE)[:2] for _ in range(16)], model, words)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _batch(pairs: list[tuple[str, str]], model: Any, words: hf.PreTrainedTokenizerFast) -> Any:
    """Source and target for the encoder-decoder, the two in a template for the decoder."""
    if model.config.is_encoder_decoder:
        sources, targets = zip(*pairs, strict=True)
        batch = words(list(sources), padding=True, return_tensors="pt")
        labels = words(list(targets), padding=True, return_tensors="pt")["input_ids"]
    else:
        texts = [TEMPLATE.format(source=source) + target + "</s>" for source, target in pairs]
        batch = words(texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"]
    batch.pop("token_type_ids", None)
    return {**batch, "labels": labels.masked_fill(labels == words.pad_token_id, -100)}
