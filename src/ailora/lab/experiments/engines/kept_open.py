"""What engines keep from one call to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager


class KeptOpen(ABC):
    """An engine that keeps something for its runs until the outermost block of `open` ends."""

    _opened = 0  # blocks that it is in

    @contextmanager
    def open(self) -> Iterator[None]:
        """As `Engine.open`."""
        self._opened += 1
        try:
            yield
        finally:
            self._opened -= 1
            if not self._opened:
                self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""
