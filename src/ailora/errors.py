"""The error that is the user's to mend, what its message offers; lack of memory, a full disk."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches

__all__ = ["UserError"]  # the hints are for this package's own messages


class UserError(ValueError):
    """Bad input: one line that says what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2; in Python it is an
    ordinary ``ValueError``. Line ends, which names in strangers' files may hold, are written out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message.replace("\r", "\\r").replace("\n", "\\n"))


# What it may raise to read strangers' JSON as something of ours; a UserError is among them.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)

# What libraries say where memory is lacking; the last ones are C++'s, oneDNN's, the loader's, and
# Python's where an extension could not even say that.
_MEMORY_WORDS = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
    *("bad_alloc", "could not create a primitive", "failed to map segment"),
    "error return without exception set",
)

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What libraries say of it; the last two are torch's.
_FULL_WORDS = (
    *("no space left on device", "os error 28", "disk quota exceeded"),
    *("failed writing file", "unexpected pos"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is lacking: Python's, torch's or the system's.

    torch's own allocator for the processor raises a plain RuntimeError.
    """
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in _MEMORY_WORDS)


def full_disk(error: BaseException) -> BaseException | None:
    """The error of a full disk, which libraries wrap in others of their own; None if it is none."""
    for one in chain_of(error):
        words = str(one).lower()
        if getattr(one, "errno", None) in _FULL or any(part in words for part in _FULL_WORDS):
            return one
    return None


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def nearest(
    name: str, known: Iterable[str], *, most: int = 1, shown: Callable[[str], str] = repr
) -> str:
    """Ask whether a known name was meant; empty where none is spelled much like the given one.

    >>> nearest("rnk", ["rank", "seed"])
    "did you mean 'rank'?"

    Args:
        name: The name that was given.
        known: The names that would have been right.
        most: How many of them to offer.
        shown: How the message writes one.
    """
    near = get_close_matches(name, list(known), n=most)
    return f"did you mean {', '.join(map(shown, near))}?" if near else ""


def instead(name: str, known: Iterable[str]) -> str:
    """Say which names are known, of a few, after the nearest one if there is any.

    >>> instead("acuracy", ["accuracy", "f1"])
    "did you mean 'accuracy'? there are accuracy, f1"
    """
    known = list(known)
    return f"{nearest(name, known)} there are {', '.join(known)}".lstrip()
