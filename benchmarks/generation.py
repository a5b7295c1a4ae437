"""How much faster are answers generated together than one prompt at a time?

    python benchmarks/generation.py             some minutes on one core
    python benchmarks/generation.py --prompts 128 --tokens 256

The embedded decoder continues instructions about the embedded film reviews, greedily, with and
without an adapter. Every batch size answers the same prompts in turn in one process; the texts must
be the same, to the letter. Tokens are those generated up to the end token or the limit. Seconds are
of the processor, which other processes on the machine disturb little.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

import ailora
from ailora.files import write_json
from ailora.lab import demo
from ailora.lab.tasks.tables.read import read_table
from ailora.lab.training.generate import Search, generate

RESULTS = Path(__file__).parent / "results" / "generation.json"
ASKED = (
    "### Instruction:\nRewrite this sentence in other words: {}\n\n### Response:\n",
    "### Instruction:\nIs this said in favour of the film? {}\n\n### Response:\n",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    folder = demo.decoder_dir()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [tokenizer(text)["input_ids"] for text in sentences(chosen.prompts)]
    rows = measured(model, tokenizer, prompts, chosen, "base model")
    config = ailora.AILoRAConfig(r=8, task_type="CAUSAL_LM")
    adapted = ailora.get_peft_model(model, config)
    rows += measured(adapted, tokenizer, prompts, chosen, "with an adapter")
    Console().print(table_of(rows))
    if chosen.save:
        write_json(RESULTS, {"machine": machine(), "rows": rows})


def sentences(count: int) -> list[str]:
    texts = [row["text"] for _, row in read_table(demo.movie_reviews()).rows]
    draw = random.Random(0)  # noqa: S311
    return [draw.choice(ASKED).format(text) for text in draw.sample(texts, count)]


def measured(
    model: Any, tokenizer: Any, prompts: list[list[int]], chosen: argparse.Namespace, what: str
) -> list[dict[str, Any]]:
    generate(model, tokenizer, prompts[:1], Search(max_new_tokens=4))  # warms up
    rows: list[dict[str, Any]] = []
    texts: dict[int, list[str]] = {}
    for size in chosen.batches:
        search = Search(max_new_tokens=chosen.tokens, batch_size=size)
        began, spent = time.perf_counter(), time.process_time()
        texts[size] = generate(model, tokenizer, prompts, search)
        wall, cpu = time.perf_counter() - began, time.process_time() - spent
        tokens = sum(map(len, tokenizer(texts[size])["input_ids"]))
        first = rows[0] if rows else None
        rows.append(
            {"what": what, "batch": size, "tokens": tokens, "cpu_seconds": cpu, "seconds": wall}
            | {"faster": first["cpu_seconds"] / cpu if first else 1.0}
            | {"same_texts": sum(map(str.__eq__, texts[size], texts[chosen.batches[0]]))}
        )
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="tokens a second of processor time")
    for name in ("", "prompts at once", "tokens/s", "times as fast", "wall tokens/s", "same texts"):
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        table.add_row(
            row["what"],
            str(row["batch"]),
            f"{row['tokens'] / row['cpu_seconds']:.1f}",
            f"{row['faster']:.2f}",
            f"{row['tokens'] / row['seconds']:.1f}",
            str(row["same_texts"]),
        )
    return table


if __name__ == "__main__":
    main()
