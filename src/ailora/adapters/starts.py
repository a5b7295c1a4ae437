"""What factors can start from: one row per start, and nothing else knows their names.

A start makes A (r x n) and B (m x r) from a weight W (m x n): directions, U (m x r) and V (n x r)
with orthonormal columns, and the sizes S that they are scaled by, B = U (S/s)^1/2 and
A = (S/s)^1/2 V^T with s = alpha / r. Where their product is not zero it must be taken off again, by
an anchor or from W itself; `is_spectral` elsewhere asks just that. Taken off, it cancels whatever
its size, so that S need not be W's own: `Scale`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ailora.cache import decompose
from ailora.errors import UserError
from ailora.linalg import Check, Triplets
from ailora.linalg.batch import decompose_batch
from ailora.linalg.triplets import Part
from ailora.roles import Projection


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Starting factors with s B A = the part of W that they stand for.

    Attributes:
        A: Right factor, (r, n); of a stack of experts (E, r, n).
        B: Left factor, (m, r) or (E, m, r).
        dead: Triplets with a singular value of zero: their factors never receive a gradient.
        check: How the decomposition was made and how exact it is; None without one.
    """

    A: Tensor
    B: Tensor
    dead: int = 0
    check: Check | None = None


Scale = Literal["sigma", "unit", "matched"] | float
"""What becomes of a start's sizes S (r,): they stay (``"sigma"``, the paper's S^1/2 in each
factor), are 1 (``"unit"``), are multiplied by a number, or all by the one number that makes the
first step of Adam move W as far as it moves W from LoRA's own start (``"matched"``)."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a start is to be made with.

    Attributes:
        rank: r.
        scaling: s = alpha / r (rsLoRA: alpha / sqrt(r)).
        scale: What becomes of its sizes.
        decomposed: Gives the weight's triplets of a part, where they are made with others'; None
            has the start decompose the weight.
        tol: Residual that a decomposition may have, relative to sigma_1.
    """

    rank: int
    scaling: float
    tol: float
    scale: Scale = "sigma"
    decomposed: Callable[[Part], Triplets] | None = None

    def triplets(self, projection: Projection, part: Part) -> Triplets:
        """The largest or smallest triplets of a projection's weight, `rank` of them."""
        if self.decomposed is not None:
            return self.decomposed(part)
        return decompose_once(projection.weight(), self.rank, part, self.tol)[0]


@dataclass(frozen=True, kw_only=True)
class StartKind:
    """One row of the table.

    Attributes:
        make: Makes factors for a projection. None: they are only ever given, from outside or from a
            file.
        scales: Names of the scales that it can have; all of them can have a number if one can.
        zero: Whether B A is zero at step 0, so that nothing has to be taken off.
    """

    make: Callable[[Projection, Wanted], Factors] | None
    scales: tuple[str, ...] = ("sigma", "unit", "matched")
    zero: bool = False


def _part(part: Part) -> Callable[[Projection, Wanted], Factors]:
    def make(projection: Projection, wanted: Wanted) -> Factors:
        """The r largest or smallest singular triplets (eqs. 2 and 5)."""
        triplets = wanted.triplets(projection, part)
        made = _factors(triplets.U, triplets.S, triplets.Vt, wanted)
        dead = 0 if wanted.scale == "unit" else triplets.dead
        return replace(made, dead=dead, check=triplets.check)

    return make


def _orthonormal(part: Part) -> Callable[[Projection, Wanted], Factors]:
    def make(projection: Projection, wanted: Wanted) -> Factors:
        """Directions that are random; sizes of a part of W's spectrum where they stay."""
        out_features, in_features = projection.shape
        U, V = (
            torch.linalg.qr(torch.randn(size, wanted.rank, dtype=torch.float64)).Q
            for size in (out_features, in_features)
        )
        if isinstance(wanted.scale, str) and wanted.scale != "sigma":
            return _factors(U, torch.ones(wanted.rank, dtype=torch.float64), V.T, wanted)
        triplets = wanted.triplets(projection, part)
        made = _factors(U, triplets.S.cpu(), V.T, wanted)
        return replace(made, dead=triplets.dead, check=triplets.check)

    return make


def _factors(U: Tensor, S: Tensor, Vt: Tensor, wanted: Wanted) -> Factors:
    root = (_sizes(S, U.shape[0], Vt.shape[1], wanted) / wanted.scaling).sqrt()
    return Factors(A=root[:, None] * Vt, B=U * root)


