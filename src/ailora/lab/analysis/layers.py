"""All that is measured of a change, a row for each projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ailora.lab.analysis.changes import Change
from ailora.lab.analysis.intruders import Intruders, intruders
from ailora.lab.analysis.norms import weight_norms
from ailora.lab.analysis.similarity import Similarity, StartOverlap, similarities, start_overlaps
from ailora.roles.position import Position, spread
from ailora.roles.spectra import effective_rank


@dataclass(frozen=True, kw_only=True)
class LayerRow(Position):
    """One projection; what was not asked for, or has no meaning for the method, is None.

    Attributes:
        norm: ||dW||_F.
        relative: ||dW||_F / ||W||_F.
        effective_rank: Of dW, `ailora.roles.spectra.effective_rank`.
        start: `StartOverlap`.
        factors: `Similarity` of B A, start included, with full fine-tuning's dW.
        update: `Similarity` of dW with it.
        intruders: `Intruders` among the first 10 directions of W + dW.
    """

    norm: float
    relative: float
    effective_rank: float
    start: StartOverlap | None = None
    factors: Similarity | None = None
    update: Similarity | None = None
    intruders: Intruders | None = None


@torch.no_grad()
def layer_rows(
    changes: Sequence[Change],
    full: Sequence[Change] | None = None,
    *,
    with_intruders: bool = True,
) -> list[LayerRow]:
    """Norms, effective rank and overlaps of every change, in their order.

    Args:
        changes: Of a run or between two models.
        full: Those of full fine-tuning; without them there is no similarity.
        with_intruders: Whether to look for intruder dimensions, a full SVD a weight.
    """
    reference = full or ()
    start = {row.name: row for row in start_overlaps(changes)}
    factors = {row.name: row for row in similarities(changes, reference, of="factors")}
    update = {row.name: row for row in similarities(changes, reference, of="update")}
    found = {row.name: row for row in intruders(changes)} if with_intruders else {}
    return [
        LayerRow(
            **spread(norm),
            norm=norm.norm,
            relative=norm.relative,
            effective_rank=effective_rank(change.values()),
            start=start.get(norm.name),
            factors=factors.get(norm.name),
            update=update.get(norm.name),
            intruders=found.get(norm.name),
        )
        for change, norm in zip(changes, weight_norms(changes), strict=True)
    ]


def flat(row: LayerRow) -> dict[str, str | int | float | None]:
    """A row for a table of one level: names, numbers and None."""
    found: dict[str, str | int | float | None] = {
        **spread(row),
        "norm": row.norm,
        "relative": row.relative,
        "effective_rank": row.effective_rank,
    }
    for name, part in (("start", row.start), ("factors", row.factors), ("update", row.update)):
        found[f"{name}_left"] = part.left if part else None
        found[f"{name}_right"] = part.right if part else None
    similarity = row.factors
    found["rank"] = similarity.rank if similarity else None
    found["random_left"] = similarity.random_left if similarity else None
    found["random_right"] = similarity.random_right if similarity else None
    found["intruders"] = row.intruders.count if row.intruders else None
    found["least_cosine"] = min(row.intruders.cosines) if row.intruders else None
    return found
