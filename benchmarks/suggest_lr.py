"""Rates that could be suggested before any sweep, beside the rates that a sweep finds.

    python benchmarks/suggest_lr.py predict --store FOLDER
    python benchmarks/suggest_lr.py sweep --store FOLDER
    python benchmarks/suggest_lr.py report --store FOLDER

`predict` writes every cell's suggestions, and is run and committed before the first sweep; `sweep`
goes on where it was stopped; `report` compares the two. A cell is a model, a task, a method and a
rank, and what is suggested is of two kinds:

* multiples of LoRA's best rate on the same model, task and rank: the size rule (first steps of
  Adam as long as LoRA's, `first_step`: of all layers together, or in the geometric mean of them),
  the range test beside LoRA's own, LoRA's rate as it is, and what arXiv 2602.04998 found for PiSSA
  and MiLoRA;
* a rate without any other: a tenth of the rate at which the range test's loss is lowest.

A suggestion hits if it lies within a quarter decade of the swept optimum: the vertex of a parabola
through the validation loss, mean over seeds, at the best of quarter-decade rates and at its two
neighbours.

So that a run takes a second, adapters are on q and v of a model's last layers alone, and what the
frozen layers below make of the sentences is computed once. Two tasks: "heal" is to give the whole
model's output where the layers just below the last ones are left out, as after pruning; "rating"
is to tell a film review's, by a head that is fitted to the frozen model. The head stays as it is,
so that no rate but the adapter's is in play.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any, NamedTuple

import numpy as np
import peft
import torch
import transformers as hf
from first_step import first_step
from machine import machine
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import ailora
from ailora import presets
from ailora.cli.console import quiet_libraries
from ailora.files import parse_json, write_json
from ailora.lab import demo
from ailora.lab.tasks import load_task
from ailora.lock import LockedError, held

RESULTS = Path(__file__).parent / "results"
PREDICTIONS, OPTIMA = RESULTS / "suggest_lr_predictions.json", RESULTS / "suggest_lr.json"

PAIRS = (("minilm", "heal"), ("smollm2", "heal"), ("minilm", "rating"))
LAST = {"minilm": 2, "smollm2": 1}  # layers with adapters, of 6 and of 30
LEFT_OUT = {"minilm": 1, "smollm2": 2}  # layers below them, in "heal"
WHOLE = {"minilm": demo.encoder_dir, "smollm2": demo.decoder_dir}
RANKS = (8, 64)
METHODS = ("pissa", "milora", "ailora")
SEEDS = (0, 1)
TOKENS, BATCH = 16, 8  # film reviews of at least so many tokens, cut there: nothing is padded
ROWS = {"head": 256, "train": 192, "selection": 128}
PUBLISHED = {"pissa": 0.1, "milora": 1 / 3.2}  # best rates over LoRA's in arXiv 2602.04998

RANGE = np.logspace(-3.5, -0.5, 25)  # the range test: a step at each, on one batch

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


# --- one model's last layers on one task -----------------------------------------------------


@dataclass(frozen=True)
class Data:
    """What enters the last layers, (rows, tokens, width), and what is to come of each row."""

    hidden: Tensor
    wanted: Tensor


class Problem:
    """A model's last layers, its data by split, and the head that was fitted to the first split."""

    def __init__(self, model: str, task: str, store: Path) -> None:
        self.folder = store.absolute() / f"{model}-last-{LAST[model]}"
        if not (self.folder / "rows.safetensors").exists():
            prepare(model, self.folder)
        rows = load_file(self.folder / "rows.safetensors")
        hidden, wanted = rows[f"{task}.hidden"], rows[f"{task}.wanted"]
        parts = np.split(np.arange(len(wanted)), np.cumsum([*ROWS.values()])[:-1])
        self.data = {
            name: Data(hidden[part], wanted[part]) for name, part in zip(ROWS, parts, strict=True)
        }
        self.spread = wanted.float().var(0, correction=0).mean()
        self.head = self._fitted() if task == "rating" else None

    def base(self) -> Any:
        """The last layers, pre-trained, without an adapter."""
        return hf.AutoModel.from_pretrained(self.folder, dtype=torch.float32).eval()

    def _fitted(self) -> Tensor:
        """Ridge regression on the base's features, with their mean square as its penalty."""
        data = self.data["head"]
        with torch.no_grad():
            X = pooled(output_of(self.base(), data.hidden))
        penalty = X.square().sum() / X.shape[1] * torch.eye(X.shape[1])
        weight: Tensor = torch.linalg.solve(X.T @ X + penalty, X.T @ data.wanted)
        return weight

    def loss(self, base: Any, data: Data) -> Tensor:
        """Mean squared error over the variance of what is wanted."""
        output = output_of(base, data.hidden)
        said = output if self.head is None else pooled(output) @ self.head
        return mse_loss(said, data.wanted) / self.spread


