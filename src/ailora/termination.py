"""SIGTERM, which schedulers send before they kill: an exception, a request to stop soon, or later.

Standard library only. Handlers that a program has set itself are left alone, and so are threads
other than the main one, which cannot have any.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

EXIT_CODE = 128 + signal.SIGTERM  # 143, as shells know it


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM); uncaught, it ends with code 143 and no traceback."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class Request:
    """Whether SIGTERM has come since; see `on_request`."""

    asked = False


@contextmanager
def at_once() -> Iterator[None]:
    """Within it SIGTERM raises `Terminated`, so that what is half done is cleaned up."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    with _handled_by(stop):
        yield


@contextmanager
def on_request() -> Iterator[Request]:
    """Within it SIGTERM is noted, for who can end in order; a second one raises `Terminated`.

    One that was noted and not acted on raises `Terminated` at the end of the block.
    """
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        if request.asked:
            raise Terminated
        request.asked = True

    with _handled_by(note):
        yield request
    if request.asked:
        raise Terminated


@contextmanager
def deferred() -> Iterator[None]:
    """Within it SIGTERM and Ctrl-C wait for its end: for a few steps that must not be half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # One that is ignored, or was not set by Python (None), stays.
    handlers = {n: one for n, one in handlers.items() if one not in (None, signal.SIG_IGN)}
    came: list[int] = []
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def kept() -> Iterator[None]:
    """Whatever handler of SIGTERM a library sets within it, the one before is back at its end."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    ours = before == signal.SIG_DFL or getattr(before, "__module__", None) == __name__
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
