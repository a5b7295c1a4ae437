"""Factors that FSDP2 holds in shards, as stock matrices; other ways of sharding are refused."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from ailora.errors import UserError


def whole(parameter: Tensor) -> Tensor:
    """The parameter; gathered from all ranks (a collective call) where FSDP2 holds it in shards.

    Raises:
        UserError: DeepSpeed's ZeRO-3 or FSDP version 1 holds it, which gather only parameters that
            are saved under their own names.
    """
    if hasattr(parameter, "ds_id"):
        raise UserError(ZERO3)
    if hasattr(parameter._base, "_is_flat_param"):
        raise UserError(FSDP1)
    if not isinstance(parameter, DTensor):
        return parameter
    if parameter.is_meta:  # FSDP2's low-memory start: there is nothing to gather yet
        return torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    return parameter.full_tensor()


def fill(parameter: Tensor, value: Tensor) -> None:
    """Set a parameter in place; where it is sharded, each rank keeps its part of the value."""
    if isinstance(parameter, DTensor):
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    parameter.copy_(value)


def beside(weight: Tensor, parameter: Tensor) -> Tensor:
    """A matrix made of a parameter, as an entry of the state dict that has the parameter.

    While accelerate shards an empty model it takes every entry for a DTensor, to know where its
    values go; a factor's ``weight`` goes whole to every rank.
    """
    if not (isinstance(parameter, DTensor) and parameter.is_meta):
        return weight
    mesh = parameter.device_mesh
    return DTensor.from_local(weight, mesh, [Replicate()] * mesh.ndim, run_check=False)


ZERO3 = (
    "DeepSpeed ZeRO-3 holds these factors in pieces and would save them wrongly; use ZeRO stage 1 "
    "or 2, FSDP version 2, or the files of `ailora init` on a plain LoRA"
)
FSDP1 = (
    "FSDP version 1 cannot save these factors; set fsdp_version: 2 (accelerate launch "
    "--fsdp_version 2), or use the files of `ailora init` on a plain LoRA"
)
