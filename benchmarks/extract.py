"""A LoRA from a fully fine-tuned model: `ailora extract` beside mergekit and torch's own solvers.

    python benchmarks/extract.py                                      without mergekit
    python benchmarks/extract.py --mergekit ENV/bin/mergekit-extract-lora --save

*Commands*: both on the same pair of folders, in turn, each in a process of its own on one thread;
seconds of the processor, user and system, imports included. Mergekit 0.1.5 takes the full SVD of
each layer in fp32, and stores embeddings and norms in full, which ours leaves out unless asked.
*Solvers*: the same layers in one process, in turn. The error is ||dW - B A||_F of all linear layers
together, from the files (or factors), as a share of ||dW||_F; *best* is Eckart's and Young's, by
LAPACK in float64. The tuned model is the base and in each linear layer an update whose singular
values decay as 1 / i, of 1 % of its norm. Saved are the pairs that were run; others stay.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from machine import machine
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

from ailora.files import write_json
from ailora.lab.demo.decoder import decoder_dir
from ailora.linalg import decompose

RESULTS = Path(__file__).parent / "results" / "extract.json"
Row = dict[str, Any]
PAIRS = ("SmolLM2, 4 layers", "2048 wide, 1 layer")


def model_of(pair: str) -> Any:
    """The first layers of the embedded decoder, or one layer of the shape of a 1B LLaMA."""
    if pair == PAIRS[0]:
        return hf.AutoModelForCausalLM.from_pretrained(decoder_dir(), num_hidden_layers=4)
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32}
    config = hf.LlamaConfig(**sizes, num_key_value_heads=8, num_hidden_layers=1, vocab_size=256)
    return hf.LlamaForCausalLM(config)


@torch.no_grad()
def save_pair(pair: str, folder: Path) -> None:
    """BASE and TUNED, fp32."""
    torch.manual_seed(0)
    model = model_of(pair)
    model.save_pretrained(folder / "base")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            W = module.weight
            S = 1 / (1 + torch.arange(min(W.shape)))
            U, V = (torch.linalg.qr(torch.randn(size, len(S))).Q for size in W.shape)
            change = (U * S) @ V.T
            W += 0.01 * W.norm() / change.norm() * change
    model.save_pretrained(folder / "tuned")


def changes(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """DW of each layer that changed, float64."""
    base, tuned = (load_file(folder / name / "model.safetensors") for name in ("base", "tuned"))
    for name, W in base.items():
        if not torch.equal(W, tuned[name]):
            yield name.removesuffix(".weight"), tuned[name].double() - W.double()


def lost(folder: Path, update: Callable[[str, Tensor], Tensor]) -> float:
    """Share of ||dW||_F that an update of each layer misses, all layers together."""
    missed = size = 0.0
    for name, dW in changes(folder):
        missed += float((dW - update(name, dW)).square().sum())
        size += float(dW.square().sum())
    return math.sqrt(missed / size)


def of_file(adapter: Path) -> Callable[[str, Tensor], Tensor]:
    factors = load_file(adapter / "adapter_model.safetensors")

    def update(name: str, dW: Tensor) -> Tensor:
        A, B = (factors[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        return B @ A

    return update


def commands(folder: Path, rank: int, mergekit: str | None) -> dict[str, list[str]]:
    base, tuned = str(folder / "base"), str(folder / "tuned")
    program = str(Path(sys.executable).with_name("ailora"))
    ours = [program, "extract", base, tuned, "--rank", str(rank)]
    found = {"ailora extract": [*ours, "--out"]}
    if mergekit:
        theirs = [mergekit, "--base-model", base, "--model", tuned, "--max-rank", str(rank)]
        found["mergekit-extract-lora"] = [*theirs, "--out-path"]
    return found


def spent(command: list[str]) -> float:
    """Seconds of the processor that a command takes."""
    before = os.times()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = os.times()
    used = after.children_user + after.children_system
    return used - before.children_user - before.children_system


def by_command(pair: str, folder: Path, rank: int, rounds: int, mergekit: str | None) -> list[Row]:
    """One row per command."""
    found = commands(folder, rank, mergekit)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    errors = {}
    for _ in range(rounds):
        for name, command in found.items():
            out = folder / "out"
            seconds[name].append(spent([*command, str(out)]))
            errors[name] = lost(folder, of_file(out))
            shutil.rmtree(out)
    common = {"pair": pair, "rank": rank, "by": "command"}
    return [
        {**common, "method": name, "seconds": statistics.median(values), "error": errors[name]}
        for name, values in seconds.items()
    ]


Solver = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def _ours(dW: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    found = decompose(dW, rank, "principal", tol=1e-6)
    return found.U * found.S, found.Vt


def _svd(dW: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    U, S, Vt = torch.linalg.svd(dW.float(), full_matrices=False)
    return U[:, :rank] * S[:rank], Vt[:rank]


def _lowrank(dW: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    U, S, V = torch.svd_lowrank(dW.float(), rank, niter=4)
    return U * S, V.T


SOLVERS: dict[str, Solver] = {
    "ailora.decompose": _ours,
    "torch.linalg.svd, fp32": _svd,
    "torch.svd_lowrank, niter 4": _lowrank,
}


def by_solver(pair: str, folder: Path, rank: int, rounds: int) -> list[Row]:
    """One row per solver, of seconds of this process's processor time, and the best there is."""
    seconds: dict[str, list[float]] = {name: [] for name in SOLVERS}
    errors = {}
    for _ in range(rounds):
        for name, solve in SOLVERS.items():
            used = 0.0

            def update(_: str, dW: Tensor, solve: Solver = solve) -> Tensor:
                nonlocal used
                began = time.process_time()
                B, A = solve(dW, rank)
                used += time.process_time() - began
                return B.double() @ A.double()

            errors[name] = lost(folder, update)
            seconds[name].append(used)
    common = {"pair": pair, "rank": rank, "by": "solver"}
    rows = [
        {**common, "method": name, "seconds": statistics.median(values), "error": errors[name]}
        for name, values in seconds.items()
    ]
    energy = [torch.linalg.svdvals(dW).square() for _, dW in changes(folder)]
    cut, whole = (float(sum(one[start:].sum() for one in energy)) for start in (rank, 0))
    return [*rows, {**common, "method": "best", "seconds": None, "error": math.sqrt(cut / whole)}]


