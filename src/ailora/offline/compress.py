"""The best lower-rank form of an update, from its factors alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ailora.errors import UserError
from ailora.linalg.lowrank import LowRank


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """An update of lower rank, and what was lost of dW = s B A.

    Attributes:
        update: The update, scale 1, fp32 factors of equal norm.
        frobenius: ||dW - dW_R||_F / ||dW||_F.
        spectral: ||dW - dW_R||_2 / ||dW||_2.
        tail: Share of the energy cut off, sum of sigma_i^2 beyond R over the sum of all.
    """

    update: LowRank = field(repr=False)
    frobenius: float
    spectral: float
    tail: float


def compress(update: LowRank, rank: int) -> Compressed:
    """The closest update of rank ``rank``: two thin QRs and the SVD of a k x k matrix, in fp64.

    By Eckart, Young and Mirsky no other of that rank is closer in either norm. dW itself is never
    built. A rank at or above the update's own changes nothing.

    Raises:
        UserError: ``rank`` is below 1.
    """
    check_rank(rank)
    if rank >= update.rank:
        return Compressed(update=update, frobenius=0.0, spectral=0.0, tail=0.0)
    A, B = update.exact()
    left, right = torch.linalg.qr(B), torch.linalg.qr(A.T)
    U, S, Vt = torch.linalg.svd(left.R @ right.R.T)
    root = S[:rank].sqrt()
    smaller = LowRank(
        A=(root[:, None] * (Vt[:rank] @ right.Q.T)).float(),
        B=(left.Q @ U[:, :rank] * root).float(),
    )
    energy = S.square()
    tail = float(energy[rank:].sum() / energy.sum()) if energy.any() else 0.0
    spectral = float(S[rank] / S[0]) if S[0] and rank < len(S) else 0.0
    return Compressed(update=smaller, frobenius=tail**0.5, spectral=spectral, tail=tail)


def check_rank(rank: int) -> None:
    """Raise a ``UserError`` unless the rank is a positive integer."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UserError(f"rank {rank!r}: must be an integer of at least 1")
