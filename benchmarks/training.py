"""How many sentences a second are trained on: this library's loop beside the usual ones.

    python benchmarks/training.py            short and paired sentences, some minutes
    python benchmarks/training.py --save     also into results/training.json

One model (the embedded encoder), one set of rows, one machine, one process; every contender trains
the same rows in turn, several rounds, and the median counts. The seconds are of whole training
loops, reading and padding of the rows included, without evaluations and checkpoints.

"run_glue.py" is what transformers' example script of that name does by default, with a LoRA by
PEFT: every row padded to 128 tokens, 8 rows a step, in random order, fp32. The others take rows of
like length together and pad to the longest of a batch.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
import transformers
from datasets import Dataset
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import ailora
from ailora import demo
from ailora.files import write_json
from ailora.tasks import load_movies
from ailora.training.order import OrderedTrainer

RESULTS = Path(__file__).parent / "results" / "training.json"
PADDED_TO = 128  # run_glue.py's max_seq_length
Adapt = Callable[[nn.Module], nn.Module]


class Contender(NamedTuple):
    """A way to train: what of the model, how many rows a step, and how rows become batches."""

    name: str
    adapt: Adapt
    batch_size: int
    as_run_glue: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tables = {
        length: measured(rows, chosen.rounds)
        for length, rows in (
            ("one sentence (as SST-2)", sentences(chosen.rows)),
            ("two sentences (as MRPC)", pairs(chosen.rows)),
        )
    }
    for length, found in tables.items():
        Console().print(table_of(length, found))
    if chosen.save:
        write_json(RESULTS, {"machine": machine(), "rows": chosen.rows, "tables": tables})


def contenders() -> tuple[Contender, ...]:
    """The usual way first: it is what the others are measured by."""
    return (
        Contender("run_glue.py with PEFT's LoRA", stock_lora, 8, as_run_glue=True),
        Contender("our loop, PEFT's LoRA", stock_lora, 8),
        Contender("our loop, AILoRA", ailora_start, 8),
        Contender("our loop, PEFT's LoRA, 16 rows a step", stock_lora, 16),
        Contender("our loop, AILoRA, 16 rows a step", ailora_start, 16),
        Contender("our loop, full fine-tuning, 16 rows a step", everything, 16),
    )


def stock_lora(model: nn.Module) -> nn.Module:
    config = peft.LoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS")
    return peft.get_peft_model(model, config)


def ailora_start(model: nn.Module) -> nn.Module:
    return ailora.get_peft_model(model, ailora.AILoRAConfig(r=8, task_type="SEQ_CLS"))


def everything(model: nn.Module) -> nn.Module:
    return model


def sentences(count: int) -> Dataset:
    """Film-review sentences of the embedded task."""
    return load_movies(limit=count).train


def pairs(count: int) -> Dataset:
    """Two of them a row: about as long as MRPC's."""
    rows = load_movies(limit=2 * count).train
    order = random.Random(0).sample(range(len(rows)), 2 * count)  # noqa: S311 - no secret
    first, second = rows.select(order[:count]), rows.select(order[count:])
    return Dataset.from_dict(
        {"text": first["text"][:], "text_pair": second["text"][:], "label": first["label"][:]}
    )


def measured(rows: Dataset, rounds: int) -> list[dict[str, Any]]:
    """A record a contender: rows a second, and how many times the first one's that is."""
    everybody = contenders()
    seconds: dict[str, list[float]] = {contender.name: [] for contender in everybody}
    for number in range(rounds + 1):
        for contender in everybody:
            took = seconds_of(contender, rows)
            if number:  # the first round warms up
                seconds[contender.name].append(took)
    usual = statistics.median(seconds[everybody[0].name])
    return [
        {
            "name": name,
            "rows_a_second": len(rows) / statistics.median(took),
            "ratio": usual / statistics.median(took),
            "seconds": took,
        }
        for name, took in seconds.items()
    ]


def seconds_of(contender: Contender, rows: Dataset) -> float:
    """One epoch of a fresh model."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_of(contender, rows, scratch)
        began = time.perf_counter()
        trainer.train()
        return time.perf_counter() - began


def trainer_of(contender: Contender, rows: Dataset, scratch: str) -> Trainer:
    folder = demo.encoder_dir()
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = contender.adapt(AutoModelForSequenceClassification.from_pretrained(folder))
    texts = [rows[name][:] for name in ("text", "text_pair") if name in rows.column_names]
    padding = "max_length" if contender.as_run_glue else False
    encoded = dict(tokenizer(*texts, padding=padding, truncation=True, max_length=PADDED_TO))
    kind = Trainer if contender.as_run_glue else OrderedTrainer
    trainer = kind(
        model=model,
        args=TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=contender.batch_size,
            num_train_epochs=1,
            save_strategy="no",
            use_cpu=not torch.accelerator.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            log_level="error",
        ),
        train_dataset=Dataset.from_dict({**encoded, "labels": rows["label"][:]}),
        optimizers=(ailora.create_optimizer(model, lr=2e-3), None),
        data_collator=(
            default_data_collator if contender.as_run_glue else DataCollatorWithPadding(tokenizer)
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def table_of(length: str, found: list[dict[str, Any]]) -> Table:
    table = Table(title=length)
    table.add_column("loop and method")
    table.add_column("sentences a second", justify="right")
    table.add_column("times run_glue.py's", justify="right")
    for row in found:
        table.add_row(row["name"], f"{row['rows_a_second']:.0f}", f"{row['ratio']:.1f}")
    return table


if __name__ == "__main__":
    main()
