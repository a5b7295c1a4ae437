"""Anchored factors: a spectral start that leaves the base weight untouched.

With B0, A0 the starting factors (the *anchor*, frozen) and D_B = B - B0, D_A = A - A0 the
trainable differences, both zero at the start,

    y = W x + s (B A - B0 A0) x = W x + s [D_B, B0] [A0 + D_A; D_A] x

which is the paper's W = W_r + B A (eqs. 4 and 6) with the same gradients, and a plain LoRA of
rank 2r on W. Each module below stands where a stock PEFT layer has an ``nn.Linear``: it trains
one r-row (or r-column) difference, shows the rank-2r matrix as ``weight``, and saves that
under the stock name. Differences rather than [A; A0], [B, -B0] are stored because the latter
cancel when a file is cast to 16 bits (up to 41 % of the update lost in bf16, here 0.2 %).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from ailora.adapters.factors.sharding import beside, fill, whole


class Factor(nn.Module):
    """What stands in a stock PEFT layer where ``lora_A`` or ``lora_B`` has an ``nn.Linear``."""

    bias = None  # PEFT asks for it
    part_of_fused = False  # then the fused factor saves and loads for it

    @property
    def weight(self) -> Tensor:
        """The stock LoRA matrix, made anew at each look: writes to it are lost."""
        raise NotImplementedError

    @property
    def stock_shape(self) -> tuple[int, int]:
        """Shape of ``weight``, told without gathering a sharded parameter."""
        raise NotImplementedError

    def restore(self, weight: Tensor) -> None:
        """Take the parameters from a stock matrix, in place."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Apply ``weight`` as ``nn.Linear`` would."""
        return functional.linear(x, self.weight)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        if not self.part_of_fused:
            weight = self.weight if keep_vars else self.weight.detach()
            destination[prefix + "weight"] = beside(weight, next(self.parameters()))

    def named_buffers(self, prefix: str = "", *args: Any, **kwargs: Any) -> Iterator[Any]:
        """As in torch; where FSDP2 shards the factor, its ``weight`` too.

        torch's distributed checkpoints load nothing but what a module names here.
        """
        yield from super().named_buffers(prefix, *args, **kwargs)
        if isinstance(next(self.parameters()), DTensor) and not self.part_of_fused:
            yield f"{prefix}.weight".lstrip("."), self.weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if self.part_of_fused:
            return
        key = prefix + "weight"
        loaded, shape = state_dict.get(key), self.stock_shape
        if loaded is None:
            missing_keys.append(key)
        elif tuple(loaded.shape) != shape:
            error_msgs.append(
                f"size mismatch for {key}: the file has {tuple(loaded.shape)}, "
                f"this factor needs {shape}"
            )
        else:
            if next(self.parameters()).is_meta:
                self.to_empty(device=loaded.device)
            self.restore(whole(loaded))


class AnchoredFactor(Factor):
    """One factor: a frozen ``anchor``, a trainable ``delta`` and the rank-2r ``weight`` they make.

    Args:
        anchor: A0 (r x n) or B0 (m x r), in the dtype and on the device to train in.
        lr_ratio: This role's learning rate as a multiple of the optimiser's.
    """

    anchor: Tensor

    def __init__(self, anchor: Tensor, lr_ratio: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("anchor", anchor.detach().clone(), persistent=False)
        self.delta = nn.Parameter(torch.zeros_like(self.anchor))
        self.lr_ratio = lr_ratio

    @torch.no_grad()
    def set_delta(self, delta: Tensor) -> None:
        """Set the trainable difference, in place."""
        fill(self.delta, delta)

    def extra_repr(self) -> str:
        """Shape of the anchor and rate, for ``print(model)``."""
        return f"anchor={tuple(self.anchor.shape)}, lr_ratio={self.lr_ratio:g}"


class AnchoredA(AnchoredFactor):
    """lora_A: trains D_A (r x n), shows A' = [A0 + D_A; D_A] (2r x n)."""

    @property
    def weight(self) -> Tensor:
        """A' = [A0 + D_A; D_A], shape (2r, n)."""
        delta = whole(self.delta)
        return torch.cat([self.anchor + delta, delta])

    @property
    def stock_shape(self) -> tuple[int, int]:
        """(2r, n)."""
        rank, columns = self.anchor.shape
        return 2 * rank, columns

    @torch.no_grad()
    def restore(self, weight: Tensor) -> None:
        """Take D_A from the lower half; keep the anchor if the upper half agrees with it.

        (A0 + D_A) - D_A is off from A0 by a rounding, so an anchor that already explains the
        matrix exactly is the better one.
        """
        upper, lower = weight.to(self.anchor).chunk(2)
        fill(self.delta, lower)
        if not torch.equal(self.anchor + lower, upper):
            self.anchor.copy_(upper - lower)


class AnchoredB(AnchoredFactor):
    """lora_B: trains D_B (m x r), shows B' = [D_B, B0] (m x 2r)."""

    @property
    def weight(self) -> Tensor:
        """B' = [D_B, B0], shape (m, 2r)."""
        return torch.cat([whole(self.delta), self.anchor], dim=1)

    @property
    def stock_shape(self) -> tuple[int, int]:
        """(m, 2r)."""
        rows, rank = self.anchor.shape
        return rows, 2 * rank

    @torch.no_grad()
    def restore(self, weight: Tensor) -> None:
        """Take D_B from the left half and B0 from the right: both are stored as they are."""
        left, right = weight.to(self.anchor).chunk(2, dim=1)
        fill(self.delta, left)
        self.anchor.copy_(right)
