"""How many rows a second are trained on: this library's loop beside transformers' own script.

    python benchmarks/training.py               some minutes on two threads
    python benchmarks/training.py --data DIR    real SST-2 and MRPC rows, as ailora train --data

One model (the embedded encoder) in one process. The contenders take the same rows in turn, some
rounds; each round gives everybody's rate as a multiple of run_glue.py's in that very round, and the
median of these counts. A rate is of a training loop from its first row to its last step, reading
and padding included, tokenising, evaluations and checkpoints not.

"run_glue.py" is what transformers' example script of that name does by default, with a LoRA by
PEFT: every row padded to 128 tokens, 8 rows a step, in random order, fp32. The others are the
trainer that ``ailora train`` runs: rows of like length together, padded to the longest of the
batch, in bf16 where the processor computes in it, 16 rows a step by default.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
import transformers
from datasets import Dataset
from machine import machine
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from ailora.files import write_json
from ailora.lab import demo
from ailora.lab.methods.table import method_named
from ailora.lab.tasks import TextTask, load_movies
from ailora.lab.tasks.classification.glue import load_glue
from ailora.lab.training import RunConfig
from ailora.lab.training.folder import RunFolder
from ailora.lab.training.kinds import kind_of
from ailora.lab.training.machine import computes_bf16_natively
from ailora.lab.training.trainer import build_trainer

RESULTS = Path(__file__).parent / "results" / "training.json"
PADDED_TO = 128  # run_glue.py's max_seq_length
# Words of a row at 5, 15, ... 95 % of the official train split.
WORDS = {
    "sst2": (1, 2, 3, 4, 6, 8, 10, 13, 18, 26),
    "mrpc": (13, 16, 18, 19, 21, 23, 24, 26, 29, 31),
}
Rates = dict[str, float]


class Contender(NamedTuple):
    """A way to train: by which method, and how many rows per step; no method is run_glue.py."""

    name: str
    method: str | None
    batch_size: int


CONTENDERS = (
    Contender("run_glue.py, PEFT's LoRA, 8 rows a step", None, 8),
    Contender("our loop, LoRA, 8 rows a step", "lora", 8),
    Contender("our loop, LoRA", "lora", 16),
    Contender("our loop, AILoRA", "ailora", 16),
    Contender("our loop, full fine-tuning", "full", 16),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--data", type=Path, help="folder with sst2/ and mrpc/; default: film reviews"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = {}
    for name in WORDS:
        rows = real(name, chosen.data, chosen.rows) if chosen.data else alike(name, chosen.rows)
        found[name] = summary(rounds_of(rows, chosen.rounds))
        Console().print(table_of(name, found[name]))
    write_json(
        chosen.out,
        {
            "machine": machine(),
            "rows": chosen.rows,
            "rounds": chosen.rounds,
            "real_rows": chosen.data is not None,
            "our_precision": "bf16" if computes_bf16_natively() else "fp32",
            "tables": found,
        },
    )


def real(name: str, data: Path, count: int) -> Dataset:
    return load_glue(name, data=data, limit=count).train


def alike(name: str, count: int) -> Dataset:
    """Sentences of film reviews, each cut to as many words as a row of that set has."""
    texts = load_movies().train["text"][:]
    columns = {"text": cut(texts, WORDS[name], count, seed=0)}
    if name == "mrpc":
        columns["text_pair"] = cut(texts, WORDS[name], count, seed=1)
    return Dataset.from_dict({**columns, "label": [row % 2 for row in range(count)]})


def cut(texts: Sequence[str], words: Sequence[int], count: int, seed: int) -> list[str]:
    draw = random.Random(seed)  # noqa: S311 - no secret
    lengths = [words[row % len(words)] for row in range(count)]
    draw.shuffle(lengths)
    split = [text.split() for text in texts]
    enough = {n: [found for found in split if len(found) >= n] for n in set(lengths)}
    return [" ".join(draw.choice(enough[n])[:n]) for n in lengths]


def rounds_of(rows: Dataset, rounds: int) -> Iterator[Rates]:
    """Rows a second of every contender, a round at a time; before that, some rows to warm up."""
    for contender in CONTENDERS:
        rate_of(contender, rows.select(range(min(len(rows), 16))))
    for _ in range(rounds):
        yield {contender.name: rate_of(contender, rows) for contender in CONTENDERS}


def rate_of(contender: Contender, rows: Dataset) -> float:
    """Rows a second in one epoch of a fresh model."""
    with tempfile.TemporaryDirectory() as scratch:
        make = as_run_glue if contender.method is None else as_ailora_train
        trainer = make(contender, rows, scratch)
        watch = Watch()
        trainer.add_callback(watch)
        trainer.train()
    return len(rows) / watch.seconds


class Watch(TrainerCallback):
    """Seconds of a training loop, without what Trainer does before its first row."""

    began = seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """All is set up, and no row has been read."""
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The last call counts."""
        self.seconds = time.perf_counter() - self.began


def as_ailora_train(contender: Contender, rows: Dataset, scratch: str) -> Trainer:
    """The trainer of a run, which is not to evaluate and to save."""
    config = RunConfig(method=contender.method or "", batch_size=contender.batch_size, epochs=1)
    task = TextTask(
        name="rows",
        train=rows,
        selection=rows.select(range(2)),
        test=rows.select(range(2)),
        labels=("0", "1"),
        metrics=("accuracy",),
        fingerprint="",
    )
    kind = kind_of(task, config)
    base, tokenizer = kind.load()
    trainer = build_trainer(
        kind,
        RunFolder(Path(scratch)),
        method_named(config.method).build(base, config, None),
        tokenizer,
        on_progress=lambda step, steps, what: None,
        fresh=False,
    )
    trainer.args.set_evaluate(strategy="no")
    trainer.args.set_save(strategy="no")
    return trainer


def as_run_glue(contender: Contender, rows: Dataset, scratch: str) -> Trainer:
    """What run_glue.py sets up, with PEFT's LoRA around its model."""
    set_seed(42)
    folder = demo.encoder_dir()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = peft.LoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS")
    texts = [rows[name][:] for name in ("text", "text_pair") if name in rows.column_names]
    encoded = tokenizer(*texts, padding="max_length", truncation=True, max_length=PADDED_TO)
    trainer = Trainer(
        model=peft.get_peft_model(
            AutoModelForSequenceClassification.from_pretrained(folder), config
        ),
        args=TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=contender.batch_size,
            num_train_epochs=1,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.accelerator.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({**encoded, "labels": rows["label"][:]}),
        data_collator=default_data_collator,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def summary(rounds: Iterator[Rates]) -> list[dict[str, Any]]:
    """For each contender its rates, and the median of its ratios to run_glue.py's."""
    found = list(rounds)
    usual = CONTENDERS[0].name
    return [
        {
            "name": contender.name,
            "rows_a_second": [rates[contender.name] for rates in found],
            "ratio": statistics.median(rates[contender.name] / rates[usual] for rates in found),
        }
        for contender in CONTENDERS
    ]


def table_of(name: str, found: list[dict[str, Any]]) -> Table:
    table = Table(title=f"rows as long as {name}'s")
    table.add_column("loop and method")
    table.add_column("rows a second", justify="right")
    table.add_column("times run_glue.py's", justify="right")
    for row in found:
        median = statistics.median(row["rows_a_second"])
        table.add_row(row["name"], f"{median:.1f}", f"{row['ratio']:.2f}")
    return table


if __name__ == "__main__":
    main()
