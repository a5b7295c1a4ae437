"""The weights of a residual model: stored W <- W - s B A (eqs. 3 and 5), and what that costs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ailora.adapters.factors import joined
from ailora.adapters.selection import Chosen, Selection
from ailora.adapters.starts import Factors
from ailora.checkpoints import Structure
from ailora.checkpoints.checkpoint import opened
from ailora.checkpoints.header import FLOATS, Header, float_name
from ailora.checkpoints.writer import Added, NewShard, as_stored, rounding_loss
from ailora.linalg import LowRank
from ailora.roles.projection import shape_of

logger = logging.getLogger(__name__)

MOST_LOST = 0.01
DTYPES = {float_name(stored): dtype for stored, dtype in FLOATS.items()}


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What folding a start into one stored tensor cost.

    Attributes:
        tensor: Its name in the checkpoint.
        roles: The roles that were taken from it, ``"q"``, or ``"q+v"`` of a fused layer.
        stored: Data type it had.
        dtype: Data type it has in the residual model.
        loss_stored: ||W - (W_r + s B A)||_F / ||s B A||_F with W_r rounded to ``stored``.
        loss: The same with W_r as written.
    """

    tensor: str
    roles: str
    stored: str
    dtype: str
    loss_stored: float
    loss: float


class Folding:
    """The new weights, shard by shard.

    Args:
        structure: The checkpoint.
        selection: What is adapted; starts that are zero change nothing.
        factors: Starting factors of every chosen projection, by its key.
        dtype: Data type of the new weights, ``"auto"`` or a name in `DTYPES`.
    """

    def __init__(
        self,
        structure: Structure,
        selection: Selection,
        factors: Mapping[str, Factors],
        dtype: str,
    ) -> None:
        self.structure, self.factors, self.dtype = structure, factors, dtype
        self.chosen: dict[str, list[Chosen]] = {}
        for layer, chosen in selection.layers.items():
            spectral = [one for one in chosen if one.is_spectral]
            if spectral:
                self.chosen[structure.weight_of(layer)] = spectral

    def plan_shard(self, shard: Header) -> NewShard:
        """The new tensors of a shard, and what rounding them costs."""
        tensors, rows = {}, []
        with opened(shard.path) as file:
            for name in shard.entries:
                if name in self.chosen:
                    stored = file.get_slice(name)
                    tensors[name], row = self._fold(name, shard.entries[name].dtype, stored)
                    rows.append(row)
        return NewShard(tensors=tensors, rows=rows)

    def _fold(self, name: str, entry_dtype: str, stored: Any) -> tuple[Added, Mapping[str, Any]]:
        chosen = self.chosen[name]
        change = self._change(chosen)
        dtype = stored_dtype = FLOATS[entry_dtype]
        loss = loss_stored = rounding_loss(change, stored, stored_dtype)
        if self.dtype != "auto":
            dtype = DTYPES[self.dtype]
        elif loss_stored >= MOST_LOST:
            dtype = torch.promote_types(stored_dtype, torch.float32)
        if dtype != stored_dtype:
            loss = rounding_loss(change, stored, dtype)
        folded = Folded(
            tensor=name,
            roles="+".join(one.projection.role for one in chosen),
            stored=float_name(entry_dtype),
            dtype=str(dtype).removeprefix("torch."),
            loss_stored=loss_stored,
            loss=loss,
        )
        return Added(change=change, dtype=dtype), asdict(folded)

    def _change(self, chosen: Sequence[Chosen]) -> LowRank:
        """-s B A of all roles in one weight, as the weight lies in its file."""
        layer, module = chosen[0].projection.name, chosen[0].projection.module
        parts = []
        for one in chosen:
            made = self.factors[one.projection.key]
            parts.append((made.A.double(), -one.scaling * made.B.double()))
        A, B = joined(parts, [one.block for one in chosen], shape_of(module)[0])
        change = LowRank(A=A, B=B)
        return as_stored(change, transposed=self.structure.is_transposed(layer))


def report_loss(folded: Sequence[Folded]) -> None:
    """Warn where a wider dtype had to be taken, and what a trainer must not do then."""
    wider = [one for one in folded if one.dtype != one.stored]
    if wider and all(one.loss_stored >= MOST_LOST for one in wider):
        worst = max(wider, key=lambda one: one.loss_stored)
        logger.warning(
            "%d of %d changed tensors are kept in %s, since %s would lose up to %.0f %% of B A "
            "(%s): train the residual model in that dtype, as its config.json now says. A trainer "
            "that casts it to 16 bits loses that much; the anchored form loses nothing.",
            len(wider),
            len(folded),
            worst.dtype,
            worst.stored,
            100 * worst.loss_stored,
            worst.tensor,
        )
