"""The weights that are decomposed, and what is true of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, int]

SPECTRA = ("even", "decaying", "gaussian")


class Truth(NamedTuple):
    """U (m, k), S (k,), V (n, k): the thin SVD in float64 of the float32 weight as it is stored."""

    U: Tensor
    S: Tensor
    V: Tensor


def weight(kind: str, shape: Shape, seed: int = 0) -> Tensor:
    """A float32 weight (m, n) of some spectrum.

    "even": evenly spaced; "decaying": 1/i; "log": log-spaced from 1 to 1e-3; "gaussian": that of
    Gaussian entries.
    """
    m, n = shape
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(m, n, generator=generator, dtype=torch.float64)
    if kind == "gaussian":  # what transformers initialises LLaMA's projections with
        return (0.02 * noise).float()
    i = torch.arange(min(m, n), dtype=torch.float64)
    S = {
        "even": 1 - i / (len(i) + 1),
        "decaying": 1 / (1 + i),
        "log": torch.logspace(0, -3, len(i), dtype=torch.float64),
    }[kind]
    tall = noise if m >= n else noise.T
    long = torch.linalg.qr(tall).Q
    short = torch.linalg.qr(torch.randn(len(i), len(i), generator=generator, dtype=S.dtype)).Q
    W = (long * S) @ short.T
    stored: Tensor = (W if m >= n else W.T).float().contiguous()
    return stored


def encoder_weights() -> Iterator[tuple[str, Tensor]]:
    """Role and float32 weight of every query and value projection of the embedded encoder."""
    from transformers import AutoModel  # noqa: PLC0415 - only this part needs it

    from ailora.lab.demo import encoder_dir  # noqa: PLC0415

    for name, parameter in AutoModel.from_pretrained(encoder_dir()).named_parameters():
        for role in ("query", "value"):
            if name.endswith(f"attention.self.{role}.weight"):
                yield role, parameter.detach()


def truth(W: Tensor) -> Truth:
    """The reference, by LAPACK in float64."""
    U, S, Vt = torch.linalg.svd(W.double(), full_matrices=False)
    return Truth(U, S, Vt.T)
