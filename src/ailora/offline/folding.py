"""W <- W - s B A for the stored weights that have a start (eqs. 3 and 5), and what that costs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ailora.adapters.selection import Chosen, Selection
from ailora.adapters.starts import Factors
from ailora.checkpoints import Structure
from ailora.checkpoints.change import Added, as_stored, rounding_loss
from ailora.checkpoints.header import FLOATS, Header
from ailora.checkpoints.source import opened
from ailora.checkpoints.stream import NewShard, float_name
from ailora.linalg.lowrank import LowRank
from ailora.roles import put_rows
from ailora.roles.weights import shape_of

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
        factors: Of every chosen projection, by its key.
        dtype: Of the new weights, ``"auto"`` or a name in `DTYPES`.
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
        own = FLOATS[entry_dtype]
        at_own = rounding_loss(change, stored, own)
        dtype, loss = own, at_own
        if self.dtype != "auto":
            dtype = DTYPES[self.dtype]
        elif at_own >= MOST_LOST:
            dtype = torch.promote_types(own, torch.float32)
        if dtype != own:
            loss = rounding_loss(change, stored, dtype)
        folded = Folded(
            tensor=name,
            roles="+".join(one.projection.role for one in chosen),
            stored=float_name(entry_dtype),
            dtype=str(dtype).removeprefix("torch."),
            loss_stored=at_own,
            loss=loss,
        )
        return Added(change=change, dtype=dtype), asdict(folded)

    def _change(self, chosen: Sequence[Chosen]) -> LowRank:
        """-s B A of all roles in one weight, as the weight lies in its file."""
        layer, module = chosen[0].projection.name, chosen[0].projection.module
        height = shape_of(module)[0]
        rows, columns = [], []
        for one in chosen:
            made = self.factors[one.projection.key]
            B = -one.scaling * made.B.double()
            rows.append(made.A.double())
            columns.append(
                B if one.projection.rows is None else put_rows(B, one.projection.rows, height)
            )
        change = LowRank(A=torch.cat(rows), B=torch.cat(columns, dim=1))
        return as_stored(change, transposed=self.structure.is_transposed(layer))


def report_loss(folded: Sequence[Folded]) -> None:
    """Warn where a wider dtype had to be taken, and what a trainer must not do then."""
    wider = [line for line in folded if line.dtype != line.stored]
    if wider and all(line.loss_stored >= MOST_LOST for line in wider):
        worst = max(wider, key=lambda line: line.loss_stored)
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
