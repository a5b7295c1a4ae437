"""The spectrum of every projection of attention, and what share of it the part that trains has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ailora.errors import UserError
from ailora.linalg import Part
from ailora.linalg.decomposition import validate
from ailora.roles import Projection, RoleKey, find_projections
from ailora.roles.parts import PartName
from ailora.roles.walk import Position, position_of, spread

_DENSE_UP_TO = 2048
AILORA_PARTS: Mapping[RoleKey, Part] = MappingProxyType({"q": "principal", "v": "minor"})


@dataclass(frozen=True, kw_only=True)
class Spectrum(Position):
    """The singular values of one weight W (m x n).

    Attributes:
        shape: (m, n).
        values: All min(m, n) of them, descending.
        part: Which end a method trains; None for a role that it leaves alone.
        rank: How many values that part has; 0 without a part.
    """

    shape: tuple[int, int]
    values: tuple[float, ...]
    part: Part | None = None
    rank: int = 0

    @property
    def chosen(self) -> range:
        """Indices of the part's values."""
        count = len(self.values)
        return range(count - self.rank, count) if self.part == "minor" else range(self.rank)

    @property
    def median(self) -> float:
        """The middle singular value (the lower of two)."""
        return self.values[len(self.values) // 2]

    @property
    def effective_rank(self) -> float:
        """Effective rank of the values, `effective_rank`."""
        return effective_rank(torch.tensor(self.values, dtype=torch.float64))

    @property
    def stable_rank(self) -> float:
        """Stable rank of the values, `stable_rank`."""
        return stable_rank(torch.tensor(self.values, dtype=torch.float64))

    @property
    def energy_share(self) -> float | None:
        """Sum of the part's sigma^2 over that of all, so ||B A||_F^2 / ||W||_F^2; None without."""
        if self.part is None:
            return None
        whole = sum(value**2 for value in self.values)
        return sum(self.values[i] ** 2 for i in self.chosen) / whole if whole else 0.0


@torch.no_grad()
def spectra(
    model: nn.Module,
    *,
    rank: int = 8,
    ends: Mapping[RoleKey, Part] = AILORA_PARTS,
    parts: Collection[PartName] | None = None,
) -> list[Spectrum]:
    """All singular values of every q, k, v and o projection, in the model's order.

    Computed in float64 without vectors. Where both sides are above 2048 they come from the
    eigenvalues of the Gram matrix, several times faster; values below 1e-8 of the largest are then
    noise.

    Args:
        model: A model that `ailora.roles.find_projections` can handle.
        rank: Number of triplets in a part.
        ends: The end of the spectrum that each role's factors take; AILoRA's by default.
        parts: Parts of the model to look in, as in `ailora.roles.find_projections`.

    Raises:
        UserError: No projections are found; the model lacks a part that is named; a weight is
            smaller than the rank, has NaN or infinity, or no values at all (meta device).
    """
    found = find_projections(model, parts=parts)
    return [_spectrum(model, projection, rank, ends) for projection in found]


def effective_rank(values: Tensor) -> float:
    """exp(H(p)) with p_i = sigma_i / sum(sigma), H the Shannon entropy (Roy and Vetterli 2007).

    Args:
        values: Singular values, (k,), not negative.

    Returns:
        Between 1 (one value) and k (all equal); 0 where all are zero.
    """
    total = values.sum()
    if not total > 0:
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())


def stable_rank(values: Tensor) -> float:
    """||W||_F^2 / ||W||_2^2, the sum of sigma^2 over the largest (Rudelson and Vershynin 2007).

    Args:
        values: Singular values, (k,), not negative.

    Returns:
        Between 1 and k; 0 where all are zero.
    """
    largest = values.max()
    return float((values / largest).square().sum()) if largest > 0 else 0.0


def _spectrum(
    model: nn.Module, projection: Projection, rank: int, ends: Mapping[RoleKey, Part]
) -> Spectrum:
    weight, part = projection.weight(), ends.get(projection.role)
    try:
        validate(weight, rank if part else 1, part or "principal", 0, 1e-8)
    except UserError as error:
        raise UserError(f"{projection.key} ({projection.role}): {error}") from error
    values = _values(weight.to("cpu", torch.float64))  # not every device has float64
    return Spectrum(
        **spread(position_of(model, projection)),
        shape=projection.shape,
        values=tuple(values.tolist()),
        part=part,
        rank=rank if part else 0,
    )


def _values(W: Tensor) -> Tensor:
    """All singular values, descending."""
    if min(W.shape) <= _DENSE_UP_TO:
        values: Tensor = torch.linalg.svdvals(W)
        return values
    squares: Tensor = torch.linalg.eigvalsh(W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W)
    return squares.clamp(min=0).sqrt().flip(0)
