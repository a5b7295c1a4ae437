"""The q and v projections of a LLaMA-2-7B-shaped model: this library against PEFT's PiSSA."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from ailora.linalg import Part, decompose

LAYERS, HIDDEN = 32, 4096
PISSA = "PEFT pissa"
_SIGNAL = 300  # directions of the trained-like weight that stand out of its noise
WAYS: dict[str, tuple[Part, Part]] = {
    "ailora: q principal, v minor": ("principal", "minor"),
    "ailora: both principal": ("principal", "principal"),
}


class Attention(nn.Module):
    """Two projections under the names PEFT is told to look for."""

    def __init__(self, q: Tensor, v: Tensor) -> None:
        super().__init__()
        self.q_proj, self.v_proj = (nn.Linear(w.shape[1], w.shape[0], bias=False) for w in (q, v))
        self.q_proj.weight.data, self.v_proj.weight.data = q.clone(), v.clone()


def layer_weight(kind: str, hidden: int, seed: int) -> Tensor:
    """A float32 weight: Gaussian as before training, or with a decaying signal above the noise."""
    generator = torch.Generator().manual_seed(seed)
    W = 0.02 * torch.randn(hidden, hidden, generator=generator)
    if kind == "gaussian":
        return W
    size = 0.02 * 2 * hidden**0.5 * (1 + 8 / (1 + torch.arange(_SIGNAL)) ** 0.5)
    U, V = (torch.linalg.qr(torch.randn(hidden, _SIGNAL, generator=generator)).Q for _ in range(2))
    found: Tensor = W + (U * size) @ V.T
    return found


def measure(ranks: Sequence[int], layers: int, hidden: int = HIDDEN) -> list[dict[str, Any]]:
    """Median seconds per layer over `layers` layers, PEFT and ours in turn; scaled to 32 layers."""
    rows = []
    for kind in ("gaussian", "trained-like"):
        for rank in ranks:
            seconds: dict[str, list[float]] = defaultdict(list)
            for layer in range(layers):
                q, v = (layer_weight(kind, hidden, 2 * layer + side) for side in (0, 1))
                for way, spent in _one_layer(q, v, rank):
                    seconds[way].append(spent)
            median = {way: statistics.median(values) for way, values in seconds.items()}
            rows += [
                {
                    "weights": f"{hidden}x{hidden} {kind}",
                    "rank": rank,
                    "method": way,
                    "layers_timed": layers,
                    "seconds_a_layer": spent,
                    "seconds_32_layers": LAYERS * spent,
                    "faster": median[PISSA] / spent,
                }
                for way, spent in median.items()
            ]
    return rows


def _one_layer(q: Tensor, v: Tensor, rank: int) -> Iterator[tuple[str, float]]:
    model = Attention(q, v)
    yield PISSA, _timed(lambda: _pissa(model, rank))
    for way, parts in WAYS.items():
        yield way, _timed(functools.partial(_ours, (q, v), rank, parts))


def _pissa(model: nn.Module, rank: int) -> None:
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa"
    )
    get_peft_model(model, config)


def _ours(weights: tuple[Tensor, Tensor], rank: int, parts: tuple[Part, Part]) -> None:
    for W, part in zip(weights, parts, strict=True):
        found = decompose(W, rank, part)
        root = found.S.sqrt()
        (found.U * root).float(), (root[:, None] * found.Vt).float()


def _timed(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
