"""Rates that could be suggested before any sweep, beside the rates that a sweep finds.

    python benchmarks/suggest_lr.py predict --store FOLDER
    python benchmarks/suggest_lr.py sweep --store FOLDER
    python benchmarks/suggest_lr.py report --store FOLDER

`predict` writes every cell's suggestions, and is run and committed before the first sweep; `sweep`
goes on where it was stopped; `report` compares the two. A cell is a model, a task, a method and a
rank, and what is suggested is of two kinds:

* multiples of LoRA's best rate on the same model, task and rank: the size rule (first steps of
  Adam as long as LoRA's, `ailora.adapters.first_step`: of all layers together, or in the geometric
  mean of them), the range test beside LoRA's own, LoRA's rate as it is, and what arXiv 2602.04998
  found for PiSSA and MiLoRA;
* a rate without any other: a tenth of the rate at which the range test's loss is lowest.

A suggestion hits if it lies within a quarter decade of the swept optimum: the vertex of a parabola
through the validation loss, mean over seeds, at the best of quarter-decade rates and at its two
neighbours.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers as hf
from machine import machine
from rich.console import Console
from rich.progress import track

from ailora import presets
from ailora.adapters.first_step import first_step
from ailora.cli.console import quiet_libraries
from ailora.files import parse_json, write_json
from ailora.lab import demo
from ailora.lab.experiments import Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.jobs import Tasks
from ailora.lab.lock import LockedError, held
from ailora.lab.methods.table import method_named
from ailora.lab.training import RunConfig
from ailora.lab.training.kinds import kind_of
from ailora.lab.training.trainer import groups_of

RESULTS = Path(__file__).parent / "results"
PREDICTIONS, OPTIMA = RESULTS / "suggest_lr_predictions.json", RESULTS / "suggest_lr.json"

# Both models are pre-trained; of each the first few layers, so that a run takes two seconds. The
# last pair is for a machine that has time for it.
PAIRS = (("minilm", "movies-regression"), ("smollm2", "movies-regression"), ("minilm", "movies"))
LAYERS = {"minilm": 3, "smollm2": 2}
WHOLE = {"minilm": demo.encoder_dir, "smollm2": demo.decoder_dir}
RANKS = (8, 64)
METHODS = ("pissa", "milora", "ailora")
SEEDS = (0, 1)
COMMON = RunConfig(
    limit=128, eval_limit=64, epochs=2, batch_size=8, evaluations=1, max_length=20,
    head_lr=2e-3, precision="bf16",
)  # fmt: skip
PUBLISHED = {"pissa": 0.1, "milora": 1 / 3.2}  # best rates over LoRA's in arXiv 2602.04998

STEPS, ROWS = 24, 16  # the range test: 24 steps over three decades, on the same rows throughout
RANGE = np.logspace(-3.5, -0.5, STEPS + 1)

# Rates are 10^(k/4). Every search begins at the same three, so that no suggestion helps to find
# what it is held against.
BEGIN, LOWEST, HIGHEST = (-12, -10, -8), -20, 0
WITHIN = 0.25  # decades


class Cell(NamedTuple):
    """What is suggested for, and swept."""

    model: str
    task: str
    method: str
    rank: int


def cells() -> Iterator[Cell]:
    """Every cell, LoRA's own first of each model, task and rank."""
    for model, task in PAIRS:
        for rank in RANKS:
            for method in ("lora", *METHODS):
                yield Cell(model, task, method, rank)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("predict", "sweep", "report"))
    parser.add_argument("--store", type=Path, required=True, help="folder of runs, kept")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no run after these")
    parser.add_argument("--pairs", default="0,1,2", help="of model and task: only these")
    chosen = parser.parse_args()
    quiet_libraries()
    hf.logging.set_verbosity_error()
    pairs = [PAIRS[int(index)] for index in chosen.pairs.split(",")]
    own = [cell for cell in cells() if cell[:2] in pairs]
    if chosen.what == "predict":
        predict(own, chosen.store)
    elif chosen.what == "sweep":
        sweep_all(own, chosen.store, time.monotonic() + chosen.seconds)
    else:
        found = report(own, chosen.store)
        write_json(OPTIMA, found)
        Console(soft_wrap=True).print(markdown(found), markup=False)


def config_of(cell: Cell, store: Path) -> RunConfig:
    model = str(shortened(cell.model, store))
    return replace(COMMON, model=model, task=cell.task, method=cell.method, rank=cell.rank)


