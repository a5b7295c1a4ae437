"""What `ailora.offline.init_files` would write, said beforehand: no weight is read for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.selection import Chosen, Selection
from ailora.checkpoints import Structure
from ailora.checkpoints.header import FLOATS
from ailora.checkpoints.resumable import alone_in_out, check_out, free_space, require_empty
from ailora.offline.folded_weights import DTYPES
from ailora.offline.initialize import PLAN, plan_of
from ailora.offline.started_weights import choose, open_original, stored_head
from ailora.roles.projection import shape_of


@dataclass(frozen=True, kw_only=True)
class PlannedWeights:
    """Weights of one role and one shape.

    Attributes:
        modules: Dotted path of the module, with ``*`` for its numbers.
        role: One of `ailora.roles.ROLE_NAMES`, or ``"*"``.
        init: What its factors start from.
        shape: (m, n) of the role's part of W.
        rank: r of the factors that train.
        layers: Their layers; empty where one module serves every layer.
        count: How many weights these are.
        trained: How many parameters train in them.
    """

    modules: str
    role: str
    init: str
    shape: tuple[int, int]
    rank: int
    layers: tuple[int, ...]
    count: int
    trained: int


@dataclass(frozen=True, kw_only=True)
class InitPlan:
    """A start as files, before it is made. Sizes are in bytes.

    Attributes:
        weights: What is adapted, in the model's order.
        head: Parameters of the task's head, which PEFT trains in full.
        parameters: Parameters in the checkpoint.
        adapter: Size of the tensors in the adapter's folder.
        model: Size of the residual model's shards; None for an anchored adapter, whose model is
            the original. With ``dtype="auto"`` as it is where no weight has to be widened.
        model_at_most: The same where every changed weight is widened.
        needed: Disk that the run takes at most.
        free: Disk that is free where it would write.
    """

    weights: tuple[PlannedWeights, ...]
    head: int
    parameters: int
    adapter: int
    model: int | None
    model_at_most: int | None
    needed: int
    free: int

    @property
    def trained(self) -> int:
        """Parameters that train; the frozen halves of anchored factors do not."""
        return sum(one.trained for one in self.weights) + self.head


@alone_in_out
def plan_files(
    model: str | Path, out: Path, config: AILoRAConfig, *, dtype: str = "auto"
) -> InitPlan:
    """Say what `init_files` would write with these arguments; nothing is written.

    Only config.json and the headers of the shards are read. What depends on a weight's values is
    not known before: NaN in it, and with ``dtype="auto"`` whether it has to be widened.

    Raises:
        UserError: As `init_files`, but for a weight with NaN or infinity and for a full disk.
    """
    structure = open_original(model, config, dtype)
    if config.anchored:
        require_empty(out)
    else:
        check_out(out, PLAN, plan_of(structure, config, dtype))
    selection = choose(structure, config)
    where = structure.checkpoint
    head = [where.entry(name) for name in stored_head(structure, config.task_type).values()]
    adapter = _adapter_size(structure, selection) + sum(entry.nbytes for entry in head)
    whole = most = None
    needed = adapter
    if not config.anchored:
        whole, most = _model_sizes(structure, selection, dtype)
        # The adapter also lies beside the residual model and, until that is done, in the records.
        needed = most + 3 * adapter + sum(path.stat().st_size for path in where.other_files())
    return InitPlan(
        weights=_weights(selection),
        head=sum(prod(entry.shape) for entry in head),
        parameters=sum(prod(e.shape) for shard in where.shards for e in shard.entries.values()),
        adapter=adapter,
        model=whole,
        model_at_most=most,
        needed=needed,
        free=free_space(out),
    )


def _weights(selection: Selection) -> tuple[PlannedWeights, ...]:
    alike: dict[tuple[object, ...], list[Chosen]] = {}
    for one in selection.chosen:
        p = one.projection
        alike.setdefault((_starred(p.name), p.role, p.shape, one.rank), []).append(one)
    return tuple(_planned(chosen) for chosen in alike.values())


def _planned(chosen: Sequence[Chosen]) -> PlannedWeights:
    first = chosen[0]
    layers = {one.projection.layer for one in chosen}
    return PlannedWeights(
        modules=_starred(first.projection.name),
        role=first.projection.role,
        init=first.role.init,
        shape=first.projection.shape,
        rank=first.rank,
        layers=tuple(sorted(layer for layer in layers if layer is not None)),
        count=len(chosen),
        trained=sum(one.rank * sum(one.projection.shape) for one in chosen),
    )


def _starred(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _adapter_size(structure: Structure, selection: Selection) -> int:
    """Of the factors, which PEFT keeps in fp32 over 16-bit weights, else in the weight's type.

    What was folded into W lies beside them.
    """
    size = 0
    for name, chosen in selection.layers.items():
        stored = FLOATS[structure.checkpoint.entry(structure.weight_of(name)).dtype]
        width = sum(one.block.width for one in chosen)
        numbers = width * sum(shape_of(chosen[0].projection.module))
        folded = [one for one in chosen if one.is_spectral and not one.anchored]
        numbers += sum(one.rank * sum(one.projection.shape) for one in folded)
        size += numbers * torch.promote_types(stored, torch.float32).itemsize
    return size


def _model_sizes(structure: Structure, selection: Selection, dtype: str) -> tuple[int, int]:
    """Of the residual model's shards: where no weight is widened, and where every one is."""
    least = most = sum(shard.size for shard in structure.checkpoint.shards)
    for name, chosen in selection.layers.items():
        if not any(one.is_spectral for one in chosen):
            continue
        entry = structure.checkpoint.entry(structure.weight_of(name))
        wide = torch.promote_types(FLOATS[entry.dtype], torch.float32)
        widest = wide if dtype == "auto" else DTYPES[dtype]
        grown = prod(entry.shape) * widest.itemsize - entry.nbytes
        most += grown
        least += 0 if dtype == "auto" else grown
    return least, most
