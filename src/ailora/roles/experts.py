"""Experts of a mixture as one parameter: a stack (E, ...) of matrices, and the rows of each role.

transformers 5 keeps the experts of most mixtures so: ``gate_up_proj`` holds gate and up of every
expert, ``down_proj`` down. An expert computes down(act(gate x) * up x) as a dense block does. Which
rows of ``gate_up_proj`` are gate's no name tells: halves unless a class says otherwise, and known
only where the class gates as transformers' own default does, or is listed here. The rest has no
roles. ``tests/adapters/test_experts.py`` tries them by behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ailora.errors import UserError
from ailora.roles.architectures import known_class
from ailora.roles.projection import Projection, RoleName, Rows, count_rows, is_in_pieces, take_rows

# Classes whose gate and up alternate row by row, in y = W x.
_ALTERNATE = frozenset({"modeling_gpt_oss.GptOssExperts"})


@dataclass(frozen=True, kw_only=True)
class ExpertProjection(Projection):
    """The same role's matrix of every expert, or of one.

    Attributes:
        name: Dotted path of the parameter, as PEFT's ``target_parameters`` names it.
        module: The module that has it.
        parameter: Its name there.
        transposed: Whether the parameter is (E, n, m) and not (E, m, n).
        expert: The number of one expert; None for all of them.
    """

    parameter: str
    transposed: bool
    expert: int | None = None

    @property
    def key(self) -> str:
        """The parameter's path, in a fused one with the role, of one expert with its number."""
        return super().key if self.expert is None else f"{super().key}.{self.expert}"

    @property
    def count(self) -> int:
        """E, how many experts there are."""
        return int(self._stored().shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of this role's part of each expert's W in y = W x."""
        m, n = self._stored().shape[1:][:: -1 if self.transposed else 1]
        return m if self.rows is None else count_rows(self.rows), n

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the parameter."""
        return self._stored().dtype

    def weight(self) -> Tensor:
        """This role's part of every expert's W, (E, m, n), or of one's, (m, n); detached."""
        W = self._stored().detach()
        W = W.mT if self.transposed else W
        if self.rows is not None:
            W = take_rows(W.transpose(0, 1), self.rows).transpose(0, 1)
        return W if self.expert is None else W[self.expert]

    def set_weight(self, weight: Tensor) -> None:
        """Refuse: no start is ever folded into experts.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.key}: the weights of experts are not written")

    def each(self) -> list[ExpertProjection]:
        """The experts one by one."""
        return [replace(self, expert=number) for number in range(self.count)]

    def _stored(self) -> Tensor:
        parameter: Tensor = getattr(self.module, self.parameter)
        return parameter


def check_stack(module: nn.Module, parameter: str, name: str) -> None:
    """Raise a UserError unless a parameter is a stack of experts whose values can be read."""
    stored: Tensor = getattr(module, parameter)
    what = "has values that cannot be read"
    if is_in_pieces(stored):
        what = "lies in pieces on several processes (DeepSpeed ZeRO-3)"
    elif stored.is_meta:
        what = "is on the meta device and has no values"
    elif not stored.is_floating_point() or stored.dtype.itemsize < 2:
        what = f"is quantised ({str(stored.dtype).rpartition('.')[2]})"
    elif stored.ndim == 3 and stored.shape[0] > 1:
        return
    else:
        shape = " x ".join(map(str, stored.shape))
        what = f"is {shape}, where a stack of experts is (experts, rows, columns)"
    raise UserError(
        f"target_parameters: {name} {what}, so it has no start of its own; leave it out, or give "
        "it no role (plain LoRA)"
    )


def roles_in(module: nn.Module, parameter: str) -> dict[RoleName, Rows | None] | None:
    """The roles of a parameter of experts with the rows of each; None where that is not known.

    Rows are those of an expert's W in y = W x, however the parameter is stored.
    """
    gated = getattr(module, "has_gate", None)
    names = ("gate_up_proj" if gated else "up_proj", "down_proj")
    first, down = (getattr(module, name, None) for name in names)
    if gated is None or not isinstance(first, Tensor) or not isinstance(down, Tensor):
        return None
    if first.ndim != 3 or down.ndim != 3 or parameter not in names:
        return None
    transposed = bool(getattr(module, "is_transposed", False))
    rows = first.shape[2 if transposed else 1]
    middle = down.shape[1 if transposed else 2]
    if rows != (2 * middle if gated else middle):
        return None
    if parameter == "down_proj":
        return {"down": None}
    return _first(module, middle) if gated else {"up": None}


def _first(module: nn.Module, middle: int) -> dict[RoleName, Rows | None] | None:
    if known_class(module, _ALTERNATE) is not None:
        return {
            "gate": tuple((row, row + 1) for row in range(0, 2 * middle, 2)),
            "up": tuple((row, row + 1) for row in range(1, 2 * middle, 2)),
        }
    gate = getattr(type(module), "_apply_gate", None)
    is_default = getattr(gate, "__name__", None) == "_default_apply_gate"
    if not (is_default and getattr(module, "is_concatenated", True)):  # transformers 5.6 has none
        return None
    return {"gate": ((0, middle),), "up": ((middle, 2 * middle),)}
