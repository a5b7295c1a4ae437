"""How far a long reading of data is, for whoever shows it.

Reading goes through many functions, a user's own ``load`` among them, so that who watches is not
handed down from one to the next but said once around all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
# Called with what is done, how much of it, and of how much; the last two in bytes or rows.
Watcher = Callable[[str, int, int], None]

_EVERY = 1000
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Have ``watcher`` told how far what is done inside is."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def tell(doing: str, done: int, total: int) -> None:
    """Tell the watcher, if there is one."""
    if watcher := _watcher.get():
        watcher(doing, done, total)


def watched(items: Iterable[T], doing: str, total: int) -> Iterator[T]:
    """Yield the items, and tell now and then how many there were."""
    for number, item in enumerate(items):
        if number % _EVERY == 0:
            tell(doing, number, total)
        yield item
    tell(doing, total, total)
