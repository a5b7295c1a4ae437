"""Starting factors of every adapted projection: eqs. 2 and 5 of the paper."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ailora.adapters.config import AILoRAConfig, Foreign
from ailora.adapters.starts.once import decompose_once
from ailora.errors import UserError
from ailora.linalg import Check, Triplets
from ailora.roles import Projection, RoleName, find_projections

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one projection starts from.

    Attributes:
        projection: The weight, or the rows of a fused weight, that it is for.
        spectral: Whether the factors start as a product that is not zero (else Gaussian A, zero B).
        A: Starting lora_A, (r x n).
        B: Starting lora_B, (m x r).
        scaling: s in y = W x + s B A x.
        lr_ratio: Learning rate as a multiple of the optimiser's, for parameter groups.
        dead: Triplets with a singular value of zero: their factors never receive a gradient.
        check: How the decomposition was made and how exact it is; None for Gaussian starts.
    """

    projection: Projection
    spectral: bool
    A: Tensor
    B: Tensor
    scaling: float
    lr_ratio: float
    dead: int = 0
    check: Check | None = None

    @property
    def name(self) -> str:
        """Dotted name of the module in the model; projections in one fused layer share it."""
        return self.projection.name

    @property
    def key(self) -> str:
        """Name of this projection alone."""
        return self.projection.key

    @property
    def role(self) -> RoleName:
        """q, k, v or o."""
        return self.projection.role

    @property
    def rank(self) -> int:
        """Rank r of the factors."""
        return self.A.shape[0]


def make_starts(
    model: nn.Module, config: AILoRAConfig, on_progress: OnProgress | None = None
) -> list[Start]:
    """Decompose every weight the config names; the model is only read.

    A progress bar with the time left appears when this takes more than two seconds, unless
    `on_progress` shows it: it is called with the weights done, their number, and the next one's
    name ("" at the end).

    Raises:
        UserError: a start that is not made here, no such projection, a rank above a weight's size,
            or a weight with NaN or Inf.
    """
    for role in config.roles.values():
        if role.init in get_args(Foreign):
            raise UserError(
                f"Role.init={role.init!r}: only saved adapters have it; to start one so, call "
                f"ailora.baselines.METHODS[{role.init!r}].build(model, settings, batches)"
            )
    found = projections_of(model, config)
    for projection in found:
        _check_rank(projection, config)
    starts = [_start(projection, config) for projection in _reported(found, on_progress)]
    _report_dead(starts)
    return starts


def stored_scaling(config: AILoRAConfig, role: RoleName) -> float:
    """The scale of a role's factors as stored: c^2 s where the ratio c is baked in."""
    return config.scaling_of(role) * _baked(config, role) ** 2


def group_ratio(config: AILoRAConfig, role: RoleName) -> float:
    """What is left of a role's rate ratio for parameter groups: 1 where it is baked in."""
    return config.roles[role].lr_ratio / _baked(config, role)


def projections_of(model: nn.Module, config: AILoRAConfig) -> list[Projection]:
    """The projections that the config adapts, in the model's order.

    Raises:
        UserError: As `ailora.roles.find_projections`.
    """
    by_hand = {name: role.modules for name, role in config.roles.items() if role.modules}
    return find_projections(model, tuple(config.roles), modules=by_hand, layers=config.layers)


def _reported(found: list[Projection], on_progress: OnProgress | None) -> Iterator[Projection]:
    if on_progress is None:
        yield from tqdm(
            found, "starting factors", unit="weight", delay=2, leave=False, disable=None
        )
        return
    for done, projection in enumerate(found):
        on_progress(done, len(found), projection.key)
        yield projection
    on_progress(len(found), len(found), "")


def _check_rank(projection: Projection, config: AILoRAConfig) -> None:
    rank, most = config.rank_of(projection.role), min(projection.shape)
    if rank > most:
        raise UserError(
            f"r={rank} for role {projection.role!r} is above what {projection.key} has: its "
            f"weight is {projection.shape[0]} x {projection.shape[1]}, so r can be at most {most}"
        )


def _start(projection: Projection, config: AILoRAConfig) -> Start:
    role = config.roles[projection.role]
    rank, scaling = config.rank_of(projection.role), config.scaling_of(projection.role)
    baked = _baked(config, projection.role)
    triplets = None
    if role.init == "gaussian":
        A, B = _gaussian(projection, rank)
    else:
        triplets = _decompose(projection, rank, role.init)
        A, B = _factors(triplets, scaling)
    return Start(
        projection=projection,
        spectral=triplets is not None,
        # Under Adam a step has the size of the rate whatever the gradient's: A / c moved by lr
        # is A moved by c lr, and c^2 in the scale puts the size back.
        A=A / baked,
        B=B / baked,
        scaling=stored_scaling(config, projection.role),
        lr_ratio=group_ratio(config, projection.role),
        dead=triplets.dead if triplets else 0,
        check=triplets.check if triplets else None,
    )


def _baked(config: AILoRAConfig, role: RoleName) -> float:
    return config.roles[role].lr_ratio if config.lr_mode == "baked" else 1.0


def _decompose(projection: Projection, rank: int, part: str) -> Triplets:
    weight = projection.weight()
    try:
        return decompose_once(weight, rank, part)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"{projection.key} ({projection.role}): {error}") from error


def _factors(triplets: Triplets, scaling: float) -> tuple[Tensor, Tensor]:
    """A = (S/s)^1/2 V^T and B = U (S/s)^1/2, so that s B A is the part itself."""
    root = (triplets.S / scaling).sqrt()
    return root[:, None] * triplets.Vt, triplets.U * root


def _gaussian(projection: Projection, rank: int) -> tuple[Tensor, Tensor]:
    out_features, in_features = projection.shape
    std = 1 / math.sqrt(3 * in_features)  # that of PEFT's default, U(-n^-1/2, n^-1/2)
    A = torch.randn(rank, in_features) * std
    return A, torch.zeros(out_features, rank)


def _report_dead(starts: list[Start]) -> None:
    dead = [start for start in starts if start.dead]
    if dead:
        listed = ", ".join(f"{start.key} {start.dead} of {start.rank}" for start in dead[:8])
        more = f" and {len(dead) - 8} more" if len(dead) > 8 else ""
        logger.warning(
            "dead triplets: the weight has singular values of zero there, so these factors start "
            "at zero and never learn: %s%s. A smaller r or init='gaussian' avoids it.",
            listed,
            more,
        )