def output_of(base: Any, hidden: Tensor) -> Tensor:
    """What the last layers make of what enters them, (rows, tokens, width).

    The decoder's positions begin at 0; there is no padding, so neither model needs a mask.
    """
    with torch.autocast("cpu", torch.bfloat16):
        if hasattr(base, "encoder"):
            for layer in base.encoder.layer:
                hidden = first_of(layer(hidden))
        else:
            places = torch.arange(hidden.shape[1])[None]
            angles = base.rotary_emb(hidden, places)
            for layer in base.layers:
                hidden = first_of(layer(hidden, position_embeddings=angles, position_ids=places))
            hidden = base.norm(hidden)
    return hidden.float()


def pooled(output: Tensor) -> Tensor:
    """The mean over tokens, with a one for the bias: (rows, width + 1)."""
    return torch.cat([output.mean(1), torch.ones(len(output), 1)], dim=1)


def first_of(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@torch.no_grad()
def prepare(name: str, folder: Path) -> None:
    """The last layers as a model in a folder, with what the layers below make of the rows."""
    model = hf.AutoModel.from_pretrained(WHOLE[name](), dtype=torch.float32).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(WHOLE[name]())
    task = load_task("movies-regression")
    ids, rating = [], []
    for row in task.train.shuffle(seed=0):
        tokens = tokenizer(row["text"])["input_ids"]
        if len(tokens) >= TOKENS and len(ids) < sum(ROWS.values()):
            ids.append(tokens[:TOKENS])
            rating.append(float(row["label"]))
    owner, layers = (model.encoder, "layer") if hasattr(model, "encoder") else (model, "layers")
    with torch.autocast("cpu", torch.bfloat16):
        states = [
            model(torch.tensor(ids[start : start + 32]), output_hidden_states=True).hidden_states
            for start in track(range(0, len(ids), 32), f"rows of {name}")
        ]
    below = len(getattr(owner, layers)) - LAST[name]
    wholly, left_out, final = (
        torch.cat([state[place] for state in states]).float()
        for place in (below, below - LEFT_OUT[name], -1)
    )
    setattr(owner, layers, getattr(owner, layers)[-LAST[name] :])
    for index, layer in enumerate(getattr(owner, layers)):
        if hasattr(layer, "self_attn"):
            layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = LAST[name]
    model.save_pretrained(folder)
    rows = {
        "rating.hidden": wholly, "rating.wanted": torch.tensor(rating),
        "heal.hidden": left_out, "heal.wanted": final,
    }  # fmt: skip
    save_file(rows, folder / "rows.safetensors")


def started(problem: Problem, cell: Cell, seed: int) -> tuple[Any, Any]:
    """The base with adapters at their start, and PEFT's model around it."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(problem.base(), getattr(presets, cell.method)(r=cell.rank))
    return model.get_base_model(), model.eval()


# --- what is suggested -----------------------------------------------------------------------


def predict(own: Sequence[Cell], store: Path) -> None:
    """Write each cell's suggestions; cells that are written stay as they are."""
    found: dict[str, Any] = {"rows": ROWS, "layers": LAST, "cells": []}
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
    base = Problem(cell.model, cell.task, store).base()
    step = first_step(base, getattr(presets, cell.method)(r=cell.rank))
    return {"size": step.total, "size_of_layers": geometric_mean(step.layers.values())}


def range_test(cell: Cell, store: Path) -> float:
    """The rate after whose step the loss on one batch is lowest, while the rate rises."""
    problem = Problem(cell.model, cell.task, store)
    base, model = started(problem, cell, SEEDS[0])
    data = problem.data["train"]
    batch = Data(data.hidden[: 2 * BATCH], data.wanted[: 2 * BATCH])
    optimizer = ailora.create_optimizer(model, lr=1.0)
    own = [group["lr"] for group in optimizer.param_groups]
    losses = []
    for rate in RANGE:
        loss = problem.loss(base, batch)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        for group, at_one in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = at_one * rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = [loss if math.isfinite(loss) else math.inf for loss in losses[1:]]
    return float(RANGE[int(np.argmin(after))])


# --- what a sweep finds ----------------------------------------------------------------------


Losses = Mapping[int, Mapping[int, float]]  # by number of the rate, then seed; inf: diverged


def sweep_all(own: Sequence[Cell], store: Path, until: float) -> None:
    """Search each cell's best rate; one that another process is at is left to it."""
    for cell in own:
        try:
            with held(store.absolute() / "-".join(map(str, cell))):
                losses = search(cell, store, until)
        except LockedError:
            continue
        print(cell, {k: [*by_seed.values()] for k, by_seed in sorted(losses.items())}, flush=True)


def search(cell: Cell, store: Path, until: float) -> Losses:
    """The losses that decide a cell's best rate: those in its file, and runs done now."""
    problem, losses = Problem(cell.model, cell.task, store), known_losses(cell, store)
    while wanted := wanted_runs(losses):
        for k, seed in wanted:
            if time.monotonic() > until:
                raise SystemExit(f"stopped at {cell}")
            losses.setdefault(k, {})[seed] = trained(problem, cell, 10 ** (k / 4), seed)
            write_json(file_of(cell, store), plain(losses))
    return losses


def file_of(cell: Cell, store: Path) -> Path:
    return store / "-".join(map(str, cell)) / "losses.json"


def plain(losses: Losses) -> dict[str, dict[str, float | None]]:
    """As JSON has them: null for a run that diverged, since it has no infinity."""
    return {
        str(k): {str(seed): one if math.isfinite(one) else None for seed, one in by_seed.items()}
        for k, by_seed in sorted(losses.items())
    }


def known_losses(cell: Cell, store: Path) -> dict[int, dict[int, float]]:
    """The runs that are done, from the cell's file."""
    file = file_of(cell, store)
    found = parse_json(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {
        int(k): {int(seed): math.inf if one is None else one for seed, one in by_seed.items()}
        for k, by_seed in found.items()
    }


def trained(problem: Problem, cell: Cell, rate: float, seed: int) -> float:
    """Validation loss after one pass over the rows, the rate falling linearly; inf: diverged."""
    base, model = started(problem, cell, seed)
    optimizer = ailora.create_optimizer(model, lr=rate)
    data = problem.data["train"]
    batches = torch.randperm(len(data.wanted), generator=torch.manual_seed(seed)).split(BATCH)
    schedule = hf.get_linear_schedule_with_warmup(optimizer, 2, len(batches))
    for rows in batches:
        loss = problem.loss(base, Data(data.hidden[rows], data.wanted[rows]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        final = float(problem.loss(base, problem.data["selection"]))
    return final if math.isfinite(final) else math.inf


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
    losses = known_losses(cell, store)
    if not losses or wanted_runs(losses):
        return Optimum(None, (), losses)
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
        "swept": not wanted_runs(own.losses),
        "log_rate": own.log_rate,
        "log_rate_by_seed": own.by_seed,
        "log_multiple": None if None in (own.log_rate, lora.log_rate)
        else own.log_rate - lora.log_rate,
        "errors": errors,
        "losses": plain(own.losses),
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
        yield "at an edge" if cell["swept"] else "not swept to the end"
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
