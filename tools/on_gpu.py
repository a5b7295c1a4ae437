"""What the library does on a GPU, in ten minutes: one script for a machine that is lent.

    python tools/on_gpu.py                       everything, results in benchmarks/results/gpu.json
    python tools/on_gpu.py --device cpu --small  the same on a processor in a minute, to try it

It asks for torch, transformers and peft as they are found, and for no network: models are random.
Each part stops when its share of the time is used up and says what it left out; what fails is a
line of the result, and the next part goes on. The parts:

decompositions  `ailora.decompose` beside `torch.linalg.svd` and `torch.svd_lowrank`, on weights
                whose singular values are known: seconds, and the largest relative error of one
start           wrapping a 7B-shaped model: q and v at rank 8, all linear layers at rank 32
training        steps in bf16 of plain LoRA, anchored and folded factors in turn: time and memory
tests           tests/test_device.py on the device
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
SHARES = {"decompositions": 0.35, "start": 0.3, "training": 0.15, "tests": 0.2}
LINEAR = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is.

    Attributes:
        shapes: Weights that are decomposed.
        ranks: Ranks of the decompositions.
        hidden: Width of the 7B-shaped model.
        inner: Width of its feed-forward block.
        layers: Its number of layers.
        trained_layers: Number of layers of the model that is trained.
        tokens: Batch and sequence length of a training step.
        steps: Training steps of every contender.
    """

    shapes: tuple[tuple[int, int], ...] = ((4096, 4096), (11008, 4096))
    ranks: tuple[int, ...] = (8, 32, 128)
    hidden: int = 4096
    inner: int = 11008
    layers: int = 32
    trained_layers: int = 8
    tokens: tuple[int, int] = (4, 1024)
    steps: int = 20


SMALL = Sizes(
    shapes=((128, 128), (160, 96)),
    ranks=(4, 8),
    hidden=64,
    inner=96,
    layers=2,
    trained_layers=2,
    tokens=(2, 16),
    steps=4,
)


class Clock:
    """Whether a part's time is used up."""

    def __init__(self, seconds: float) -> None:
        self.ends = time.perf_counter() + seconds

    @property
    def is_over(self) -> bool:
        """Whether no new piece of work should begin."""
        return time.perf_counter() > self.ends


def main() -> None:
    """Run the parts, print each row as it comes, and write them all after each part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="device as torch names it")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--minutes", type=float, default=9, help="time for everything")
    parser.add_argument("--parts", nargs="+", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is to be seen by torch here; --device cpu --small tries the script")
    sizes = SMALL if chosen.small else Sizes()
    found: dict[str, Any] = {"machine": machine(device), "small": chosen.small, "parts": {}}
    whole = sum(SHARES[name] for name in chosen.parts)
    for name in chosen.parts:
        clock = Clock(60 * chosen.minutes * SHARES[name] / whole)
        found["parts"][name] = rows = []
        for row in guarded(PARTS[name](device, sizes, clock)):
            rows.append(row)
            print(name, json.dumps(row), flush=True)
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written to {chosen.out}")


def guarded(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows of a part, and in place of what fails one that says so."""
    try:
        yield from rows
    except Exception as error:  # the other parts are still of use
        yield {"failed": f"{type(error).__name__}: {error}"[:500]}


