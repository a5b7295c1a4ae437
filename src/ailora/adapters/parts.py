"""Cuts the stock matrices of saved layers into the factors of their roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.reading import SavedStart, StockFactors
from ailora.adapters.starts import Start, stored_scaling
from ailora.errors import UserError
from ailora.roles import Projection


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
    anchored = [
        config.base == "anchored" and config.roles[role.role].init != "gaussian" for role in roles
    ]
    ranks = [
        config.rank_of(role.role) * (2 if twice else 1)
        for role, twice in zip(roles, anchored, strict=True)
    ]
    if factors is None or factors.A.shape[0] != sum(ranks):
        found = "nothing" if factors is None else f"rank {factors.A.shape[0]}"
        raise UserError(
            f"the adapter has {found} at {name}, where its ailora.json says rank {sum(ranks)}; "
            "copy the whole adapter folder again"
        )
    first = stored_scaling(config, roles[0].role)
    pieces = zip(torch.split(factors.A, ranks), torch.split(factors.B, ranks, dim=1), strict=True)
    for role, twice, (A, B) in zip(roles, anchored, pieces, strict=True):
        if role.rows is not None:
            B = torch.cat([B[start:stop] for start, stop in role.rows])
            B = B / (stored_scaling(config, role.role) / first)
        yield SavedRole(role, A, B, twice)


def _start(role: SavedRole, saved: SavedStart) -> Start:
    name, config = role.projection.role, saved.config
    init = config.roles[name]
    rank = config.rank_of(name)
    return Start(
        projection=role.projection,
        spectral=init.init != "gaussian",
        A=saved.anchors[role.projection.key]["A"] if role.anchored else role.A,
        B=role.B[:, rank:] if role.anchored else role.B,
        scaling=stored_scaling(config, name),
        lr_ratio=init.lr_ratio if config.lr_mode == "groups" else 1.0,
    )
