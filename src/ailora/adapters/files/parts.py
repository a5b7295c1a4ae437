"""Cuts the stock matrices of saved layers into the factors of their roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.files.reading import SavedStart, StockFactors
from ailora.adapters.starts.make import Start, group_ratio, stored_scaling
from ailora.errors import UserError
from ailora.roles import Projection, take_rows


@dataclass(frozen=True)
class SavedRole:
    """One role's saved factors: A' (k x n) and B' (m x k), k = 2r if anchored, else r."""

    projection: Projection
    A: Tensor
    B: Tensor
    anchored: bool


def saved_roles(
    projections: Iterable[Projection], saved: SavedStart, factors: Mapping[str, StockFactors]
) -> list[SavedRole]:
    """The saved factors of every projection.

    Raises:
        UserError: a layer is missing, or its rank is not the sum of its roles' ranks.
    """
    layers: dict[str, list[Projection]] = {}
    for projection in projections:
        layers.setdefault(projection.name, []).append(projection)
    return [
        role
        for name, roles in layers.items()
        for role in _cut(name, roles, saved.config, factors.get(name))
    ]


def saved_starts(roles: Sequence[SavedRole], saved: SavedStart) -> list[Start]:
    """Starts from which `restore` gives the saved adapter again."""
    return [_start(role, saved) for role in roles]


def _cut(
    name: str, roles: Sequence[Projection], config: AILoRAConfig, factors: StockFactors | None
) -> Iterator[SavedRole]:
    ranks = [config.stock_rank_of(role.role) for role in roles]
    if factors is None or factors.A.shape[0] != sum(ranks):
        found = "nothing" if factors is None else f"rank {factors.A.shape[0]}"
        raise UserError(
            f"the adapter has {found} at {name}, where its ailora.json says rank {sum(ranks)}; "
            "copy the whole adapter folder again"
        )
    first = stored_scaling(config, roles[0].role)
    pieces = zip(torch.split(factors.A, ranks), torch.split(factors.B, ranks, dim=1), strict=True)
    for role, (A, B) in zip(roles, pieces, strict=True):
        if role.rows is not None:
            B = take_rows(B, role.rows)
            B = B / (stored_scaling(config, role.role) / first)
        yield SavedRole(role, A, B, config.is_anchored(role.role))


def _start(role: SavedRole, saved: SavedStart) -> Start:
    name, config = role.projection.role, saved.config
    rank = config.rank_of(name)
    return Start(
        projection=role.projection,
        spectral=config.roles[name].spectral,
        A=saved.anchors[role.projection.key]["A"] if role.anchored else role.A,
        B=role.B[:, rank:] if role.anchored else role.B,
        scaling=stored_scaling(config, name),
        lr_ratio=group_ratio(config, name),
    )