def _sizes(S: Tensor, out_features: int, in_features: int, wanted: Wanted) -> Tensor:
    """The sizes by their scale.

    An entry moves by about the rate lr in Adam's first step. So ||dW|| is at first
    lr (s (m + n) sum S)^1/2 here, and s lr (m r / 3)^1/2 from LoRA's start, where |A0|^2 = r / 3
    and B0 = 0: "matched" makes the two one.
    """
    if wanted.scale == "sigma":
        return S
    if wanted.scale == "unit":
        return torch.ones_like(S)
    if wanted.scale == "matched":
        total = wanted.scaling * out_features * wanted.rank / (3 * (out_features + in_features))
        return S * (total / S.sum()) if S.any() else S
    return S * wanted.scale


def _gaussian(projection: Projection, wanted: Wanted) -> Factors:
    """A normal with the standard deviation of PEFT's default, U(-n^-1/2, n^-1/2); B zero."""
    out_features, in_features = projection.shape
    A = torch.randn(wanted.rank, in_features) / math.sqrt(3 * in_features)
    return Factors(A=A, B=torch.zeros(out_features, wanted.rank))


STARTS: Mapping[str, StartKind] = {
    "principal": StartKind(make=_part("principal")),
    "minor": StartKind(make=_part("minor")),
    # Random directions of the sizes of either part: what a claim about *which* directions is
    # to be held against.
    "orthonormal": StartKind(make=_orthonormal("principal")),
    "orthonormal_minor": StartKind(make=_orthonormal("minor")),
    "gaussian": StartKind(make=_gaussian, scales=("sigma", "matched"), zero=True),
    # PEFT's starts: `ailora.lab.methods` has PEFT make their factors, and gives them.
    "olora": StartKind(make=None, scales=("sigma",)),
    "lora_ga": StartKind(make=None, scales=("sigma",)),  # its factors come from a gradient
    "corda": StartKind(make=None, scales=("sigma",)),
}


def check_scale(init: str, scale: object) -> None:
    """Raise a UserError if a start cannot have that scale.

    A number needs sizes that it can multiply, so a start without "unit" has none.
    """
    known = STARTS[init].scales
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if scale in known or (number and "unit" in known and 0 < scale < math.inf):  # type: ignore[operator]
        return
    named = ", ".join(map(repr, known))
    more = " or a positive number" if "unit" in known else ""
    raise UserError(f"Role.scale={scale!r}: for init={init!r} it must be {named}{more}")


def check_rank_fits(projection: Projection, rank: int) -> None:
    """Raise a UserError if a rank is above what a weight has."""
    most = min(projection.shape)
    if rank > most:
        m, n = projection.shape
        raise UserError(
            f"r={rank} for role {projection.role!r} is above what {projection.key} has: its "
            f"weight is {m} x {n}, so r can be at most {most}"
        )


def decompose_once(weight: Tensor, rank: int, part: Part, tol: float) -> list[Triplets]:
    """Triplets of a weight (m, n), or of each of a stack (E, m, n).

    As `ailora.decompose`; in a process group rank 0 decomposes and sends the others its answer. So
    every rank has the same factors to the last bit, and only rank 0 needs the weight's values: with
    FSDP's ``cpu_ram_efficient_loading`` the others have none.

    Raises:
        UserError: As `ailora.decompose`, on every rank.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return _decomposed(weight, rank, part, tol)
    answer: list[list[Triplets] | str | None] = [None]
    if dist.get_rank() == 0:
        answer[0] = _answer(weight, rank, part, tol)
    dist.broadcast_object_list(answer, src=0)
    (found,) = answer
    if not isinstance(found, list):
        raise UserError(str(found))
    return found if weight.is_meta else [_on(one, weight) for one in found]


def _decomposed(weight: Tensor, rank: int, part: Part, tol: float) -> list[Triplets]:
    if weight.ndim == 3:
        return decompose_batch(weight, rank, part, tol=tol)
    return [decompose(weight, rank, part, tol=tol)]


def _answer(weight: Tensor, rank: int, part: Part, tol: float) -> list[Triplets] | str:
    try:
        found = _decomposed(weight, rank, part, tol)
    except UserError as error:  # sent on: ranks that wait for an answer would wait for ever
        return str(error)
    return [replace(one, U=one.U.cpu(), S=one.S.cpu(), Vt=one.Vt.cpu()) for one in found]


def _on(triplets: Triplets, weight: Tensor) -> Triplets:
    device = "cpu" if weight.device.type == "mps" else weight.device  # MPS has no float64
    U, S, Vt = (x.to(device) for x in (triplets.U, triplets.S, triplets.Vt))
    return replace(triplets, U=U, S=S, Vt=Vt)
