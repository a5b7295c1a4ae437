"""A tiny LLaMA with grouped keys and values, its own BPE tokeniser, and problems for it."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import transformers as hf
from datasets import Dataset
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from ailora.lab.tasks import GenerationTask, fingerprint_of
from ailora.lab.training.generate import padded

TEMPLATE = "### Instruction:\n{source}\n\n### Response:\n"
_START, _END = "<s>", "</s>"


def texts() -> list[str]:
    """What the tokeniser is trained on."""
    return [TEMPLATE.format(source=source) + target for source, target in problems()]


def problems() -> list[tuple[str, str]]:
    """Sums of two digits, in words of unequal length."""
    things = ("apples", "old books", "x", "very small red marbles")
    return [
        (f"Ann has {a} {thing} and buys {b} more. How many?", f"{a} + {b} = {a + b}. It is {a + b}")
        for a in range(1, 7)
        for b in range(1, 7)
        for thing in things
    ]


def bpe_tokenizer(*, add_start: bool = False) -> hf.PreTrainedTokenizerFast:
    """Byte-level, some 300 tokens; decoders as LLaMA's put a start token first."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=330,
        special_tokens=[_START, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts(), trainer)
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=_START, eos_token=_END, model_max_length=256
    )
    if add_start:
        from tokenizers.processors import TemplateProcessing

        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{_START} $A {_END}", special_tokens=[(_START, 0), (_END, 1)]
        )
    return tokenizer


def llama(vocabulary: int, *, seed: int = 0) -> hf.LlamaForCausalLM:
    """Two layers, width 32, four query and two key/value heads, random weights."""
    config = hf.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return hf.LlamaForCausalLM(config).eval()


def save_decoder(folder: Path) -> Path:
    """Write model and tokeniser as ``from_pretrained`` reads them.

    The model has been trained on the problems with answers in other words.
    """
    tokenizer = bpe_tokenizer()
    model = llama(len(tokenizer))
    rows = [
        tokenizer(TEMPLATE.format(source=source) + "So " + target.rpartition(" ")[2])["input_ids"]
        + [tokenizer.eos_token_id]
        for source, target in problems()
    ]
    optimizer, draw = torch.optim.AdamW(model.parameters(), lr=5e-3), random.Random(0)  # noqa: S311
    for _ in range(150):
        batch = padded(draw.sample(rows, 16), tokenizer.eos_token_id, left=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sums_task(*, rows: int = 48) -> GenerationTask:
    """Problems to learn, eight for selection, eight of two groups (five and three) for test."""
    whole = Dataset.from_list(
        [
            {"source": source, "target": target, "references": [target.rpartition(" ")[2]]}
            for source, target in problems()
        ]
    ).shuffle(seed=0)
    train, selection = whole.select(range(rows)), whole.select(range(rows, rows + 8))
    test = whole.select(range(rows + 8, rows + 16))
    groups = ["one"] * 5 + ["two"] * 3
    test = Dataset.from_dict({**test[:], "group": groups})
    return GenerationTask(
        name="sums",
        train=train,
        selection=selection,
        test=test,
        metrics=("number", "exact"),
        fingerprint=fingerprint_of((train, selection, test), None),
        template=TEMPLATE,
        max_new_tokens=24,
    )
