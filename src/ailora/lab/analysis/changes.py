"""The change dW of each projection, whichever way it was learned."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ailora.adapters.update import RoleUpdate, role_updates
from ailora.errors import UserError
from ailora.linalg import decompose
from ailora.roles import Projection, find_projections, take_rows, unwrapped
from ailora.roles.projection import matrix_of
from ailora.roles.walk import Position, body_key, position_of


@dataclass(frozen=True, kw_only=True)
class Subspaces:
    """Leading singular vectors of a matrix (m x n): U (m, r) and V (n, r), orthonormal."""

    U: Tensor
    V: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Change(ABC):
    """dW of one projection, (m, n) in float64, made when it is asked for."""

    place: Position

    @abstractmethod
    def weight(self) -> Tensor:
        """The pre-trained W, (m, n) float64."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """dW, (m, n) float64."""

    @abstractmethod
    def norm(self) -> float:
        """||dW||_F."""

    @abstractmethod
    def values(self) -> Tensor:
        """Singular values of dW, descending: min(m, n) of them, or the rank of its factors."""

    @abstractmethod
    def leading(self, rank: int) -> Subspaces | None:
        """Its first singular vectors; None where dW has a lower rank than that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FactoredChange(Change):
    """dW = s B A from the factors of a LoRA; no m x n matrix is made unless asked for."""

    update: RoleUpdate

    def weight(self) -> Tensor:
        """The pre-trained W, (m, n) float64."""
        return self.update.weight()

    def matrix(self) -> Tensor:
        """dW, (m, n) float64."""
        return self.update.change.matrix()

    def norm(self) -> float:
        """||dW||_F, by two thin QRs."""
        return float(self.update.change.norm())

    def values(self) -> Tensor:
        """Singular values of dW, as many as its factors have columns."""
        A, B = self.update.change.exact()
        left, right = torch.linalg.qr(B).R, torch.linalg.qr(A.T).R
        values: Tensor = torch.linalg.svdvals(left @ right.T)
        return values

    def leading(self, rank: int) -> Subspaces | None:
        """Its first singular vectors; None where dW has a lower rank than that."""
        A, B = self.update.change.exact()
        return product_subspaces(B, A, rank)


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseChange(Change):
    """dW = after - before: full fine-tuning, or a method whose update is no product."""

    before: Callable[[], Tensor]
    after: Callable[[], Tensor]
    _led: dict[int, Subspaces | None] = field(default_factory=dict, init=False)

    def weight(self) -> Tensor:
        """The pre-trained W, (m, n) float64."""
        return self.before().double()

    def matrix(self) -> Tensor:
        """dW, (m, n) float64."""
        return self.after().double() - self.weight()

    def norm(self) -> float:
        """||dW||_F."""
        return float(torch.linalg.norm(self.matrix()))

    def values(self) -> Tensor:
        """All min(m, n) singular values of dW."""
        values: Tensor = torch.linalg.svdvals(self.matrix())
        return values

    def leading(self, rank: int) -> Subspaces | None:
        """Its first singular vectors, found once; None where dW has a lower rank than that."""
        if rank not in self._led:
            self._led[rank] = _leading(self.matrix(), rank)
        return self._led[rank]


@torch.no_grad()
def adapter_changes(model: PeftModel, adapter: str = "default") -> list[Change]:
    """The change dW of every projection that a PEFT adapter moves.

    Of LoRA's kind from the factors, s (B A - B0 A0); of DoRA, VeRA and other tuners the
    difference that merging the layer makes, in float64.

    Args:
        model: Wrapped by ailora or by PEFT; it is only read.
        adapter: Name of the adapter.

    Raises:
        UserError: The model's projections cannot be found.
    """
    config = model.peft_config[adapter]
    if isinstance(config, LoraConfig):
        updates = role_updates(model, adapter)
        if config.use_dora:
            return [_merged(model, update.projection, adapter, update.weight) for update in updates]
        return [
            FactoredChange(place=position_of(model, update.projection), update=update)
            for update in updates
        ]
    return [
        _merged(model, projection, adapter, projection.weight)
        for projection in find_projections(model)
        if isinstance(unwrapped(model).get_submodule(projection.name), BaseTunerLayer)
    ]


def changes_between(before: nn.Module, after: nn.Module) -> list[Change]:
    """The change dW = after - before of every projection, as full fine-tuning leaves it.

    Args:
        before: The pre-trained model.
        after: The same architecture; another head will do.

    Raises:
        UserError: The two do not have the same projections, or of other shapes.
    """
    old, new = (
        {body_key(model, p): p for p in find_projections(model)} for model in (before, after)
    )
    odd = sorted(old.keys() ^ new.keys()) or [k for k in old if old[k].shape != new[k].shape]
    if odd:
        raise UserError(
            f"these two models do not have the same projections ({odd[0]} differs); "
            "give two checkpoints of one architecture and size"
        )
    return [
        DenseChange(
            place=position_of(before, old[key]), before=old[key].weight, after=new[key].weight
        )
        for key in old
    ]


def _leading(change: Tensor, rank: int) -> Subspaces | None:
    if rank > min(change.shape):
        return None
    found = decompose(change, rank, "principal")
    return None if found.dead else Subspaces(U=found.U, V=found.Vt.T)


def product_subspaces(B: Tensor, A: Tensor, rank: int) -> Subspaces | None:
    """First singular vectors of B A, from two thin QRs and one small SVD.

    Args:
        B: (m, k) float64.
        A: (k, n) float64.
        rank: How many.

    Returns:
        None where B A has a lower rank, up to float64's rounding.
    """
    left, right = torch.linalg.qr(B), torch.linalg.qr(A.T)
    U, S, Vt = torch.linalg.svd(left.R @ right.R.T)
    noise = max(B.shape[0], A.shape[1]) * torch.finfo(torch.float64).eps
    if rank > S.shape[0] or not S[rank - 1] > noise * S[0]:
        return None
    return Subspaces(U=left.Q @ U[:, :rank], V=right.Q @ Vt[:rank].T)


def _merged(
    model: PeftModel, projection: Projection, adapter: str, before: Callable[[], Tensor]
) -> Change:
    def after() -> Tensor:
        layer: Any = copy.deepcopy(unwrapped(model).get_submodule(projection.name)).double()
        layer.merge(adapter_names=[adapter])
        W = matrix_of(layer.get_base_layer())
        return W if projection.rows is None else take_rows(W, projection.rows)

    return DenseChange(place=position_of(model, projection), before=before, after=after)
