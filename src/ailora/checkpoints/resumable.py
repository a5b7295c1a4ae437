"""A long run that can be interrupted: its plan, and a record of every finished piece.

The plan (what was asked, for which files) lies beside the results and stays, with the run's report
once it is finished. Records lie in a hidden folder until then. A record is written before its piece
appears under its name, so a piece with both is finished, and any other is made again from the
start. A small folder appears whole or not at all: `whole_folder`. Of two processes with one folder
for their results, one goes on: `alone_in_out`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ailora.checkpoints.checkpoint import Checkpoint
from ailora.errors import MALFORMED, UserError
from ailora.files import (
    open_file,
    parse_json,
    read_text,
    remove_temporary,
    sync_tree,
    unwritable,
    usual_mode,
    write_atomic,
    write_json,
)
from ailora.lock import held

P = ParamSpec("P")
T = TypeVar("T")
FORMAT = 1
_RECORDS = ".ailora-work"

Row = Mapping[str, Any]


class Source(Protocol):
    """Files that a run reads from its beginning to its end."""

    def check_unchanged(self) -> None:
        """Raise a UserError if they are no longer what was read first."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What to remember about a finished piece: rows of the report, and tensors."""

    rows: Sequence[Row]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run in progress in the folder ``out``; see `begin`."""

    out: Path
    plan_file: Path
    plan: Mapping[str, Any]
    sources: Sequence[Source]
    report: tuple[Row, ...] | None = None

    def record(self, piece: str) -> Record | None:
        """What an earlier run recorded of a piece; None if it did not, or cannot be read."""
        path = self.out / _RECORDS / piece
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                rows = parse_json((file.metadata() or {})["rows"])
        except (OSError, SafetensorError, *MALFORMED):
            return None
        return Record(rows=rows, tensors=tensors) if _are_rows(rows) else None

    def add_record(self, piece: str, record: Record) -> None:
        """Write a record; the piece itself follows."""
        data = save(dict(record.tensors), metadata={"rows": json.dumps(list(record.rows))})
        write_atomic(self.out / _RECORDS / piece, data)

    def finish(self, rows: Sequence[Row]) -> None:
        """Write the report and forget the records.

        Raises:
            UserError: A source changed meanwhile; the folder stays unfinished.
        """
        for source in self.sources:
            source.check_unchanged()
        content = {"format": FORMAT, "plan": self.plan, "report": list(rows)}
        write_json(self.plan_file, content)
        shutil.rmtree(self.out / _RECORDS, ignore_errors=True)

    def abandon(self) -> None:
        """Delete the traces of a run that has made nothing yet."""
        shutil.rmtree(self.out / _RECORDS, ignore_errors=True)
        self.plan_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what else is in the folder stays
            self.out.rmdir()


def alone_in_out(function: Callable[P, T]) -> Callable[P, T]:
    """The function, refused while another process writes to the folder that it is given as ``out``.

    The lock lies beside that folder, which appears or is replaced as a whole.

    Raises:
        LockedError: Another process works there.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        out = Path(signature.bind(*args, **kwargs).arguments["out"])
        whole = Path(os.path.realpath(out))  # Path.resolve raises for loops
        with held(whole.parent / f".{whole.name}.lock", called=out):
            return function(*args, **kwargs)

    return alone


def begin(out: Path, file: str, plan: Mapping[str, Any], sources: Sequence[Source] = ()) -> Work:
    """Start a run in a new or empty folder, or go on with the same run.

    Args:
        out: Folder of the results, made if missing.
        file: Name of the plan's file in that folder.
        plan: Everything that decides the results, as JSON.
        sources: What must not change until the run is finished.

    Returns:
        The run; its ``report`` is set if it was finished before.

    Raises:
        UserError: The folder holds something else, or a run of another plan.
    """
    path = out / file
    plan = json.loads(json.dumps(plan))
    report = check_out(out, file, plan)
    if not path.exists():
        for left in _half_plans(out, file):
            left.unlink(missing_ok=True)
        write_json(path, {"format": FORMAT, "plan": plan, "report": None})
        return Work(out=out, plan_file=path, plan=plan, sources=sources)
    try:
        remove_temporary(out)
        if report is not None:  # by a run that was killed right after its report
            shutil.rmtree(out / _RECORDS, ignore_errors=True)
    except OSError as error:
        raise unwritable(out, error) from error
    return Work(out=out, plan_file=path, plan=plan, sources=sources, report=report)


