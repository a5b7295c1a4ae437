"""Scalars by role for a Trainer's logs: the learning rate, and how far the weights have moved."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from ailora.adapters import peft_insides
from ailora.adapters.attach import projections
from ailora.adapters.factors import Block, by_rank, placed
from ailora.adapters.record import Record
from ailora.adapters.step_hooks import gathered, rates_of_last_step
from ailora.roles import Projection, RoleKey, take_rows, unwrapped


def log_roles(trainer: Any) -> None:
    """Let a Trainer log each role's learning rate and movement wherever it logs the loss.

    For every role that an `AILoRAConfig` started there are two more scalars, in trackers,
    ``trainer.state.log_history`` and callbacks:

    * ``lr/q``: the rate of the last step, times what is baked in (twice with plain SGD, where it
      counts twice); ``lr/q/A`` and ``lr/q/B`` where the factors have different ones (LoRA+);
    * ``moved/q``: ||dW||_F / ||W||_F over all weights of the role, dW what training has added
      (without DoRA's norms).

    What cannot be known is left out: rates of an optimiser that is not torch's own kind,
    movement of weights that lie in pieces elsewhere (DeepSpeed ZeRO-3).

    Call it before training, with any Trainer of transformers, TRL or sentence-transformers; W's
    norms are taken then. Callbacks could not do this: trackers hear of a log before they do.

    Args:
        trainer: A ``transformers.Trainer`` with its model.
    """
    scalars = RoleScalars(trainer.model)
    log = trainer.log

    @wraps(log)
    def with_roles(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        log({**logs, **scalars.now(trainer.optimizer)} if "loss" in logs else logs, *args, **kwargs)

    trainer.log = with_roles


@dataclass(frozen=True)
class _Part:
    """One role's factors in one layer that trains."""

    layer: peft_insides.LoraLayer
    adapter: str
    block: Block
    start: int  # its first row of A', its first column of B'
    folded: tuple[Tensor, Tensor] | None  # A0 and B0, where the base holds W - s B0 A0

    def squared_norm(self) -> Tensor | None:
        """||dW||_F^2, from Gram matrices of the thin factors; None where they are in pieces.

        Each term is of second order in what moved, so that nothing of the start's size cancels.
        """
        A, B = (
            gathered(side[self.adapter].weight.detach())
            for side in (self.layer.lora_A, self.layer.lora_B)
        )
        if A.ndim != 2 or not A.numel():
            return None
        at, experts = slice(self.start, self.start + self.block.width), self.block.experts
        A = by_rank(A, "A", experts)[:, at].float()
        B = by_rank(B, "B", experts)[:, at].permute(2, 0, 1).float()
        if self.folded is not None:  # of a layer
            A, B = A[0], B[0]
            A0, B0 = (matrix.to(A) for matrix in self.folded)
            if self.block.rows is not None:
                B = take_rows(B, self.block.rows)
            A, B = torch.cat([A, A - A0]), torch.cat([B - B0, B0], dim=1)
        squared = ((B.mT @ B) * (A @ A.mT)).sum()
        scale = float(self.layer.scaling[self.adapter])
        return scale**2 * squared.clamp(min=0)


class RoleScalars:
    """What `log_roles` adds to a log, for the adapters of a model that train."""

    def __init__(self, model: nn.Module) -> None:
        self.parts: list[_Part] = []
        self.baked: dict[RoleKey, float] = {}
        self.sizes: defaultdict[RoleKey, float] = defaultdict(float)  # ||W||_F^2
        for part, projection, record in _training(model):
            self.parts.append(part)
            role, origin = part.block.role, record.origin
            self.baked[role] = origin.role_of(role).lr_ratio if origin.bake_rates else 1.0
            self.sizes[role] += _squared_size(part, projection)

    def now(self, optimizer: Any) -> dict[str, float]:
        """The scalars by name; a collective call where FSDP2 holds the factors in shards."""
        rates = rates_of_last_step(optimizer) if self.parts else {}
        # Of factors A / c, Adam's step does not depend on the size; a plain gradient is c times as
        # large, so that A moves by c squared.
        power = 2 if isinstance(getattr(optimizer, "optimizer", optimizer), SGD) else 1
        baked = {str(role): ratio**power for role, ratio in self.baked.items()}
        found = {
            f"lr/{name}": rate * baked.get(name.partition("/")[0], 1.0)
            for name, rate in rates.items()
        }
        return found | {f"moved/{role}": value for role, value in self._moved().items()}

    def _moved(self) -> dict[RoleKey, float]:
        squares: dict[RoleKey, list[Tensor | None]] = {}
        for part in self.parts:
            squares.setdefault(part.block.role, []).append(part.squared_norm())
        return {
            role: math.sqrt(sum(float(one) for one in found if one is not None) / self.sizes[role])
            for role, found in squares.items()
            if None not in found and self.sizes[role] > 0
        }


def _training(model: nn.Module) -> Iterator[tuple[_Part, Projection, Record]]:
    """The parts that train, of the outermost model that PEFT has adapted."""
    for owner in model.modules():
        configs = getattr(owner, "peft_config", None)
        if isinstance(configs, dict) and configs:
            break
    else:
        return
    base = unwrapped(owner)
    for adapter, config in configs.items():
        record = getattr(config, "record", None)
        if record is None:
            continue
        layers, weights = peft_insides.lora_layers(base, adapter), projections(base, record)
        for name in (name for name in record.layers if name in layers):
            layer = layers[name]
            if not layer.lora_A[adapter].weight.requires_grad:
                continue
            for block, start in placed(record.layers[name]):
                key = block.key(name)
                A0, B0 = (record.anchors.get(f"{key}.{letter}") for letter in "AB")
                folded = None if A0 is None or B0 is None else (A0, B0)
                yield _Part(layer, adapter, block, start, folded), weights[key], record


def _squared_size(part: _Part, projection: Projection) -> float:
    """||W||_F^2 of the pre-trained W."""
    W = projection.weight()
    if W.is_meta or not W.numel():
        return 0.0
    if part.folded is not None:
        A0, B0 = (matrix.to(W.device, torch.float32) for matrix in part.folded)
        W = W.float() + part.layer.scaling[part.adapter] * B0 @ A0
    return float(torch.linalg.vector_norm(W, dtype=torch.float32)) ** 2
