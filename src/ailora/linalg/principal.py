"""Principal part: block Krylov on W in fp32, then the last digits in fp64."""

from __future__ import annotations

from torch import Tensor

from ailora.linalg.krylov import block_krylov, block_width, normal_map, operator, start_block
from ailora.linalg.refine import refine
from ailora.linalg.triplets import Solution, StalledError

# Residual relative to sigma_1. Rounding leaves 1e-6 of 4096 x 4096, Gaussian, whether 5e-7 is asked
# for (41 blocks) or 3e-6 (37).
_FLOAT32_REACHES = 3e-6
_TOO_FAR = 1e-4  # residual that `refine` would take longer to mend than the Gram matrix
_KEPT_BLOCKS, _KEPT_COLUMNS = 2, 36  # of Ritz vectors, from one phase to the other
_BASIS_SHARE, _BASIS_COLUMNS, _BASIS_BLOCKS = 3, 512, 8  # n / 3, but no less than the others


def principal(W: Tensor, rank: int, *, low: Tensor, seed: int, tol: float) -> Solution:
    """The `rank` largest singular triplets of W.

    fp32 halves the time of a product; of 41 blocks at 4096 x 4096, Gaussian, rank 8, 37 are in it.

    Args:
        W: (m, n) float64, entries of order 1.
        rank: 1 <= rank <= min(m, n).
        low: W in float32.
        seed: of the start block.
        tol: see `refine`.

    Returns:
        The triplets; their residual is the caller's to judge.

    Raises:
        StalledError: the spectrum is too flat for the basis; the Gram matrix is quicker then.
    """
    wide = W.shape[0] < W.shape[1]
    tall, low = (W.T, low.T) if wide else (W, low)  # the basis lives on the smaller side
    n = tall.shape[1]
    width = block_width(rank, n)
    normal = normal_map(low)
    ritz = block_krylov(
        normal,
        start_block(width, low, seed=seed),
        rank,
        keep=max(_KEPT_BLOCKS * width, _KEPT_COLUMNS),
        tol=max(tol, _FLOAT32_REACHES),
        basis=min(n, max(n // _BASIS_SHARE, _BASIS_COLUMNS, _BASIS_BLOCKS * width)),
    )
    if not ritz.converged and ritz.error > _TOO_FAR:
        raise StalledError(f"residual {ritz.error:.1e} after {ritz.blocks} blocks of {width}")
    found = refine(
        operator(tall),
        ritz.V,
        rank,
        "principal",
        tol=tol,
        sigma_1=float(ritz.S[0]),
        normal=normal,
    )
    U, V = (found.V, found.U) if wide else (found.U, found.V)
    blocks = ritz.blocks + found.steps
    return Solution(U.T, found.S, V, float(found.S[0]), blocks, found.following)