def shortened(name: str, store: Path) -> Path:
    """A pre-trained model's first layers, as a folder."""
    folder = store.absolute() / f"{name}-{LAYERS[name]}-layers"
    if not folder.exists():
        model = hf.AutoModel.from_pretrained(WHOLE[name](), dtype=torch.float32)
        holder, layers = (
            (model.encoder, "layer") if hasattr(model, "encoder") else (model, "layers")
        )
        setattr(holder, layers, getattr(holder, layers)[: LAYERS[name]])
        model.config.num_hidden_layers = LAYERS[name]
        model.save_pretrained(folder)
        hf.AutoTokenizer.from_pretrained(WHOLE[name]()).save_pretrained(folder)
    return folder


# --- what is suggested -----------------------------------------------------------------------


def predict(own: Sequence[Cell], store: Path) -> None:
    """Write each cell's suggestions; cells that are written stay as they are."""
    found = {"settings": asdict(COMMON), "layers": LAYERS, "cells": []}
    if PREDICTIONS.exists():
        found = parse_json(PREDICTIONS.read_text(encoding="utf-8"))
    known = {Cell(*(line[name] for name in Cell._fields)): line for line in found["cells"]}
    for cell in track(own, "predictions"):
        if cell not in known:
            known[cell] = {**cell._asdict(), **suggestions(cell, known, store)}
            write_json(PREDICTIONS, {**found, "cells": list(known.values())})


def suggestions(cell: Cell, known: Mapping[Cell, Any], store: Path) -> dict[str, Any]:
    steps, lowest = steps_of(cell, store), range_test(cell, store)
    found = {"steps": steps, "lowest": lowest, "range": lowest / 10}
    if cell.method != "lora":
        lora = known[cell._replace(method="lora")]
        found["of_lora"] = {
            **{name: lora["steps"][name] / length for name, length in steps.items()},
            "range": lowest / lora["lowest"],
            "same": 1.0,
            "published": PUBLISHED.get(cell.method),
        }
    elif cell.rank != RANKS[0]:  # LoRA's rate at the small rank is known
        small = known[cell._replace(rank=RANKS[0])]
        sizes = {name: small["steps"][name] / length for name, length in steps.items()}
        found["of_small_rank"] = {**sizes, "same": 1.0}
    return found


def steps_of(cell: Cell, store: Path) -> dict[str, float]:
    """||dW|| of the first step, of all layers together and in the geometric mean of them."""
    config = config_of(cell, store)
    model, _ = kind_of(Tasks().of(config), config).load()
    step = first_step(model, getattr(presets, cell.method)(r=cell.rank))
    return {"size": step.total, "size_of_layers": geometric_mean(step.layers.values())}


def range_test(cell: Cell, store: Path) -> float:
    """The rate after whose step the loss on a few rows is lowest, while the rate rises."""
    config = replace(config_of(cell, store), lr=1.0)
    kind = kind_of(Tasks().of(config), config)
    base, tokenizer = kind.load()
    model = method_named(config.method).build(base, config, None).eval()  # no dropout
    rows = kind.encode(kind.task.train.take(ROWS), tokenizer)
    batch = kind.collator(tokenizer, base)(list(rows))
    groups = groups_of(model, config)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    own = [group["lr"] for group in optimizer.param_groups]
    losses = []
    for rate in RANGE:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for group, at_one in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = at_one if at_one == config.head_lr else at_one * rate
        optimizer.step()
    after = [loss if math.isfinite(loss) else math.inf for loss in losses[1:]]
    return float(RANGE[int(np.argmin(after))])


# --- what a sweep finds ----------------------------------------------------------------------


Losses = Mapping[int, Mapping[int, float]]  # by number of the rate, then seed; inf: diverged


def sweep_all(own: Sequence[Cell], store: Path, until: float) -> None:
    """Search each cell's best rate; one that another process is at is left to it."""
    tasks = Tasks()
    for cell in own:
        try:
            with held(store.absolute() / "-".join(map(str, cell))):
                losses = search(cell, store, tasks, until)
        except LockedError:
            continue
        print(cell, {k: [*by_seed.values()] for k, by_seed in sorted(losses.items())}, flush=True)


