"""Small matrices that are hard for a solver, drawn by a number."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

Draw = random.Random
FLOAT64 = torch.float64
DTYPES = (FLOAT64, FLOAT64, torch.float32, torch.bfloat16, torch.float16)
_HUGE = 300  # decades to either side of 1


def _generator(draw: Draw) -> torch.Generator:
    return torch.Generator().manual_seed(draw.getrandbits(40))


def _gaussian(draw: Draw, m: int, n: int) -> Tensor:
    return torch.randn(m, n, generator=_generator(draw), dtype=FLOAT64)


def _orthonormal(draw: Draw, rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(_gaussian(draw, rows, columns)).Q


def _with(S: Tensor, draw: Draw, m: int, n: int) -> Tensor:
    k = min(m, n)
    return (_orthonormal(draw, m, k) * S) @ _orthonormal(draw, n, k).T


def _decades(draw: Draw, count: int, low: float, high: float) -> Tensor:
    """Powers of ten from 10^low to 10^high, in order or not."""
    exponents = torch.linspace(low, high, count, dtype=FLOAT64)
    shuffled = exponents[torch.randperm(count, generator=_generator(draw))]
    return 10.0 ** draw.choice((exponents, exponents.flip(0), shuffled))


def _graded_rows(draw: Draw, m: int, n: int) -> Tensor:
    reach = draw.choice((3, 8, 30, _HUGE))
    return _decades(draw, m, -reach, reach)[:, None] * _gaussian(draw, m, n)


def _graded_both_ways(draw: Draw, m: int, n: int) -> Tensor:
    reach = draw.choice((2, 8, _HUGE / 2))
    rows, columns = _decades(draw, m, -reach, reach), _decades(draw, n, -reach, reach)
    return rows[:, None] * _gaussian(draw, m, n) * columns


def _graded_spectrum(draw: Draw, m: int, n: int) -> Tensor:
    return _with(_decades(draw, min(m, n), draw.choice((-4, -8, -16, -_HUGE)), 0), draw, m, n)


def _any_scale(draw: Draw, m: int, n: int) -> Tensor:
    return _gaussian(draw, m, n) * 10.0 ** draw.uniform(-_HUGE, _HUGE)


def _denormal(draw: Draw, m: int, n: int) -> Tensor:
    """A few of the smallest numbers there are: of float64, float32 or float16."""
    units = torch.randint(-draw.choice((1, 3, 1000)), 9, (m, n), generator=_generator(draw))
    return units.to(FLOAT64) * draw.choice((2.0**-1074, 2.0**-1060, 2.0**-149, 2.0**-24))


def _near_the_largest(draw: Draw, m: int, n: int) -> Tensor:
    top = draw.choice((torch.finfo(torch.float16).max, 3e38, 1.7e308))
    return _gaussian(draw, m, n).clamp(-1, 1) * top


def _repeated(draw: Draw, m: int, n: int) -> Tensor:
    values = torch.tensor([draw.choice((1.0, 2.0, 0.5, 1e-3)) for _ in range(3)], dtype=FLOAT64)
    which = torch.randint(0, 3, (min(m, n),), generator=_generator(draw))
    return _with(values[which], draw, m, n)


def _clustered(draw: Draw, m: int, n: int) -> Tensor:
    k = min(m, n)
    apart = draw.choice((1e-3, 1e-7, 1e-9, 1e-15))
    centres = torch.randint(1, 4, (k,), generator=_generator(draw)).to(FLOAT64)
    return _with(centres + apart * torch.arange(k), draw, m, n)


def _zeros_inside(draw: Draw, m: int, n: int) -> Tensor:
    W = _gaussian(draw, m, n)
    W[torch.rand(m, generator=_generator(draw)) < draw.random()] = 0
    W[:, torch.rand(n, generator=_generator(draw)) < draw.random()] = 0
    return W


def _all_zero(draw: Draw, m: int, n: int) -> Tensor:
    return torch.zeros(m, n, dtype=FLOAT64) * draw.choice((1.0, -1.0))


def _one_entry(draw: Draw, m: int, n: int) -> Tensor:
    W = torch.zeros(m, n, dtype=FLOAT64)
    W[draw.randrange(m), draw.randrange(n)] = draw.choice((-1.0, 1e-300, 1e300, 3.0))
    return W


def _outlier(draw: Draw, m: int, n: int) -> Tensor:
    W = _gaussian(draw, m, n)
    W[draw.randrange(m), draw.randrange(n)] = draw.choice((1e3, 1e5, 1e8, 1e16, 1e300))
    return W


def _hilbert(draw: Draw, m: int, n: int) -> Tensor:
    first = draw.choice((1, 1, 7))
    i, j = torch.arange(m, dtype=FLOAT64), torch.arange(n, dtype=FLOAT64)
    return 1 / (i[:, None] + j + first)


def _vandermonde(draw: Draw, m: int, n: int) -> Tensor:
    points = torch.rand(m, generator=_generator(draw), dtype=FLOAT64) * 2 - 1
    return points[:, None] ** torch.arange(n, dtype=FLOAT64)


def _permutation(draw: Draw, m: int, n: int) -> Tensor:
    order = torch.randperm(max(m, n), generator=_generator(draw))
    return torch.eye(max(m, n), dtype=FLOAT64)[order][:m, :n] * draw.choice((1.0, -2.0, 1e-3))


def _orthogonal(draw: Draw, m: int, n: int) -> Tensor:
    return _with(torch.ones(min(m, n), dtype=FLOAT64), draw, m, n)


def _diagonal(draw: Draw, m: int, n: int) -> Tensor:
    W = torch.zeros(m, n, dtype=FLOAT64)
    W.diagonal()[:] = _decades(draw, min(m, n), draw.choice((-2, -12, -_HUGE)), 0)
    return W


def _of_low_rank(draw: Draw, m: int, n: int) -> Tensor:
    """A product of small integers: its rank is exact."""
    k, generator = draw.randint(1, min(m, n)), _generator(draw)
    left, right = (torch.randint(-2, 3, s, generator=generator) for s in ((m, k), (k, n)))
    return (left.double() @ right.double()).to(FLOAT64)


def _constant(draw: Draw, m: int, n: int) -> Tensor:
    return torch.full((m, n), draw.choice((1.0, -0.1, 1e-5)), dtype=FLOAT64)


def _triangular(draw: Draw, m: int, n: int) -> Tensor:
    """Kahan's: no small entry on the diagonal tells of its smallest singular value."""
    angle = draw.choice((0.5, 1.0, 1.4))
    c, s = torch.cos(torch.tensor(angle, dtype=FLOAT64)), torch.sin(torch.tensor(angle).double())
    upper = torch.triu(torch.full((m, n), -float(c), dtype=FLOAT64), 1)
    upper.diagonal()[:] = 1.0
    return s ** torch.arange(m, dtype=FLOAT64)[:, None] * upper


