"""Gram matrices, and eigenpairs from one end of a symmetric matrix's spectrum."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ailora.linalg.triplets import Part

logger = logging.getLogger(__name__)

# Bisection for the wanted end against all eigenvectors at once, one thread: n = 768, 8 wanted,
# 34 against 117 ms; 128 wanted, 76; n = 384, 128 wanted, 26 against 20.
_SUBSET_SHARE = 4
# SciPy's BLAS has threads of its own, which spin beside torch's when both were just busy, and
# beside those of other programs: on two cores, interleaved with torch's SVD, n = 384 took 12 to
# 104 ms, with one thread 12 to 16; beside a busy program n = 1024 took 6.3 s, where alone the
# second thread saves a quarter of 78 ms.
_ONE_THREAD_BELOW = 2048
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

    On the CPU LAPACK's subset driver through SciPy, elsewhere, and where most of the spectrum is
    wanted, torch's.
    """
    n = G.shape[0]
    values, vectors = None, None
    if G.device.type == "cpu" and count * _SUBSET_SHARE <= n:
        values, vectors = _subset(G, n - count if part == "principal" else 0, count)
    if values is None or vectors is None:
        values, vectors = torch.linalg.eigh(G)
    if part == "principal":
        values, vectors = values.flip(0), vectors.flip(1)
    return values[:count], vectors[:, :count]


def _subset(G: Tensor, first: int, count: int) -> tuple[Tensor | None, Tensor | None]:
    """`count` eigenpairs from the `first`, ascending; None where LAPACK finds fewer."""
    import scipy.linalg  # noqa: PLC0415 - not for `import ailora` to pay for

    threads = 1 if G.shape[0] < _ONE_THREAD_BELOW else torch.get_num_threads()
    try:
        with _blas_limited_to(threads):
            values, vectors = scipy.linalg.eigh(
                G.numpy(),
                subset_by_index=(first, first + count - 1),
                driver="evr",
                check_finite=False,
            )
    except scipy.linalg.LinAlgError as failure:
        logger.debug("LAPACK's subset eigensolver: %s", failure)
        return None, None
    if values.shape[0] < count:
        return None, None
    return torch.from_numpy(values), torch.from_numpy(vectors)


_limit_lock = threading.Lock()  # else two threads could restore each other's limit


@contextmanager
def _blas_limited_to(threads: int) -> Iterator[None]:
    with _limit_lock, _blas_threads().limit(limits=threads):
        yield


@functools.cache
def _blas_threads() -> Any:
    """The BLAS libraries loaded by now; looking for them takes milliseconds."""
    from threadpoolctl import ThreadpoolController  # noqa: PLC0415 - as SciPy above

    return ThreadpoolController().select(user_api="blas")
