"""One run in several processes, as torchrun or ``accelerate launch`` start them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ailora.adapters.surroundings import fsdp_version
from ailora.errors import UserError
from ailora.lab.lock import held


def state() -> PartialState:
    """Who this process is among those of the run; alone without a launcher."""
    return PartialState(cpu=not torch.accelerator.is_available())


def share_of(rows: int) -> int:
    """Rows that each process holds at once, of so many in all.

    Raises:
        UserError: They cannot be shared out evenly.
    """
    processes = int(state().num_processes)
    if rows % processes:
        raise UserError(
            f"{rows} rows at once cannot be shared out to {processes} processes; give a batch size "
            f"(or micro batch size) that is a multiple of {processes}"
        )
    return rows // processes


def settle_fsdp() -> None:
    """Where the launcher has set FSDP up, choose what a run needs of its options.

    Every process reads the model's weights itself: where one alone does (accelerate's
    ``cpu_ram_efficient_loading``), new parameters of the others share an address, by which
    accelerate 1.15 looks for them, in vain. And checkpoints hold the whole adapter, so that a run
    goes on in any number of processes.

    Raises:
        UserError: FSDP version 1, whose flat shards `gather` cannot take apart.
    """
    version = fsdp_version()
    if version == 1:
        raise UserError("FSDP version 1 is not supported; give accelerate launch --fsdp_version 2")
    if version is not None:
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        os.environ["FSDP_STATE_DICT_TYPE"] = "FULL_STATE_DICT"


@torch.no_grad()
def gather(model: nn.Module) -> None:
    """Put whole parameters in the place of FSDP2's shards, on the main process's processor.

    All processes must call it, and the model computes nothing afterwards: the others are left with
    empty parameters. Without shards nothing happens.
    """
    if not any(isinstance(module, FSDPModule) for module in model.modules()):
        return
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # evaluations leave it with parameters for the next forward pass
    main = state().is_main_process
    whole: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, shard in list(module.named_parameters(recurse=False)):
            if shard not in whole:  # tied ones stay tied
                full = shard.full_tensor() if isinstance(shard, DTensor) else shard
                kept = full.cpu() if main else full.new_empty(0)
                whole[shard] = nn.Parameter(kept, requires_grad=shard.requires_grad)
            setattr(module, name, whole[shard])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.cpu())


@contextmanager
def alone_in(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold a run's folder for all processes of the run; the main one does.

    Yields:
        Raises a LockedError once another run has taken the folder over.

    Raises:
        LockedError: Another run that lives holds it.
    """
    with held(folder) if state().is_main_process else nullcontext() as hold:
        state().wait_for_everyone()  # from here on nobody else can finish it
        yield hold.check if hold is not None else lambda: None
