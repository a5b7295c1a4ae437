"""How much disk the cache may take: ``AILORA_CACHE_LIMIT``."""

from __future__ import annotations

import os
import re

from ailora.errors import UserError

VARIABLE = "AILORA_CACHE_LIMIT"
DEFAULT = 4 * 10**9  # some 8000 entries of a 4096 x 4096 weight at rank 8
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)


def size_limit() -> int:
    """Bytes the cache may hold; 0 turns it off.

    ``AILORA_CACHE_LIMIT`` is a number of bytes or one with a unit: 2GB (10^9 each), 2GiB (2^30).
    Unset or empty: 4 GB.

    Raises:
        UserError: The variable holds something else.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return DEFAULT
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UserError(
            f"{VARIABLE}={text!r} is not a size; use bytes or a unit such as 2GB, "
            "or 0 to turn the cache off"
        )
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])