def _signs(draw: Draw, m: int, n: int) -> Tensor:
    return torch.randint(-1, 2, (m, n), generator=_generator(draw)).to(FLOAT64)


def _like_trained(draw: Draw, m: int, n: int) -> Tensor:
    S = 1 / (1 + torch.arange(min(m, n), dtype=FLOAT64)) ** draw.uniform(0.1, 1.5)
    return _with(S, draw, m, n) + 0.01 * _gaussian(draw, m, n)


KINDS: dict[str, Callable[[Draw, int, int], Tensor]] = {
    "gaussian": _gaussian,
    "like a trained one": _like_trained,
    "graded rows": _graded_rows,
    "graded rows and columns": _graded_both_ways,
    "graded spectrum": _graded_spectrum,
    "of any scale": _any_scale,
    "denormal": _denormal,
    "near the largest number": _near_the_largest,
    "repeated values": _repeated,
    "clustered values": _clustered,
    "zero rows and columns": _zeros_inside,
    "all zero": _all_zero,
    "one entry": _one_entry,
    "one huge outlier": _outlier,
    "Hilbert": _hilbert,
    "Vandermonde": _vandermonde,
    "permutation": _permutation,
    "orthogonal": _orthogonal,
    "diagonal": _diagonal,
    "of exact low rank": _of_low_rank,
    "constant": _constant,
    "Kahan's triangle": _triangular,
    "signs": _signs,
}


def shape(draw: Draw) -> tuple[int, int]:
    """Mostly on either side of the size at which the method changes; a few large ones."""
    low, high = draw.choices(
        ((1, 4), (5, 64), (65, 140), (250, 300), (1025, 1040)), (15, 35, 44, 6, 0.25)
    )[0]
    small = draw.randint(low, high)
    large = draw.choice((small, small, small + 1, int(small * draw.uniform(1, 3)) + 1))
    large = small if low > 1000 and draw.random() < 0.7 else min(large, 1200)
    return draw.choice(((small, large), (large, small)))


def matrix(draw: Draw, m: int, n: int, dtype: torch.dtype) -> tuple[str, Tensor]:
    """A kind's name and one of that kind (m, n), finite, in any layout."""
    kind = draw.choice(list(KINDS))
    W = KINDS[kind](draw, m, n)
    top = torch.finfo(dtype).max
    W = torch.nan_to_num(W, nan=0.0, posinf=top, neginf=-top).clamp(-top, top).to(dtype)
    return kind, W


def laid_out(draw: Draw, W: Tensor) -> Tensor:
    """The same values, contiguous or not, of the last two dimensions."""
    how = draw.choice(("contiguous", "contiguous", "transposed", "every second", "inside"))
    if how == "transposed":
        return W.mT.contiguous().mT
    if how == "contiguous":
        return W
    step = 2 if how == "every second" else 1
    *batch, m, n = W.shape
    larger = torch.full((*batch, step * m + 3, step * n + 2), torch.nan, dtype=W.dtype)
    view = larger[..., 1 : 1 + step * m : step, 2 : 2 + step * n : step]
    view.copy_(W)
    return view
