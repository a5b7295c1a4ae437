"""What a projection is: one weight of an attention block and the role it plays there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import nn

RoleName = Literal["q", "k", "v", "o"]
AttentionKind = Literal["self", "cross"]
Stack = Literal["encoder", "decoder", ""]

ROLE_NAMES: tuple[RoleName, ...] = get_args(RoleName)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """One query, key, value or output projection of a model.

    Attributes:
        name: Dotted path of the module in the model, as PEFT's ``target_modules`` names it.
        role: ``"q"``, ``"k"``, ``"v"`` or ``"o"``.
        layer: Index of the layer in its stack, the number that PEFT's ``layers_to_transform``
            compares: the outermost one in ``name``. None where the path has no number, or where
            one module serves every layer (ALBERT).
        attention: ``"cross"`` where keys and values come from another sequence, else ``"self"``.
        stack: ``"encoder"`` or ``"decoder"`` where the path says so, else ``""``.
        module: The linear layer itself; inside a PEFT model, the base layer.
    """

    name: str
    role: RoleName
    layer: int | None
    attention: AttentionKind = "self"
    stack: Stack = ""
    module: nn.Linear = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) = (out_features, in_features) of the paper's W in y = W x."""
        rows, columns = self.module.weight.shape
        return rows, columns

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weight."""
        return self.module.weight.dtype
