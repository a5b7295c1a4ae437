"""A folder of runs: what is there, in which state, and why a run failed."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ailora.errors import UserError, is_out_of_memory
from ailora.files import parse_json, read_text, write_json
from ailora.lab.settings import RunConfig, current_settings
from ailora.lab.training.folder import FAILED, RunFolder
from ailora.lab.training.results import DamagedError, DivergedError, read_result, settings_damage
from ailora.lock import LOCK, Owner, held, holder

Run = dict[str, Any]  # the content of a run's result.json
State = Literal["finished", "running", "failed", "interrupted", "damaged", "unknown"]

FailureKind = Literal["diverged", "memory", "input", "error"]

_RUN_ID = re.compile(r"\w[\w.-]*-[0-9a-f]{10}")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that did not come to its end, as ``failed.json`` holds it.

    Attributes:
        config: The run's settings as a dictionary.
        kind: "diverged", "memory", "input" (what the user can mend) or "error".
        reason: One line.
        details: The traceback of an "error".
    """

    config: Mapping[str, Any]
    kind: FailureKind
    reason: str
    details: str = ""

    @classmethod
    def from_json(cls, found: Any) -> Failure | None:
        """What ``failed.json`` says; None if it is not a failure's content."""
        try:
            failure = cls(**{**found, "config": current_settings(found["config"])})
        except (TypeError, KeyError, AttributeError):
            return None
        whole = failure.kind in get_args(FailureKind) and isinstance(failure.reason, str)
        return failure if whole and not settings_damage(failure.config) else None


def failure_of(config: RunConfig, error: BaseException) -> Failure:
    """The failure of a run that an exception ended."""
    kind = _kind(error)
    first = (str(error).strip().splitlines() or [""])[0]
    named = first if first and kind != "error" else f"{type(error).__name__}: {first}".rstrip(": ")
    details = "".join(traceback.format_exception(error)) if kind == "error" else ""
    return Failure(config=asdict(config), kind=kind, reason=named, details=details)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A run as its folder tells.

    Attributes:
        run_id: Name of the folder.
        state: "finished" has a whole result, "running" a living process, "failed" a reason,
            "interrupted" only a beginning, "damaged" a result that cannot be read (somebody
            changed it, or a later version wrote it), "unknown" nothing of a run.
        config: The settings as a dictionary; empty where they cannot be read.
        result: Result of a finished run.
        failure: Reason of a failed run.
        damage: What is wrong with a damaged result.
        owner: Process of a running run.
    """

    run_id: str
    state: State
    config: Mapping[str, Any]
    result: Run | None = None
    failure: Failure | None = None
    damage: str = ""
    owner: Owner | None = None


class Store:
    """Run folders in one folder, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @classmethod
    def within(cls, path: Path) -> Store:
        """The folder itself; or its ``runs``, which compare and paper have, if it holds no run."""
        own, below = cls(path), cls(path / "runs")
        return own if own.names() or not below.path.is_dir() else below

    def folder(self, run_id: str) -> RunFolder:
        """Where a run is, or will be."""
        return RunFolder(self.path / run_id)

    def runs(self) -> list[Stored]:
        """Every run, by name: folders, and results that lie as ``<run id>.json``.

        Folders whose name is not a run id are ignored.
        """
        with uncollected():
            return [self.read(name) for name in self.names()]

    def names(self) -> list[str]:
        """Names of all runs, sorted."""
        if not self.path.is_dir():
            return []
        with os.scandir(self.path) as found:
            names = {_named(entry) for entry in found}
        return sorted(name for name in names if _RUN_ID.fullmatch(name))

    def finished(self, names: Iterable[str]) -> dict[str, str]:
        """Names of the finished ones among these runs, by `RunConfig.identity`.

        The identity is the end of a run's name, unless another version of ailora named it.
        """
        found = {}
        for result, name in ((self.read(name).result, name) for name in names):
            if result is None:
                continue
            with contextlib.suppress(UserError, KeyError, TypeError):  # a result of something else
                config = RunConfig.from_json(result["config"])
                found[config.identity(result["data"]["fingerprint"])] = name
        return found

    def read(self, run_id: str) -> Stored:
        """One run; a result that is not whole counts as none."""
        path = self.path / run_id
        try:
            result = RunFolder(path).result() or read_result(self.path / f"{run_id}.json")
        except DamagedError as error:
            config = _settings(path / "config.json")
            return Stored(run_id=run_id, state="damaged", config=config, damage=str(error))
        if result is not None:
            return Stored(run_id=run_id, state="finished", config=result["config"], result=result)
        config = _settings(path / "config.json")
        owner = holder(path)
        if owner is not None:
            return Stored(run_id=run_id, state="running", config=config, owner=owner)
        failure = self.failure(run_id)
        if failure is not None:
            return Stored(run_id=run_id, state="failed", config=failure.config, failure=failure)
        # A process that was killed before it wrote anything else leaves its lock.
        state: State = "interrupted" if config or (path / LOCK).exists() else "unknown"
        return Stored(run_id=run_id, state=state, config=config)

    def failure(self, run_id: str) -> Failure | None:
        """Why a run failed when it was last tried; None if it did not."""
        return Failure.from_json(_json(self.path / run_id / FAILED))

    def fail(self, run_id: str, failure: Failure) -> None:
        """Write down that a run failed; it is not tried again unless asked for."""
        write_json(self.path / run_id / FAILED, asdict(failure))

    def forgive(self, run_id: str) -> None:
        """Forget that a run failed: it is tried again, from its last checkpoint."""
        (self.path / run_id / FAILED).unlink(missing_ok=True)

    def remove(self, run_id: str) -> None:
        """Delete a run.

        Raises:
            LockedError: A process works on it.
        """
        folder = self.path / run_id
        with held(folder):
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
        with contextlib.suppress(OSError):  # another process may have begun it anew
            folder.rmdir()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cycles: results have none, and it takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _named(entry: os.DirEntry[str]) -> str:
    """The run that a folder or a result is named for; empty for another file."""
    with contextlib.suppress(OSError):  # links that lead round in a circle
        if entry.is_dir():
            return entry.name
    return entry.name.removesuffix(".json") if entry.name.endswith(".json") else ""


def _settings(path: Path) -> dict[str, Any]:
    found = _json(path)
    config = found.get("config") if isinstance(found, dict) else None
    if not isinstance(config, dict):
        return {}
    settings = current_settings(config)
    return {} if settings_damage(settings) else settings


def _json(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError):
        return None


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, UserError):
        return "input"
    return "memory" if is_out_of_memory(error) else "error"