def machine(device: torch.device) -> Row:
    """What the figures were measured on."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def wait(device: torch.device) -> None:
    """Let the device finish, so that a clock tells its time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what was returned."""
    wait(device)
    began = time.perf_counter()
    answer = run()
    wait(device)
    return time.perf_counter() - began, answer


# --- Decompositions ---------------------------------------------------------------------------


def decompositions(device: torch.device, sizes: Sizes, clock: Clock) -> Iterator[Row]:
    """One row per weight, rank, part and method: the best of two runs after a first one."""
    weights = product(sizes.shapes, ("flat", "decaying"), (torch.float32, torch.bfloat16))
    for shape, spectrum, stored in weights:
        W, S = known(shape, spectrum, device)
        case = {"shape": list(shape), "spectrum": spectrum, "stored": str(stored)[6:]}
        for method, rank, part, run in methods(W.to(stored), sizes.ranks):
            if clock.is_over:
                yield {"left out": "the time was used up", **case, "method": method, "rank": rank}
                return
            run()
            seconds, found = min((timed(device, run) for _ in range(2)), key=lambda pair: pair[0])
            row = {**case, "method": method, "rank": rank, "part": part, "seconds": seconds}
            if stored == torch.float32:  # in 16 bits it has other values than it was made with
                wanted = S[:rank] if part == "principal" else S[-rank:]
                row["error"] = float(((found.double() - wanted) / wanted).abs().max())
            yield row


def methods(
    weight: Tensor, ranks: Sequence[int]
) -> Iterator[tuple[str, int, str, Callable[[], Tensor]]]:
    """Name, rank, part, and a function that gives the singular values of that part."""
    from ailora.linalg import decompose

    single = weight.float()

    def full(end: slice) -> Tensor:
        return torch.linalg.svd(single, full_matrices=False)[1][end]

    for rank in ranks:
        for part, end in (("principal", slice(None, rank)), ("minor", slice(-rank, None))):
            yield "ailora", rank, part, lambda r=rank, p=part: decompose(weight, r, p).S
            if rank == ranks[0]:
                yield "torch.linalg.svd", rank, part, partial(full, end)
        yield (
            "ailora, tol 1e-2",
            rank,
            "principal",
            lambda r=rank: decompose(weight, r, "principal", tol=1e-2).S,
        )
        for niter in (4, 16):
            yield (
                f"svd_lowrank, niter {niter}",
                rank,
                "principal",
                lambda r=rank, n=niter: torch.svd_lowrank(single, r, niter=n)[1],
            )


def known(shape: tuple[int, int], spectrum: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """A weight (m, n) and its singular values, fp64: 1 down to 1/2, or 1/i."""
    torch.manual_seed(0)
    m, n = shape
    k = min(m, n)
    U = torch.linalg.qr(torch.randn(m, k, device=device, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(n, k, device=device, dtype=torch.float64)).Q
    if spectrum == "flat":
        S = torch.linspace(1, 0.5, k, device=device, dtype=torch.float64)
    else:
        S = 1 / torch.arange(1, k + 1, device=device, dtype=torch.float64)
    return (U * S) @ V.T, S


# --- Starts and training ----------------------------------------------------------------------


def llama(sizes: Sizes, layers: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A LLaMA of these sizes with random weights, made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.inner,
        num_hidden_layers=layers,
        num_attention_heads=max(1, sizes.hidden // 128),
        num_key_value_heads=max(1, sizes.hidden // 128),
        vocab_size=32000 if sizes.hidden > 512 else 64,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            torch.manual_seed(0)
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def start(device: torch.device, sizes: Sizes, clock: Clock) -> Iterator[Row]:
    """Seconds to wrap a 7B-shaped model, and whether step 0 is exact to the bit."""
    import ailora

    os.environ["AILORA_CACHE_LIMIT"] = "0"  # nothing from an earlier run
    tokens = torch.arange(8, device=device)[None]
    plans = {
        "ailora, q and v, rank 8": lambda k: ailora.presets.ailora(
            min(8, sizes.hidden), task_type="CAUSAL_LM", layers_to_transform=list(range(k))
        ),
        "pissa, all linear layers, rank 32": lambda k: ailora.presets.pissa(
            min(32, sizes.hidden),
            task_type="CAUSAL_LM",
            target_modules=LINEAR,
            layers_to_transform=list(range(k)),
        ),
    }
    for name, config in plans.items():
        if clock.is_over:
            yield {"left out": "the time was used up", "what": name}
            return
        model = llama(sizes, sizes.layers, device, torch.bfloat16).eval()
        with torch.no_grad():
            before = model(input_ids=tokens).logits.clone()
        # All layers if two of them say that there is time for it.
        trial = llama(sizes, 2, device, torch.bfloat16)
        two, _ = timed(device, lambda c=config, m=trial: ailora.get_peft_model(m, c(2)))
        del trial
        left = clock.ends - time.perf_counter()
        layers = max(2, min(sizes.layers, int(0.8 * left / max(two / 2, 1e-6))))
        seconds, wrapped = timed(
            device, lambda c=config, m=model, k=layers: ailora.get_peft_model(m, c(k))
        )
        with torch.no_grad():
            exact = torch.equal(wrapped.eval()(input_ids=tokens).logits, before)
        yield {
            "what": name,
            "layers": layers,
            "of": sizes.layers,
            "seconds": round(seconds, 3),
            "step 0 exact": exact,
        }
        del model, wrapped
        if device.type == "cuda":
            torch.cuda.empty_cache()


def training(device: torch.device, sizes: Sizes, clock: Clock) -> Iterator[Row]:
    """Medians of steps on one batch in bf16, all contenders in turn; memory of a run alone."""
    import ailora

    rank = 8
    contenders = {
        "plain LoRA": ailora.presets.lora(rank),
        "plain LoRA of twice the rank": ailora.presets.lora(2 * rank),
        "ailora, anchored": ailora.presets.ailora(rank),
        "ailora, folded": ailora.presets.ailora(rank, anchored=False),
    }
    ids = torch.randint(0, 64, sizes.tokens, device=device)
    ready, memory, losses = {}, {}, {}
    for name, config in contenders.items():
        model = llama(sizes, sizes.trained_layers, device, torch.bfloat16)
        model = ailora.get_peft_model(model, config)
        ready[name] = step = _stepper(model, ids)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        losses[name] = [step()]
        if device.type == "cuda":
            memory[name] = torch.cuda.max_memory_allocated(device) - before
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(sizes.steps):
        if clock.is_over:
            break
        for name, step in ready.items():
            took, loss = timed(device, step)
            seconds[name].append(took)
            losses[name].append(loss)
    for name, took in seconds.items():
        beside = [mine / plain for mine, plain in zip(took, seconds["plain LoRA"], strict=True)]
        yield {
            "what": name,
            "steps": len(took),
            "milliseconds": round(1000 * statistics.median(took), 3) if took else None,
            "of plain LoRA's": round(statistics.median(beside), 4) if beside else None,
            "bytes of a step above the weights": memory.get(name),
            "first loss": losses[name][0],
            "last loss": losses[name][-1],
        }


def _stepper(model: nn.Module, ids: Tensor) -> Callable[[], float]:
    import ailora

    optimizer = ailora.create_optimizer(model.train(), lr=1e-4)

    def step() -> float:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


# --- Tests ------------------------------------------------------------------------------------


def tests(device: torch.device, sizes: Sizes, clock: Clock) -> Iterator[Row]:
    """The last lines of pytest."""
    del sizes
    command = [sys.executable, "-m", "pytest", "tests/test_device.py", "-q", "-o", "addopts="]
    found = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT / "src"), *([found] if found else [])])
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"AILORA_TEST_DEVICE": str(device), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=max(30.0, clock.ends - time.perf_counter()),
        check=False,
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    yield {"exit": done.returncode, "last": lines[-1] if lines else "", "failed": failed}


PARTS: dict[str, Callable[[torch.device, Sizes, Clock], Iterator[Row]]] = {
    "decompositions": decompositions,
    "start": start,
    "training": training,
    "tests": tests,
}

if __name__ == "__main__":
    main()
