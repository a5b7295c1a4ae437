"""Gram matrices, and eigenpairs from one end of a symmetric matrix's spectrum."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ailora.linalg.tridiagonal import FewerFoundError, eigh_range
from ailora.linalg.triplets import Part

logger = logging.getLogger(__name__)

_PANEL = 512  # columns; one triangle of the product, some 45 % saved at n = 4096


def gram_matrix(W: Tensor) -> Tensor:
    """W^T W (n, n), at little more than half of a full product's cost."""
    n = W.shape[1]
    G = W.new_empty(n, n)
    for start in range(0, n, _PANEL):
        panel = slice(start, min(start + _PANEL, n))
        rows = W[:, panel].T @ W[:, start:]
        G[panel, start:], G[start:, panel] = rows, rows.T
    return G


def eigh_end(G: Tensor, count: int, part: Part) -> tuple[Tensor, Tensor]:
    """Eigenvalues (k,) and eigenvectors (n, k) of a symmetric G from one end, outermost first.

    On the CPU only the wanted ones are computed, elsewhere, and where most are wanted, all.
    """
    n = G.shape[0]
    found = None
    if G.device.type == "cpu" and 2 * count <= n:
        try:
            found = eigh_range(G, n - count if part == "principal" else 0, count)
        except FewerFoundError as failure:
            logger.debug("eigenpairs of a %d x %d matrix: %s", n, n, failure)
    values, vectors = torch.linalg.eigh(G) if found is None else found
    if part == "principal":
        values, vectors = values.flip(0), vectors.flip(1)
    return values[:count], vectors[:, :count]
