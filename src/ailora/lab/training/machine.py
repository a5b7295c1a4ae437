"""What a run computes on: its processes, how they share the work, and the record of both.

Several processes are those that torchrun or ``accelerate launch`` start.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ailora.adapters.compatibility import fsdp_version
from ailora.errors import UserError
from ailora.lock import held

PACKAGES = ("ailora", "torch", "transformers", "peft", "accelerate", "datasets", "numpy")


def state() -> PartialState:
    """Who this process is among those of the run; alone without a launcher."""
    return PartialState(cpu=not torch.accelerator.is_available())


def anywhere(here: bool) -> bool:
    """Whether it is so in any process of the run; all of them must ask."""
    if state().num_processes == 1:
        return here
    seen = torch.tensor(float(here), device=state().device)
    torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
    return bool(seen.item())


def share_of(rows: int) -> int:
    """How many of ``rows`` rows each process holds at once.

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
    fsdp = fsdp_version()
    if fsdp == 1:
        raise UserError("FSDP version 1 is not supported; give accelerate launch --fsdp_version 2")
    if fsdp is not None:
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


def environment() -> dict[str, str | int]:
    """Versions of packages, processor, cores and accelerator, for a run's files and the report."""
    found: dict[str, str | int] = {"python": platform.python_version()}
    found |= {name: _version(name) for name in PACKAGES}
    found["platform"] = f"{platform.system()} {platform.machine()}"
    found["cpu"] = _cpu()
    found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    found["threads"] = torch.get_num_threads()
    found["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found


def computes_bf16_natively() -> bool:
    """Whether bf16 arithmetic is the device's own; emulated, it is slower than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private, but torch has no public question for it; without it the answer is the safe one.
    asks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, ask, lambda: False)() for ask in asks)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
