"""Eigenpairs from one end of a symmetric matrix's spectrum: on the CPU only those wanted.

LAPACK's own drivers find a range of eigenvalues by bisection, which for 129 of 768 takes as long as
the reduction to a tridiagonal. Here its routines are put together anew: few eigenvalues are found
by bisection, many by the root-free QR of all of them, and the eigenvectors by inverse iteration.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ailora.linalg.triplets import Part

logger = logging.getLogger(__name__)

# Milliseconds, one thread, torch's eigh of all beside the wanted 9, 33 or 129 of n: 64: 0.21, and
# 0.19; 128: 0.98, and 0.54, 0.72; 256: 5.0, and 1.7, 2.5; 384: 12, and 3.7, 5.5, 8.6; 768: 77, and
# 20, 27, 37.
_ALL_UP_TO = 64
_SOME_SHARE, _SOME_SHARE_OF_MANY, _MANY = 3, 2, 1024  # n / 3; of more than 1024, n / 2

_Array = npt.NDArray[Any]

# Milliseconds, one thread, 129 eigenvalues: n = 384 bisection 19.0, all by QR 1.5; n = 768: 41, 10;
# n = 1024: 50, 17. Bisection takes time by the eigenvalue.
_FEW_SHARE = 24  # at most n / 24 eigenvalues are few
# SciPy's BLAS has threads of its own, which spin beside torch's when both were just busy, and
# beside those of other programs: on two cores, interleaved with torch's SVD, n = 384 took 12 to
# 104 ms, with one thread 12 to 16; beside a busy program n = 1024 took 6.3 s, where alone the
# second thread saves a quarter of 78 ms.
_ONE_THREAD_BELOW = 2048
_PANEL = 64  # columns that the Householder vectors are applied to at once


class End(NamedTuple):
    """Eigenvalues (k,) and eigenvectors (n, k) from one end, outermost first.

    `largest` is the largest eigenvalue of all.
    """

    values: Tensor
    vectors: Tensor
    largest: float


def eigh_end(G: Tensor, count: int, part: Part) -> End:
    """`count` eigenpairs from one end of the spectrum of a symmetric G (n, n), float32 or float64.

    On the CPU only those are computed where that is quicker, elsewhere all. In float32 the reading
    of G that the reduction to a tridiagonal takes is halved: n = 4096, 2.5 s instead of 5.2.
    """
    found = _some(G, count, part) if _some_are_quicker(G, count) else None
    if found is None:
        values, vectors = torch.linalg.eigh(G)
        found = End(values, vectors, float(values[-1]))
    values, vectors, largest = found
    if part == "principal":
        values, vectors = values.flip(0), vectors.flip(1)
    return End(values[:count], vectors[:, :count], largest)


def _some_are_quicker(G: Tensor, count: int) -> bool:
    n = G.shape[0]
    share = _SOME_SHARE_OF_MANY if n > _MANY else _SOME_SHARE
    return G.device.type == "cpu" and n > _ALL_UP_TO and share * count <= n


def _some(G: Tensor, count: int, part: Part) -> End | None:
    n = G.shape[0]
    try:
        return eigh_range(G, n - count if part == "principal" else 0, count)
    except FewerFoundError as failure:
        logger.debug("eigenpairs of a %d x %d matrix: %s", n, n, failure)
        return None


class FewerFoundError(Exception):
    """LAPACK gave up on an eigenvalue or an eigenvector."""


class _Reduced(NamedTuple):
    """G = Q T Q^T: T by its diagonal and the one below, Q by its Householder vectors.

    T is in float64, Q in what G was.
    """

    diagonal: _Array
    below: _Array
    reflectors: _Array
    tau: _Array


def eigh_range(G: Tensor, first: int, count: int) -> End:
    """Eigenvalues (k,) and eigenvectors (n, k) of a symmetric G, ascending, from number `first`.

    Args:
        G: (n, n), float32 or float64, on the CPU, finite, symmetric.
        first: number of the smallest wanted eigenvalue, from 0.
        count: k.

    Raises:
        FewerFoundError: LAPACK did not find them all.
    """
    threads = 1 if G.shape[0] < _ONE_THREAD_BELOW else torch.get_num_threads()
    with _blas_limited_to(threads):
        T = _reduce(G.numpy().T)  # G itself, in the order of columns that LAPACK wants
        values, blocks, largest = _values(T, first, count)
        vectors = _vectors(T, values, blocks)
    return End(torch.from_numpy(values), torch.from_numpy(vectors), largest)


def _reduce(G: _Array) -> _Reduced:
    from scipy.linalg import lapack  # noqa: PLC0415 - not for `import ailora` to pay for

    single = G.dtype == np.float32
    sytrd, lwork = (
        (lapack.ssytrd, lapack.ssytrd_lwork) if single else (lapack.dsytrd, lapack.dsytrd_lwork)
    )
    size, _ = lwork(G.shape[0], lower=1)
    reflectors, diagonal, below, tau, _ = sytrd(G, lower=1, lwork=int(size))
    return _Reduced(diagonal.astype(np.float64), below.astype(np.float64), reflectors, tau)


def _values(T: _Reduced, first: int, count: int) -> tuple[_Array, tuple[_Array, _Array], float]:
    """Eigenvalues of T, ascending within a block; the blocks as dstein wants them; the largest.

    QR does not tell where T falls apart; as one block it serves as well.
    """
    from scipy.linalg import lapack  # noqa: PLC0415

    n = len(T.diagonal)
    if count * _FEW_SHARE > n:
        values, info = lapack.dsterf(T.diagonal, T.below)
        if info == 0:
            blocks = (np.ones(n, np.int32), np.full(n, n, np.int32))
            return values[first : first + count], blocks, float(values[-1])
    values, blocks = _bisected(T, first, count)
    last = values if first + count == n else _bisected(T, n - 1, 1)[0]
    return values, blocks, float(last.max())


def _bisected(T: _Reduced, first: int, count: int) -> tuple[_Array, tuple[_Array, _Array]]:
    from scipy.linalg import lapack  # noqa: PLC0415

    by_number, by_block = 2, "B"
    found, values, block, end, info = lapack.dstebz(
        T.diagonal, T.below, by_number, 0.0, 0.0, first + 1, first + count, 0.0, by_block
    )
    if info != 0 or found != count:
        raise FewerFoundError(f"{found} of {count} eigenvalues by bisection")
    return values[:found], (block, end)


def _vectors(T: _Reduced, values: _Array, blocks: tuple[_Array, _Array]) -> _Array:
    """Q times the eigenvectors of T; puts `values` into ascending order, in place."""
    from scipy.linalg import lapack  # noqa: PLC0415

    X, info = lapack.dstein(T.diagonal, T.below, values, *blocks)
    if info != 0 or not np.isfinite(X).all():  # not finite: of zero, say
        raise FewerFoundError(f"not all of {len(values)} eigenvectors by inverse iteration")
    order = np.argsort(values, kind="stable")
    values[:], X = values[order], np.asfortranarray(X[:, order], dtype=T.reflectors.dtype)
    ormqr = lapack.sormqr if X.dtype == np.float32 else lapack.dormqr
    # The first row and column of Q are the identity's: dormtr's rule for the lower triangle.
    X[1:], _, _ = ormqr("L", "N", T.reflectors[1:, :-1], T.tau, X[1:], lwork=_PANEL * X.shape[1])
    return X


_limit_lock = threading.Lock()  # else two threads could restore each other's limit


@contextmanager
def _blas_limited_to(threads: int) -> Iterator[None]:
    with _limit_lock, _blas_threads().limit(limits=threads):
        yield


@functools.cache
def _blas_threads() -> Any:
    """The BLAS libraries loaded by now; looking for them takes milliseconds."""
    import scipy.linalg  # noqa: F401, PLC0415 - brings its own, which must be among them
    from threadpoolctl import ThreadpoolController  # noqa: PLC0415 - as SciPy

    return ThreadpoolController().select(user_api="blas")
