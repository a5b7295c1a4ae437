"""Gram matrices, and eigenpairs from one end of a symmetric matrix's spectrum."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from ailora.linalg.tridiagonal import FEW_SHARE, FewerFoundError, eigh_range
from ailora.linalg.triplets import Part

logger = logging.getLogger(__name__)

_PANEL = 512  # columns; one triangle of the product, some 45 % saved at n = 4096
# Milliseconds, two threads, torch's eigh of all beside the wanted 9, 33 or 129 of n: 384: 7.0, and
# 4.4, 6.3, 9.3; 768: 36, and 27, 35, 42; 1024: 80, and 71, 80, 95; 2048: 700, and 380, 435, 440.
# The small ones gain less than two libraries' threads, waiting for each other, cost: up to 5 ms.
_ALL_UP_TO, _ALL_OF_MANY_UP_TO = 512, 1024


def gram_matrix(W: Tensor) -> Tensor:
    """W^T W (n, n), at little more than half of a full product's cost."""
    n = W.shape[1]
    if n <= _PANEL:  # copying a triangle would take longer than computing it
        return W.T @ W
    G = W.new_empty(n, n)
    for start in range(0, n, _PANEL):
        panel = slice(start, min(start + _PANEL, n))
        rows = W[:, panel].T @ W[:, start:]
        G[panel, start:], G[start:, panel] = rows, rows.T
    return G


class End(NamedTuple):
    """Eigenvalues (k,) and eigenvectors (n, k) from one end, outermost first.

    `largest` is the largest eigenvalue of all, None where it was not found on the way.
    """

    values: Tensor
    vectors: Tensor
    largest: float | None


def eigh_end(G: Tensor, count: int, part: Part) -> End:
    """`count` eigenpairs from one end of the spectrum of a symmetric G (n, n), float64.

    On the CPU only those are computed where that is quicker, elsewhere all.
    """
    found = _some(G, count, part) if _some_are_quicker(G, count) else None
    values, vectors = torch.linalg.eigh(G) if found is None else found
    largest = float(values[-1]) if found is None or part == "principal" else None
    if part == "principal":
        values, vectors = values.flip(0), vectors.flip(1)
    return End(values[:count], vectors[:, :count], largest)


def _some_are_quicker(G: Tensor, count: int) -> bool:
    n = G.shape[0]
    if G.device.type != "cpu" or n <= _ALL_UP_TO or 2 * count > n:
        return False
    return n > _ALL_OF_MANY_UP_TO or count * FEW_SHARE <= n


def _some(G: Tensor, count: int, part: Part) -> tuple[Tensor, Tensor] | None:
    n = G.shape[0]
    try:
        return eigh_range(G, n - count if part == "principal" else 0, count)
    except FewerFoundError as failure:
        logger.debug("eigenpairs of a %d x %d matrix: %s", n, n, failure)
        return None
