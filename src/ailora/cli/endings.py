"""How a command begins and ends: `~` in paths, bad input, a misfit, a full disk, a stop."""

from __future__ import annotations

import codecs
import errno
import functools
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from ailora.errors import UserError, chain_of, full_disk, is_out_of_memory
from ailora.files import unreadable, unwritable
from ailora.termination import Terminated
from ailora.versions import misfit_of

BAD_INPUT, STOPPED = 2, 130  # exit codes, as shells know them
NO_FOLDER = "the current folder is gone; change to one that exists"
# What stands for a character that the encoding lacks; "?" for any other.
_PLAIN = {"±": "+-", "·": "|", "…": ".", "−": "-", "–": "-", "—": "-", "×": "x", "’": "'"}


def one_line(command: Callable[..., None], kept: str = "") -> Callable[..., None]:
    """The command with paths expanded, whose stop or full disk ends in one line.

    Args:
        command: What Typer calls, with its options by name.
        kept: What a command that is stopped has left, and how to go on; ``{out}`` and others stand
            for its options.
    """

    def say(what: str, options: dict[str, Any]) -> None:
        words = "; ".join(filter(None, (what, kept))).format(**options)
        sys.stderr.write(f"ailora: {harmless(words)}\n")

    @functools.wraps(command)
    def called(*args: Any, **options: Any) -> None:
        options = {name: _expanded(value) for name, value in options.items()}
        try:
            command(*args, **options)
        except KeyboardInterrupt:
            say("stopped", options)
            raise typer.Exit(STOPPED) from None
        except Terminated:
            say("terminated", options)
            raise
        except UserError:
            raise
        except ImportError as error:
            misfit = named(error, options) or misfit_of(error)
            if misfit is None:
                raise
            raise misfit from error
        except BaseException as error:
            known = named(error, options)
            if known is None:
                raise
            raise known from error

    return called


def named(error: BaseException, options: dict[str, Any]) -> UserError | None:
    """What to say of the disk, of refused files, of lacking memory and of libraries in Rust."""
    if type(error).__name__ == "PanicException":  # as tokenizers has it
        return UserError(
            f"a library broke off: {' '.join(str(error).split())}; see whether the model's files, "
            "such as tokenizer.json, are whole and from whom you think"
        )
    if not isinstance(error, Exception):
        return None
    full = full_disk(error)
    path = getattr(full, "filename", None) or options.get("out") or "its files"
    if full is not None:
        return UserError(
            f"cannot write {path}: No space left on device; free some space and run it again"
        )
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return unwritable(Path(error.filename or path), error)
    if isinstance(error, FileNotFoundError) and not has_folder():
        return UserError(NO_FOLDER)
    if isinstance(error, OSError) and error.filename is not None:
        return unreadable(error)
    if any(map(is_out_of_memory, chain_of(error))):
        return UserError(
            "out of memory; end other programs, or give it less at once (smaller batches, a "
            "smaller model), and run it again"
        )
    return None


def has_folder() -> bool:
    """Whether the current folder is still there."""
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


# What moves the cursor, sets a title, clears the screen or turns the direction of reading.
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def harmless(words: str) -> str:
    """A text with question marks for what a terminal would obey: strangers' names are in it."""
    return _COMMANDS.sub("?", words)


def whole_output() -> None:
    """Let what the terminal's or file's encoding lacks be replaced, rather than end the command."""
    codecs.register_error("ailora-plain", _in_plain)
    if _is_file(sys.stdout):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(1, "w", closefd=False)),
            encoding=sys.stdout.encoding,
            line_buffering=bool(
                sys.stdout.line_buffering or getattr(sys.stdout, "write_through", False)
            ),
        )
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="ailora-plain")


class _Output(io.FileIO):
    """Standard output whose errors name it, as those of other files do."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:  # which Typer and rich know, and end quietly
                error.filename = "the output"
            raise


def _is_file(stream: Any) -> bool:
    """Whether it is the process's own standard output, and nobody's in its place."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is no buffer between
    return isinstance(raw, io.FileIO) and raw.fileno() == 1


def written_out() -> None:
    """Write what was printed and waits for it, or give it up: Python would try again as it ends.

    Raises:
        OSError: It cannot be written; a pipe that was closed is no error, its reader has enough.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        if error.errno != errno.EPIPE:
            raise


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in lost), error.end


def end_badly(error: UserError) -> None:
    """Say in one line what was wrong, and exit."""
    sys.stderr.write(f"ailora: {harmless(' '.join(str(error).split()))}\n")
    sys.exit(BAD_INPUT)


def _expanded(value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    try:
        return value.expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{value}: there is no such user's folder; write the path in full"
        ) from error
