"""Singular triplets from either end of a weight's spectrum, without a full SVD where possible."""

from ailora.linalg.choose import decompose
from ailora.linalg.subspace import subspace_distance
from ailora.linalg.triplets import Check, Part, Triplets

SOLVER_VERSION = 4
"""Raised whenever `decompose` may give other bits for the same call: keys caches of its results."""

__all__ = ["SOLVER_VERSION", "Check", "Part", "Triplets", "decompose", "subspace_distance"]
