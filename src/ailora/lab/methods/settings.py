"""What a method can be told, the same fields for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ailora.adapters import AILoRAConfig
from ailora.errors import UserError
from ailora.roles import RoleName

Base = Literal["anchored", "folded"]
LrMode = Literal["groups", "baked"]

# A few collated training batches, with labels, for starts that look at data; made anew each call.
Batches = Callable[[], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one method; each reads the fields that it has a use for.

    Attributes:
        rank: Of the low-rank methods but VeRA.
        alpha: Scale of their update is alpha / rank (rsLoRA: alpha / sqrt(rank)); None is the rank.
        dropout: On the input of their update, 0 <= dropout < 1.
        base: ``"anchored"`` or ``"folded"``, `ailora.AILoRAConfig`'s ``anchored``.
        lr_mode: ``"groups"``, or ``"baked"`` for ``bake_rates``.
        ranks: Roles to adapt and the rank of each, such as ``{"k": 8, "v": 8}``, for the methods
            that start by role; roles that the method says nothing of start as LoRA does. None: q
            and v at ``rank``.
        bottleneck: Width of a Houlsby adapter (64 in section 5.2 of the paper).
        vera_rank: Of VeRA's shared matrices (256 there).
        seed: Of VeRA's shared matrices; other random starts follow torch's own generator.
        task_type: PEFT's (``"SEQ_CLS"``, ...).

    Raises:
        UserError: A value out of its range, named.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    base: Base = "anchored"
    lr_mode: LrMode = "groups"
    ranks: Mapping[RoleName, int] | None = None
    bottleneck: int = 64
    vera_rank: int = 256
    seed: int = 0
    task_type: str | None = None

    def __post_init__(self) -> None:
        for name in ("bottleneck", "vera_rank"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name}={value!r}: must be an integer of at least 1")
        for name, allowed in (("base", get_args(Base)), ("lr_mode", get_args(LrMode))):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r}: must be {' or '.join(allowed)}")
        AILoRAConfig(r=self.rank, **self.started())  # checks the rest

    @property
    def lora_alpha(self) -> float:
        """PEFT's ``lora_alpha``."""
        return float(self.rank if self.alpha is None else self.alpha)

    def started(self) -> dict[str, Any]:
        """The fields of `ailora.AILoRAConfig` beside the rank and the roles."""
        return {
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "anchored": self.base == "anchored",
            "bake_rates": self.lr_mode == "baked",
            "task_type": self.task_type,
        }