def search(cell: Cell, store: Path, tasks: Tasks, until: float) -> Losses:
    losses: dict[int, dict[int, float]] = {}
    while wanted := wanted_runs(losses):
        for k, seed in wanted:
            if time.monotonic() > until:
                raise SystemExit(f"stopped at {cell}")
            losses.setdefault(k, {})[seed] = loss_of(cell, k, seed, store, tasks)
    return losses


def loss_of(cell: Cell, k: int, seed: int, store: Path, tasks: Tasks) -> float:
    """Validation loss at the end of a run, done now if it has not been."""
    config = replace(config_of(cell, store), lr=10 ** (k / 4), seed=seed)
    outcome = sweep([config], Store(store / "runs"), Here(tasks), tasks=tasks)
    if outcome.failed:
        if outcome.failed[0].kind != "diverged":
            raise SystemExit(outcome.failed[0].reason)
        return math.inf
    return float(outcome.runs[0]["history"][-1]["loss"])


def wanted_runs(losses: Losses) -> list[tuple[int, int]]:
    """The runs to do next, as rate and seed.

    The first seed looks for the best rate: wider while it is at an edge, then at its neighbours.
    All seeds run there and at the neighbours of what is then the best of their mean.
    """
    first = SEEDS[0]
    if not losses:
        return [(k, first) for k in BEGIN]
    alone = {k: by_seed[first] for k, by_seed in losses.items()}
    best = min(alone, key=alone.__getitem__)
    if best == min(alone) and best - 2 >= LOWEST:
        return [(best - 2, first)]
    if best == max(alone) and best + 2 <= HIGHEST:
        return [(best + 2, first)]
    means = {k: fmean(one.values()) for k, one in losses.items() if len(one) == len(SEEDS)}
    best = min(means, key=means.__getitem__) if means else best
    near = [k for k in (best - 1, best, best + 1) if LOWEST <= k <= HIGHEST]
    return [(k, seed) for k in near for seed in SEEDS if seed not in losses.get(k, {})]


def vertex(losses: Losses, seeds: Sequence[int] = SEEDS) -> float | None:
    """log10 of the rate of least loss, by a parabola; None where the best rate is at an edge.

    It goes through the losses of these seeds at the best of the rates that all seeds ran, by the
    mean over all, and at its two neighbours; beside a rate that diverged the best one stands.
    """
    whole = {k: by_seed for k, by_seed in losses.items() if len(by_seed) == len(SEEDS)}
    best = min(whole, key=lambda k: fmean(whole[k].values()), default=0)
    if not {best - 1, best, best + 1} <= whole.keys():
        return None
    left, middle, right = (fmean(whole[best + i][seed] for seed in seeds) for i in (-1, 0, 1))
    if not math.isfinite(left + middle + right):
        return best / 4
    bend = left - 2 * middle + right
    return (best + (left - right) / (2 * bend)) / 4 if bend > 0 else None


# --- the two side by side --------------------------------------------------------------------


@dataclass(frozen=True)
class Optimum:
    """log10 of the best rate; of each seed alone; and the losses by log10 of the rate."""

    log_rate: float | None
    by_seed: tuple[float | None, ...]
    losses: Losses


def report(own: Sequence[Cell], store: Path) -> dict[str, Any]:
    predicted = parse_json(PREDICTIONS.read_text(encoding="utf-8"))["cells"]
    lines = {Cell(*(line[name] for name in Cell._fields)): line for line in predicted}
    optima = {cell: optimum_of(cell, store) for cell in own}
    return {
        "machine": machine(),
        "cells": [compared(cell, lines[cell], optima) for cell in own],
    }


def optimum_of(cell: Cell, store: Path) -> Optimum:
    """From the runs that are there; what is not yet swept has no optimum."""
    tasks, losses = Tasks(), {}
    known = Store(store / "runs").names()
    for k in range(LOWEST, HIGHEST + 1):
        for seed in SEEDS:
            config = replace(config_of(cell, store), lr=10 ** (k / 4), seed=seed)
            if tasks.job(config).run_id in known:
                losses.setdefault(k, {})[seed] = loss_of(cell, k, seed, store, tasks)
    if not losses:
        return Optimum(None, (), {})
    return Optimum(vertex(losses), tuple(vertex(losses, [seed]) for seed in SEEDS), losses)


