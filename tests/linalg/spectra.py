"""Matrices of many kinds, and the independent judgement every solver must pass."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from ailora.linalg.triplets import Part, subspace_distance

RANK = 4


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(block).Q


def with_spectrum(S: Tensor, m: int, n: int, seed: int = 1) -> Tensor:
    """W (m, n) float64 with the singular values S."""
    k = S.shape[0]
    return (orthonormal(m, k, seed) * S) @ orthonormal(n, k, seed + 1).T


def spectra(k: int) -> dict[str, Tensor]:
    """Singular values of each kind, k of them, descending."""
    i = torch.arange(k, dtype=torch.float64)
    clustered = torch.where(i < RANK, 2.0, torch.where(i < k - RANK, 1.0, 0.1)) + 1e-9 * (k - i)
    return {
        "stepped": torch.where(i < RANK, 3.0, torch.where(i < k - RANK, 1.0, 0.2)) - i / (10 * k),
        "even": 1 - i / (k + 1),
        "flat": torch.ones(k, dtype=torch.float64),
        "clustered": clustered,
        "slow decay": 1 / (1 + i).sqrt(),
        "power decay": 1 / (1 + i),
        "fast decay": 10 ** (-6 * i / (k - 1)),
        "rank-deficient": torch.where(i < k // 2, 1 - i / k, 0.0),
    }


def judge(
    W: Tensor,
    U: Tensor,
    S: Tensor,
    Vt: Tensor,
    part: Part,
    *,
    values: float,
    vectors: float,
    orthonormal: float = 1e-10,
) -> None:
    """Fail unless (U, S, Vt) is the wanted end of W's SVD as SciPy computes it in float64.

    Singular values must agree to `values` * sigma_1. Vectors must span SciPy's subspace to
    `vectors` where a gap of 5 % sets it apart, and else at least be singular vectors of W.
    """
    reference = W.to(torch.float64).numpy()
    P, s, Qt = scipy.linalg.svd(reference, full_matrices=False, lapack_driver="gesvd")
    r, k = S.shape[0], s.shape[0]
    kept = slice(0, r) if part == "principal" else slice(k - r, k)
    scale = s[0] if s[0] > 0 else 1.0
    assert U.dtype == S.dtype == Vt.dtype == torch.float64
    assert np.abs(S.numpy() - s[kept]).max() <= values * scale
    eye = np.eye(r)
    assert np.abs(U.numpy().T @ U.numpy() - eye).max() <= orthonormal
    assert np.abs(Vt.numpy() @ Vt.numpy().T - eye).max() <= orthonormal
    assert np.abs(reference @ Vt.numpy().T - U.numpy() * S.numpy()).max() <= values * scale
    assert np.abs(reference.T @ U.numpy() - Vt.numpy().T * S.numpy()).max() <= values * scale
    if r < k and _gap(s, r, part) > 0.05:
        assert subspace_distance(U, torch.from_numpy(P[:, kept].copy())) <= vectors
        assert subspace_distance(Vt.T, torch.from_numpy(Qt[kept].T.copy())) <= vectors


def _gap(s: np.ndarray, r: int, part: Part) -> float:
    """Gap between the kept end and the rest, relative to the larger neighbour."""
    inner, outer = (s[r - 1], s[r]) if part == "principal" else (s[-r - 1], s[-r])
    return float((inner - outer) / inner) if inner > 1e-12 * s[0] else 0.0
