"""What training did to each projection: norms, effective ranks, overlaps and intruders.

`layer_rows` has all of them, one row per projection; the paper's figure 1 (c, d) shows the norms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ailora.errors import UserError
from ailora.lab.analysis.changes import Change
from ailora.lab.analysis.similarity import Similarity, StartOverlap, similarities, start_overlaps
from ailora.linalg import decompose
from ailora.roles.spectra import effective_rank
from ailora.roles.walk import Position, spread


@dataclass(frozen=True, kw_only=True)
class WeightNorm(Position):
    """How far one projection moved.

    Attributes:
        norm: ||dW||_F.
        relative: ||dW||_F / ||W||_F of the pre-trained W; infinite where W is zero and dW is not.
    """

    norm: float
    relative: float


@dataclass(frozen=True, kw_only=True)
class Intruders(Position):
    """The leading singular vectors of W + dW of one projection, beside those of W.

    Attributes:
        cosines: For each of the first k left singular vectors of W + dW, the largest |cos| with
            any left singular vector of W, in order of falling singular value.
        epsilon: A vector whose cosine is below is an intruder.
    """

    cosines: tuple[float, ...]
    epsilon: float

    @property
    def count(self) -> int:
        """Number of intruders among the k."""
        return sum(cosine < self.epsilon for cosine in self.cosines)


@dataclass(frozen=True, kw_only=True)
class LayerRow(Position):
    """One projection; what was not asked for, or has no meaning for the method, is None.

    Attributes:
        norm: ||dW||_F.
        relative: ||dW||_F / ||W||_F.
        effective_rank: Effective rank of dW, `ailora.roles.spectra.effective_rank`.
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
        changes: What a run changed, or the difference of two models.
        full: Changes of full fine-tuning; without them there is no similarity.
        with_intruders: Whether to look for intruder dimensions, a full SVD per weight.
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


@torch.no_grad()
def weight_norms(changes: Iterable[Change]) -> list[WeightNorm]:
    """||dW||_F and ||dW||_F / ||W||_F of every change, in their order.

    Args:
        changes: From `adapter_changes` (dW = s (B A - B0 A0), by QR of its factors),
            `changes_between` or `ailora.lab.analysis.runs.read_run`.
    """
    return [_norm(change) for change in changes]


@torch.no_grad()
def intruders(changes: Iterable[Change], *, k: int = 10, epsilon: float = 0.5) -> list[Intruders]:
    """Intruder dimensions of each tuned weight (Shuttleworth et al. 2024, arXiv 2410.21228).

    All left singular vectors of W are needed, so this is a full SVD per weight: a second at
    1024 x 1024, a minute or more at 4096 x 4096. Where singular values of W coincide its vectors
    are not unique, and a mere rotation among them can look like an intruder.

    Args:
        changes: See `ailora.lab.analysis.changes`.
        k: How many leading vectors of W + dW are looked at, at most min(m, n).
        epsilon: Threshold for the cosine, in (0, 1].

    Raises:
        UserError: k or epsilon out of range.
    """
    if k < 1 or not 0 < epsilon <= 1:
        raise UserError(f"intruders: k={k}, epsilon={epsilon}: needs k >= 1 and 0 < epsilon <= 1")
    return [
        Intruders(
            **spread(change.place),
            cosines=tuple(nearest_cosines(W, W + change.matrix(), k).tolist()),
            epsilon=epsilon,
        )
        for change in changes
        for W in (change.weight(),)
    ]


def nearest_cosines(before: Tensor, after: Tensor, k: int) -> Tensor:
    """max_i |u'_j . u_i| for the first k left singular vectors u'_j of a tuned weight.

    Args:
        before: W, (m, n) float64.
        after: W + dW, (m, n) float64.
        k: At most min(m, n) are taken.

    Returns:
        (k,) float64, between 0 and 1.
    """
    U: Tensor = torch.linalg.svd(before, full_matrices=False).U
    new = decompose(after, min(k, *after.shape), "principal").U.to(U)
    return (new.T @ U).abs().amax(dim=1).clamp(max=1.0)


def _norm(change: Change) -> WeightNorm:
    norm, whole = change.norm(), float(torch.linalg.norm(change.weight()))
    relative = norm / whole if whole else (float("inf") if norm else 0.0)
    return WeightNorm(**spread(change.place), norm=norm, relative=relative)
