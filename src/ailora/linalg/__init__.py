"""Singular triplets from either end of a weight's spectrum, without a full SVD where possible."""

from ailora.linalg.choose import decompose
from ailora.linalg.subspace import subspace_distance
from ailora.linalg.triplets import Check, Triplets

__all__ = ["Check", "Triplets", "decompose", "subspace_distance"]
