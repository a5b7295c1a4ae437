"""SIGTERM and SIGHUP, which ask a process to end: an exception, a request to stop soon, or later.

Schedulers send SIGTERM before they kill; a terminal that is closed, or a connection that breaks,
sends SIGHUP. Standard library only. Handlers that a program has set itself are left alone, also
``nohup``'s, and so are threads other than the main one, which cannot have any.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ASKING = tuple(getattr(signal, one) for one in ("SIGTERM", "SIGHUP") if hasattr(signal, one))
_ENDS = 128  # plus the signal's number: the exit code, as shells know it
_OUTPUTS = (1, 2)
_SOON = 0.05  # seconds


class Terminated(SystemExit):
    """The process was asked to end; uncaught, it ends with no traceback and code 143 (129)."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(_ENDS + number)
        self.number = number


class Request:
    """Whether a signal has come since, and which; see `on_request`."""

    asked = False
    number: int = signal.SIGTERM


@contextmanager
def at_once() -> Iterator[None]:
    """Within it a signal raises `Terminated`, so that what is half done is cleaned up."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        _leave_terminal(number)
        raise Terminated(number)

    with _handled_by(stop), _not_lost():
        yield


@contextmanager
def on_request() -> Iterator[Request]:
    """Within it a signal is noted, for who can end in order; a second one raises `Terminated`.

    One that was noted and not acted on raises `Terminated` at the end of the block.
    """
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        _leave_terminal(number)
        if request.asked:
            raise Terminated(number)
        request.asked, request.number = True, number

    with _handled_by(note), _not_lost():
        yield request
    if request.asked:
        raise Terminated(request.number)


@contextmanager
def deferred() -> Iterator[None]:
    """Within it the signals and Ctrl-C wait for its end: for steps that must not be half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (*ASKING, signal.SIGINT)}
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
    """Within it the handler has the signals whose handler is the default, or one of this file."""
    before = {number: signal.getsignal(number) for number in ASKING}
    ours = [
        number
        for number, one in before.items()
        if one == signal.SIG_DFL or getattr(one, "__module__", None) == __name__
    ]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def _not_lost() -> Iterator[None]:
    """Within it a signal that was raised in a ``__del__``, where Python drops it, comes again."""
    before = sys.unraisablehook

    def again(dropped: sys.UnraisableHookArgs) -> None:
        error = dropped.exc_value
        if not isinstance(error, Terminated | KeyboardInterrupt):
            before(dropped)
            return
        number = error.number if isinstance(error, Terminated) else signal.SIGINT
        later = threading.Timer(_SOON, os.kill, (os.getpid(), number))
        later.daemon = True
        later.start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _leave_terminal(number: int) -> None:
    """After SIGHUP the terminal may be gone: what is still printed must not end what is saved."""
    if number == signal.SIGTERM:
        return
    for output in _OUTPUTS:
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, output)
                os.close(nowhere)
