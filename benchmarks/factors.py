"""What anchored factors cost: one training step beside plain LoRA of the same trainable rank.

Every round takes one step with each contender, in turn, on the same batch; a ratio is formed within
each round, and its median is printed with the interval that holds it in 95 of 100 (by ranks).

    python benchmarks/factors.py --save            # MiniLM and SmolLM2, q and v at rank 8
    python benchmarks/factors.py --all-linear 64   # every linear layer at rank 64
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import ailora
from ailora.lab.demo import decoder_dir, encoder_dir

OUT = Path(__file__).parent / "results" / "factors.json"
PLAIN = "LoRA, rank r"


def minilm() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The embedded encoder and 16 rows of 32 tokens with labels."""
    model = AutoModelForSequenceClassification.from_pretrained(encoder_dir(), num_labels=2)
    ids = torch.randint(1000, 30000, (16, 32), generator=torch.Generator().manual_seed(0))
    return model, {"input_ids": ids, "labels": torch.arange(16) % 2}


def smollm2() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The embedded decoder and 2 rows of 64 tokens."""
    model = AutoModelForCausalLM.from_pretrained(decoder_dir(), dtype=torch.float32)
    ids = torch.randint(1000, 30000, (2, 64), generator=torch.Generator().manual_seed(0))
    return model, {"input_ids": ids, "labels": ids}


MODELS = {"MiniLM": minilm, "SmolLM2-135M": smollm2}
TASKS = {"MiniLM": "SEQ_CLS", "SmolLM2-135M": "CAUSAL_LM"}


def contenders(
    rank: int, task: str, all_linear: bool
) -> dict[str, Callable[[nn.Module], nn.Module]]:
    """Name and how a model is wrapped."""
    fields: dict[str, Any] = {}
    if all_linear:  # which leaves out a classifier by its task
        fields = {"target_modules": "all-linear", "task_type": task}
    preset = ailora.presets.pissa if all_linear else ailora.presets.ailora

    def plain(times: int) -> Callable[[nn.Module], nn.Module]:
        return lambda model: ailora.get_peft_model(
            model, ailora.presets.lora(times * rank, **fields)
        )

    return {
        PLAIN: plain(1),
        "anchored, rank r": lambda model: ailora.get_peft_model(model, preset(rank, **fields)),
        "anchored, weight decay": lambda model: ailora.get_peft_model(
            model, preset(rank, **fields)
        ),
        "LoRA, rank 2r": plain(2),
    }


def run(name: str, rank: int, steps: int, *, all_linear: bool) -> list[dict[str, Any]]:
    """Steps of every contender, interleaved; one row per contender."""
    ready = {}
    for what, wrap in contenders(rank, TASKS[name], all_linear).items():
        base, batch = MODELS[name]()
        model = wrap(base).train()
        decay = 0.01 if "decay" in what else 0.0
        ready[what] = (model, ailora.create_optimizer(model, lr=1e-4, weight_decay=decay), batch)
    seconds: dict[str, list[float]] = {what: [] for what in ready}
    for _ in range(steps + 5):
        for what, (model, optimizer, batch) in ready.items():
            began = time.perf_counter()
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds[what].append(time.perf_counter() - began)
    return [_row(name, rank, what, seconds, ready[what][0], all_linear) for what in ready]


def _row(
    name: str,
    rank: int,
    what: str,
    seconds: dict[str, list[float]],
    model: nn.Module,
    all_linear: bool,
) -> dict[str, Any]:
    pairs = zip(seconds[what][5:], seconds[PLAIN][5:], strict=True)
    ratios = sorted(one / plain for one, plain in pairs)
    half = round(0.98 * len(ratios) ** 0.5)  # ranks on either side of the median
    middle = len(ratios) // 2
    return {
        "model": name,
        "layers": "all linear" if all_linear else "q and v",
        "rank": rank,
        "contender": what,
        "steps": len(ratios),
        "ms": round(1e3 * statistics.median(seconds[what][5:]), 2),
        "ratio": round(statistics.median(ratios), 4),
        "interval": [round(ratios[middle - half], 4), round(ratios[middle + half], 4)],
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def main() -> None:
    """Time, print, and keep the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--all-linear", type=int, metavar="RANK", help="every linear layer instead")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help=f"add the rows to {OUT.name}")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows = []
    for name in asked.models.split(","):
        rank = asked.all_linear or asked.rank
        found = run(name, rank, asked.steps, all_linear=bool(asked.all_linear))
        for row in found:
            low, high = row["interval"]
            print(
                f"{row['model']:13} {row['layers']:10} r={row['rank']:<3} {row['contender']:23} "
                f"{row['ms']:8.1f} ms  {row['ratio']:.3f} [{low:.3f}, {high:.3f}]  "
                f"{row['trainable']:,} trainable"
            )
        rows += found
    if asked.save:
        kept = json.loads(OUT.read_text()) if OUT.exists() else []
        keys = {(row["model"], row["layers"], row["rank"]) for row in rows}
        kept = [row for row in kept if (row["model"], row["layers"], row["rank"]) not in keys]
        OUT.write_text(json.dumps([*kept, *rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
