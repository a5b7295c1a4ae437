"""Who takes part, and who is left out where it would take minutes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import scipy.sparse.linalg
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from ailora.linalg import Part, decompose

Found = tuple[Tensor, Tensor, Tensor]  # U (m, r), S (r,) descending, V (n, r)
Contender = Callable[[Tensor, int, Part], Found]

BASELINE = "svd fp32"
# Of min(m, n). ARPACK without a factorisation hardly converges to the smallest singular values.
_SVDS_PRINCIPAL_UP_TO, _SVDS_MINOR_UP_TO = 2048, 384
_SVDS_MINOR_RANK = 8
_RANDOMIZED_UP_TO = 4096


def ailora(W: Tensor, rank: int, part: Part) -> Found:
    """This library."""
    found = decompose(W, rank, part)
    return found.U, found.S, found.Vt.T


def svd_fp32(W: Tensor, rank: int, part: Part) -> Found:
    """The full SVD, as PEFT calls it."""
    U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    kept = slice(None, rank) if part == "principal" else slice(len(S) - rank, None)
    return U[:, kept], S[kept], Vt[kept].T


def _svd_lowrank(W: Tensor, rank: int, part: Part, *, steps: int) -> Found:
    return torch.svd_lowrank(W, rank, niter=steps)


def _randomized(W: Tensor, rank: int, part: Part) -> Found:
    U, S, Vt = randomized_svd(W.numpy(), rank, random_state=0)
    return torch.from_numpy(U.copy()), torch.from_numpy(S.copy()), torch.from_numpy(Vt.T.copy())


def _svds(W: Tensor, rank: int, part: Part) -> Found:
    which = "LM" if part == "principal" else "SM"
    U, S, Vt = scipy.sparse.linalg.svds(W.numpy(), rank, which=which, rng=0)
    order = S.argsort()[::-1].copy()
    return (
        torch.from_numpy(U[:, order]),
        torch.from_numpy(S[order]),
        torch.from_numpy(Vt[order].T.copy()),
    )


def others(shape: tuple[int, int], rank: int, part: Part) -> Iterator[tuple[str, Contender | str]]:
    """Name and function of everybody but ailora and the full SVD, or why it is left out."""
    small = min(shape)
    for steps in (4, 16):
        name = f"svd_lowrank {steps}"
        run = functools.partial(_svd_lowrank, steps=steps)
        yield name, run if part == "principal" else "finds the largest only"
    if part == "minor":
        yield "randomized_svd", "finds the largest only"
    else:
        yield "randomized_svd", _randomized if small <= _RANDOMIZED_UP_TO else "minutes"
    quick = (
        small <= _SVDS_PRINCIPAL_UP_TO
        if part == "principal"
        else small <= _SVDS_MINOR_UP_TO and rank <= _SVDS_MINOR_RANK
    )
    yield "svds", _svds if quick else "minutes"
