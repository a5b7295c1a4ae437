"""A tiny model folder with its tokeniser and small files of data, made offline in milliseconds."""

from __future__ import annotations

import csv
import gc
import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

# Before any test imports ailora, and for the processes that tests start: decompositions are made
# anew, and the user's own cache is left alone.
os.environ.setdefault("AILORA_CACHE_LIMIT", "0")
# Who starts the tests in the background has them ignore these, and processes inherit that.
for _number, _handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)
# pytest-xdist sets the width of the terminal for its workers; a console made then would keep it.
os.environ.pop("COLUMNS", None)

GOOD, BAD = ("good", "fine", "superb"), ("bad", "poor", "awful")
FILLER = ("the", "a", "film", "plot", "cast", "was", "and", "very", "not", "story", "end", "all")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tokenizer() -> hf.PreTrainedTokenizerFast:
    """A word-level tokeniser of the words below."""
    words = {word: index for index, word in enumerate((*SPECIAL, *GOOD, *BAD, *FILLER))}
    inner = Tokenizer(WordLevel(words, unk_token=SPECIAL[1]))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Garbage is looked for among a module's own objects alone.

    Trainer collects it after each run; among all that libraries and pytest hold, that took longer
    than the rest of a tiny run.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, and tiny models many times faster than on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT of width 32 and its tokeniser, as ``from_pretrained`` reads them."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    config = hf.BertConfig(
        vocab_size=len(SPECIAL) + len(GOOD) + len(BAD) + len(FILLER),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=160,
        initializer_range=0.1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf.BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def sentences(count: int, *, seed: int = 0) -> list[tuple[str, int]]:
    """Sentences of unequal length with a label from -3 to 3: good words less bad words."""
    draw = random.Random(seed)  # noqa: S311
    rows = []
    for _ in range(count):
        words = draw.choices(FILLER, k=draw.randint(2, 9))
        feeling = draw.choice((-3, -2, -1, 1, 2, 3))
        words += draw.choices(GOOD if feeling > 0 else BAD, k=abs(feeling))
        draw.shuffle(words)
        rows.append((" ".join(words), feeling))
    return rows


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """Write a table and return its path; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv (48 rows), dev.csv and test.csv (20 each): text and pos or neg."""
    folder = tmp_path_factory.mktemp("data") / "reviews"
    for seed, (part, count) in enumerate((("train", 48), ("dev", 20), ("test", 20))):
        rows = [
            (text, "pos" if feeling > 0 else "neg") for text, feeling in sentences(count, seed=seed)
        ]
        write_csv(folder / f"{part}.csv", ("text", "label"), rows)
    return folder


@pytest.fixture(scope="session")
def runs(
    tiny_model: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A finished run of each kind of method, on one task with one seed."""
    from ailora.lab.tasks import load_task
    from ailora.lab.training import RunConfig, train

    out, found = tmp_path_factory.mktemp("runs"), {}
    with one_thread():
        for method in ("ailora", "lora", "vera", "bitfit", "houlsby", "full"):
            config = RunConfig(
                method=method,
                model=str(tiny_model),
                task=str(reviews),
                rank=2,
                vera_rank=8,
                bottleneck=4,
                lr=1e-3 if method == "full" else 2e-2,
                epochs=1,
                batch_size=8,
            )
            data = load_task(config.task, **config.task_options())
            train(config, data, out)
            found[method] = out / config.run_id(data.name, data.fingerprint)
    return found
