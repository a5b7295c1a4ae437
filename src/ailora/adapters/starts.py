"""What factors can start from: one row per start, and nothing else knows their names.

A start makes A (r x n) and B (m x r) from a weight W (m x n). Where their product is not zero it
must be taken off again, by an anchor or from W itself; `is_spectral` elsewhere asks just that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from ailora.cache import decompose
from ailora.errors import UserError
from ailora.linalg import Check, Triplets
from ailora.linalg.triplets import Part
from ailora.roles import Projection


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Starting factors with s B A = the part of W that they stand for.

    Attributes:
        A: Right factor, (r, n).
        B: Left factor, (m, r).
        dead: Triplets with a singular value of zero: their factors never receive a gradient.
        check: How the decomposition was made and how exact it is; None without one.
    """

    A: Tensor
    B: Tensor
    dead: int = 0
    check: Check | None = None


@dataclass(frozen=True, kw_only=True)
class StartKind:
    """One row of the table.

    Attributes:
        make: Makes factors from (projection, rank r, scale s). None: they are only ever given, from
            outside or from a file.
        zero: Whether B A is zero at step 0, so that nothing has to be taken off.
        in_weight: Whether B A is a part of the weight itself, so that the weight tells whether it
            has been taken off already.
    """

    make: Callable[[Projection, int, float], Factors] | None
    zero: bool = False
    in_weight: bool = True


def _part(part: Part) -> Callable[[Projection, int, float], Factors]:
    def make(projection: Projection, rank: int, scaling: float) -> Factors:
        """A = (S/s)^1/2 V^T and B = U (S/s)^1/2 of r singular triplets (eqs. 2 and 5)."""
        check_rank_fits(projection, rank)
        triplets = _decompose_once(projection.weight(), rank, part)
        root = (triplets.S / scaling).sqrt()
        A, B = root[:, None] * triplets.Vt, triplets.U * root
        return Factors(A=A, B=B, dead=triplets.dead, check=triplets.check)

    return make


def _gaussian(projection: Projection, rank: int, scaling: float) -> Factors:
    """A normal with the standard deviation of PEFT's default, U(-n^-1/2, n^-1/2); B zero."""
    del scaling
    out_features, in_features = projection.shape
    A = torch.randn(rank, in_features) / math.sqrt(3 * in_features)
    return Factors(A=A, B=torch.zeros(out_features, rank))


STARTS: Mapping[str, StartKind] = {
    "principal": StartKind(make=_part("principal")),
    "minor": StartKind(make=_part("minor")),
    "gaussian": StartKind(make=_gaussian, zero=True, in_weight=False),
    # PEFT's starts: `ailora.lab.methods` has PEFT make their factors, and gives them.
    "olora": StartKind(make=None),
    "lora_ga": StartKind(make=None, in_weight=False),  # its factors come from a gradient
    "corda": StartKind(make=None),
}


def check_rank_fits(projection: Projection, rank: int) -> None:
    """Raise a UserError if a rank is above what a weight has."""
    most = min(projection.shape)
    if rank > most:
        m, n = projection.shape
        raise UserError(
            f"r={rank} for role {projection.role!r} is above what {projection.key} has: its "
            f"weight is {m} x {n}, so r can be at most {most}"
        )


def _decompose_once(weight: Tensor, rank: int, part: Part) -> Triplets:
    """As `ailora.decompose`; in a process group rank 0 decomposes and sends the others its answer.

    So every rank has the same factors to the last bit, and only rank 0 needs the weight's values:
    with FSDP's ``cpu_ram_efficient_loading`` the others have none.

    Raises:
        UserError: As `ailora.decompose`, on every rank.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return decompose(weight, rank, part)
    answer: list[Triplets | str | None] = [None]
    if dist.get_rank() == 0:
        answer[0] = _answer(weight, rank, part)
    dist.broadcast_object_list(answer, src=0)
    (found,) = answer
    if not isinstance(found, Triplets):
        raise UserError(str(found))
    return found if weight.is_meta else _on(found, weight)


def _answer(weight: Tensor, rank: int, part: Part) -> Triplets | str:
    try:
        triplets = decompose(weight, rank, part)
    except UserError as error:  # sent on: ranks that wait for an answer would wait for ever
        return str(error)
    return replace(triplets, U=triplets.U.cpu(), S=triplets.S.cpu(), Vt=triplets.Vt.cpu())


def _on(triplets: Triplets, weight: Tensor) -> Triplets:
    device = "cpu" if weight.device.type == "mps" else weight.device  # MPS has no float64
    U, S, Vt = (x.to(device) for x in (triplets.U, triplets.S, triplets.Vt))
    return replace(triplets, U=U, S=S, Vt=Vt)
