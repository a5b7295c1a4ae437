"""Singular triplets from either end of a weight's spectrum, without a full SVD where possible."""

from ailora.linalg.batch import decompose_batch
from ailora.linalg.decomposition import decompose
from ailora.linalg.energy import decompose_share
from ailora.linalg.triplets import Check, LowRank, Part, Triplets, subspace_distance

SOLVER_VERSION = 7
"""Raised whenever `decompose` may give other bits for the same call: keys caches of its results."""

__all__ = [
    "SOLVER_VERSION",
    "Check",
    "LowRank",
    "Part",
    "Triplets",
    "decompose",
    "decompose_batch",
    "decompose_share",
    "subspace_distance",
]