def check_out(out: Path, file: str, plan: Mapping[str, Any]) -> tuple[Row, ...] | None:
    """Look whether `begin` can start or go on there; nothing is written.

    Returns:
        The report of the same run, if that was finished before.

    Raises:
        UserError: As `begin`.
    """
    path = out / file
    plan = json.loads(json.dumps(plan))
    if not path.exists():
        require_empty(out, but=_half_plans(out, file))
        return None
    try:
        stored = parse_json(read_text(path))
        before, report = stored["plan"], stored["report"]
        if report is not None and not _are_rows(report):
            raise ValueError("its report is no list of tables")
        differing = next((k for k in (*plan, *before) if before.get(k) != plan.get(k)), None)
    except (OSError, *MALFORMED) as error:
        raise UserError(
            f"{path}: not a plan ailora wrote ({error}); choose another --out"
        ) from error
    if differing is not None:
        shown = _shown(before.get(differing), plan.get(differing))
        raise UserError(
            f"{out}: holds a run with another {differing}{shown}; choose another --out, or delete "
            "that one"
        )
    return None if report is None else tuple(report)


def _half_plans(out: Path, file: str) -> list[Path]:
    """What a run left that was killed as it wrote its plan."""
    return list(out.glob(f".{file}.*.tmp"))


def _are_rows(rows: Any) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def require_empty(out: Path, *, but: Collection[Path] = ()) -> None:
    """Raise a ``UserError`` unless the folder is empty but for some files, or can be made."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a folder for --out")
    if out.is_dir() and set(out.iterdir()) - set(but):
        raise UserError(f"{out}: is not empty; give a new folder for --out")


def require_room(out: Path, needed: int) -> None:
    """Raise a ``UserError`` if the disk has less than ``needed`` bytes free."""
    free = free_space(out)
    if free < needed:
        raise UserError(
            f"{out}: needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; "
            "free some space or give another --out"
        )


def free_space(out: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not be there yet."""
    existing = next((folder for folder in (out, *out.absolute().parents) if folder.exists()), None)
    return shutil.disk_usage(existing or "/").free


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when it is complete; an older one is replaced.

    Where ``folder`` is a link, what it leads to is replaced or made: the link stays.

    It and its files get the modes that the umask gives: ``mkdtemp`` and safetensors, which writes
    to a temporary file of its own, make theirs private.

    Raises:
        UserError: It cannot be made, written or renamed, or the disk is full.
    """
    temporary = aside = None
    folder = Path(os.path.realpath(folder))  # Path.resolve raises for loops
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".new.tmp")
        temporary = Path(made)
        aside = Path(f"{made.removesuffix('.new.tmp')}.old.tmp")  # as long: no name fails half-way
        yield temporary
        for path in (temporary, *temporary.rglob("*")):
            path.chmod(usual_mode(folder=path.is_dir()))
        sync_tree(temporary)
        if folder.exists():  # out of the way at once: a kill must not leave half of it
            folder.replace(aside)
        temporary.replace(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    except SafetensorError as error:  # its writer hides the system's error in words
        raise UserError(
            f"cannot write {folder}: {error}; free some space and run it again"
        ) from error
    finally:
        if aside is not None and aside.exists() and not folder.exists():
            aside.replace(folder)
        for left in filter(None, (temporary, aside)):
            shutil.rmtree(left, ignore_errors=True)


def fingerprint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells one checkpoint from another without reading its data."""
    config = (checkpoint.folder / "config.json").read_bytes()
    files = {"config.json": hashlib.sha256(config).hexdigest()}
    for shard in checkpoint.shards:
        about = shard.path.stat()
        with open_file(shard.path) as stream:
            head = hashlib.sha256(stream.read(shard.data_start)).hexdigest()
        files[shard.path.name] = f"{about.st_size} {about.st_mtime_ns} {head}"
    return files


def _shown(before: object, now: object) -> str:
    simple = not isinstance(before, dict | list) and not isinstance(now, dict | list)
    return f" ({before!r}, now {now!r})" if simple else ""