def compared(cell: Cell, line: Mapping[str, Any], optima: Mapping[Cell, Optimum]) -> dict[str, Any]:
    own, lora = optima[cell], optima[cell._replace(method="lora")]
    small = optima[cell._replace(method="lora", rank=RANKS[0])]
    errors: dict[str, float] = {}
    if own.log_rate is not None:
        errors["range"] = math.log10(line["range"]) - own.log_rate
        for name, base in (("of_lora", lora), ("of_small_rank", small)):
            if base.log_rate is None:
                continue
            for rule, multiple in line.get(name, {}).items():
                if multiple is not None:
                    log_rate = base.log_rate + math.log10(multiple)
                    errors[f"{name} {rule}"] = log_rate - own.log_rate
    return {
        **cell._asdict(),
        "log_rate": own.log_rate,
        "log_rate_by_seed": own.by_seed,
        "log_multiple": None if None in (own.log_rate, lora.log_rate)
        else own.log_rate - lora.log_rate,
        "errors": errors,
        "losses": {f"{k / 4:g}": list(by_seed.values()) for k, by_seed in own.losses.items()},
    }  # fmt: skip


RULES = {
    "of_lora size": "size rule",
    "of_lora size_of_layers": "size rule, by layer",
    "of_lora range": "range test over LoRA's",
    "of_lora published": "published multiple",
    "of_lora same": "LoRA's rate",
    "range": "range test alone",
}


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of the documentation: each cell's errors in decades, and each rule's hits."""
    swept = [cell for cell in found["cells"] if cell["losses"] and cell["method"] != "lora"]
    rows = [["model", "task", "method", "rank", "best rate", "over LoRA's", *RULES.values()]]
    rows += [["---"] * 4 + ["---:"] * (2 + len(RULES))]
    rows += [[*(str(cell[name]) for name in Cell._fields), *_row(cell)] for cell in swept]
    rows += [["**hits**", *[""] * 5, *(_hits(swept, rule) for rule in RULES)]]
    multiple, hits, known = best_constant(swept)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + (
        "\n\nThe one multiple of LoRA's rate that fits these cells best, chosen after the fact, is "
        f"{multiple:.2g}: {hits} of {known}.\n\n{_across_ranks(found)}"
    )


def _row(cell: Mapping[str, Any]) -> Iterator[str]:
    if cell["log_rate"] is None:
        yield "at an edge"
    else:
        known = [one for one in cell["log_rate_by_seed"] if one is not None]
        spread = f" ± {(max(known) - min(known)) / 2:.2f}" if len(known) == len(SEEDS) else ""
        yield f"{10 ** cell['log_rate']:.2g}{spread}"
    multiple = cell["log_multiple"]
    yield "" if multiple is None else f"{10**multiple:.2f}"
    for rule in RULES:
        error = cell["errors"].get(rule)
        shown = "" if error is None else f"{error:+.2f}"
        yield f"**{shown}**" if error is not None and abs(error) <= WITHIN else shown


def _hits(cells: Sequence[Mapping[str, Any]], rule: str) -> str:
    errors = [cell["errors"][rule] for cell in cells if rule in cell["errors"]]
    return f"{sum(abs(error) <= WITHIN for error in errors)} of {len(errors)}"


def _across_ranks(found: Mapping[str, Any]) -> str:
    """How LoRA's own best rate moves with the rank, beside what the size rule says."""
    lines = []
    for cell in found["cells"]:
        rule, same = (cell["errors"].get(f"of_small_rank {name}") for name in ("size", "same"))
        if rule is not None and same is not None:
            moved, said = 10**-same, 10 ** (rule - same)
            lines.append(
                f"LoRA's own best rate at rank {cell['rank']} over that at rank {RANKS[0]} "
                f"({cell['model']}, {cell['task']}): {moved:.2f}; the size rule says {said:.2f}."
            )
    return "\n".join(lines)


def best_constant(cells: Sequence[Mapping[str, Any]]) -> tuple[float, int, int]:
    """The multiple of LoRA's rate with most hits, its hits, and the cells that count."""
    known = [cell["log_multiple"] for cell in cells if cell["log_multiple"] is not None]
    if not known:
        return math.nan, 0, 0
    tried = np.arange(min(known) - WITHIN, max(known) + WITHIN, 0.01)
    hits = [sum(abs(one - constant) <= WITHIN for one in known) for constant in tried]
    best = [constant for constant, count in zip(tried, hits, strict=True) if count == max(hits)]
    return 10 ** float(np.median(best)), max(hits), len(known)


if __name__ == "__main__":
    main()
