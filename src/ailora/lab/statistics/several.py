"""Several tests at once."""

from __future__ import annotations

from collections.abc import Mapping

from ailora.errors import UserError


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number, in Holm's way (1979).

    Sorted upwards, the i-th of m (from 0) becomes the largest of (m - j) p_j over j <= i, at
    most 1. Rejecting where the result is at most a level keeps the chance of any false rejection
    below that level, whatever the tests have to do with each other.

    Args:
        p_values: By task, say; each in [0, 1].

    Returns:
        By the same names, in the order given.

    Raises:
        UserError: A value outside [0, 1].
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise UserError(f"{name}: p = {p} is not between 0 and 1")
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}
