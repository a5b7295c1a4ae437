"""One decomposition for all processes of a distributed run."""

from __future__ import annotations

from dataclasses import replace

import torch.distributed as dist
from torch import Tensor

from ailora.cache import decompose
from ailora.errors import UserError
from ailora.linalg import Triplets
from ailora.linalg.triplets import Part


def decompose_once(weight: Tensor, rank: int, part: Part) -> Triplets:
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