def table_of(rows: list[Row]) -> Table:
    """Seconds and errors, one line per method."""
    table = Table(title="seconds of the processor, and the share of dW that is lost")
    for title in ("pair", "rank", "method", "seconds", "times ours", "lost"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        ours = next(r for r in rows if (r["pair"], r["by"]) == (row["pair"], row["by"]))
        ratio = row["seconds"] and row["seconds"] / ours["seconds"]
        table.add_row(
            row["pair"],
            str(row["rank"]),
            row["method"],
            "" if row["seconds"] is None else f"{row['seconds']:.2f}",
            "" if ratio is None else f"{ratio:.1f}",
            f"{row['error']:.10f}",
        )
    return table


def keep(rows: list[Row], rounds: int) -> None:
    """Put rows in the place of those of the same pairs."""
    about = {**machine(), "rounds": rounds}
    old = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    pairs = {row["pair"] for row in rows}
    others = [row for row in old if row["pair"] not in pairs]
    write_json(RESULTS, {"rows": [*others, *({**row, "machine": about} for row in rows)]})


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--mergekit", help="path of mergekit-extract-lora, in its environment")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for pair in given.pairs:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            save_pair(pair, folder)
            rows += by_command(pair, folder, given.rank, given.rounds, given.mergekit)
            rows += by_solver(pair, folder, given.rank, given.rounds)
        Console(width=120).print(table_of(rows))
        if given.save:
            keep(rows, given.rounds)


if __name__ == "__main__":
    main()
