"""How long a stranger's regular expression may take: Python's engine tries every way to match.

``(.+)+!`` has 2^n ways to fail at a name of n characters, so it never ends. PEFT hands the patterns
of an adapter's config to that engine, which nothing can stop; so they are looked at before.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

_LONGEST = 64  # characters of a module's name, about
_MOST = 28.0  # powers of two: seconds at the worst; four ``.*`` with words between have 24

# The parser of `re`, whose tree is what the engine runs.
_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")


def is_slow(pattern: str) -> bool:
    """Whether there may be so many ways to match a name that to try them all takes minutes.

    Raises:
        re.error, RecursionError, OverflowError: as `re.compile`.
    """
    return _ways(_parser.parse(pattern)) > _MOST


def _ways(tree: Iterable[Any]) -> float:
    """The power of two of the number of ways to go through a sequence, at most."""
    return sum(_ways_of(str(kind), about) for kind, about in tree)


def _ways_of(kind: str, about: Any) -> float:
    if kind.endswith("_REPEAT"):  # greedy, lazy or possessive
        least, most, inner = about
        times = min(int(most), _LONGEST)
        return math.log2(max(times - int(least), 0) + 1) + max(times, int(least)) * _ways(inner)
    if kind == "BRANCH":
        return _ways_of_branches(about[1])
    if kind == "SUBPATTERN":
        return _ways(about[-1])
    if kind in ("ASSERT", "ASSERT_NOT"):
        return _ways(about[1])
    if kind == "ATOMIC_GROUP":
        return _ways(about)
    if kind == "GROUPREF_EXISTS":
        return 1 + sum(_ways(branch) for branch in about[1:] if branch is not None)
    return 0.0


def _ways_of_branches(branches: Iterable[Any]) -> float:
    """Of branches that begin with different letters, only one can match."""
    trees = [list(branch) for branch in branches]
    first = [tree[0][1] if tree and str(tree[0][0]) == "LITERAL" else None for tree in trees]
    counts = Counter(first)
    anything = counts.pop(None, 0)
    return math.log2(anything + max(counts.values(), default=0)) + max(map(_ways, trees))
