"""A folder of runs: what is there, and in which state."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ailora.errors import UserError
from ailora.files import write_json
from ailora.lab.experiments.failure import Failure
from ailora.lab.lock import LOCK, Owner, held, holder
from ailora.lab.training.folder import FAILED, RunFolder
from ailora.lab.training.results import read_result

Run = dict[str, Any]  # the content of a run's result.json
State = Literal["finished", "running", "failed", "interrupted", "unknown"]

_RUN_ID = re.compile(r"\w[\w.-]*-[0-9a-f]{10}")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A run as its folder tells.

    Attributes:
        run_id: Name of the folder.
        state: "finished" has a whole result, "running" a living process, "failed" a reason,
            "interrupted" only a beginning, "unknown" not even that.
        config: The settings as a dictionary; empty where they cannot be read.
        result: Of a finished run.
        failure: Of a failed one.
        owner: Of a running one.
    """

    run_id: str
    state: State
    config: Mapping[str, Any]
    result: Run | None = None
    failure: Failure | None = None
    owner: Owner | None = None


class Store:
    """Run folders in one folder, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def folder(self, run_id: str) -> RunFolder:
        """Where a run is, or will be."""
        return RunFolder(self.path / run_id)

    def runs(self) -> list[Stored]:
        """Every run, by name: folders, and results that lie as ``<run id>.json``.

        What is named otherwise than a run is ignored.
        """
        found = list(self.path.iterdir()) if self.path.is_dir() else []
        names = {path.name for path in found if path.is_dir()}
        names |= {path.stem for path in found if path.suffix == ".json" and path.is_file()}
        return [self.read(name) for name in sorted(names) if _RUN_ID.fullmatch(name)]

    def read(self, run_id: str) -> Stored:
        """One run; a result that is not whole counts as none."""
        path, result = self.path / run_id, self.folder(run_id).result()
        if result is None:
            result = read_result(self.path / f"{run_id}.json")
        if result is not None and "config" in result:
            return Stored(run_id=run_id, state="finished", config=result["config"], result=result)
        config = _settings(path / "config.json")
        owner = holder(path)
        if owner is not None:
            return Stored(run_id=run_id, state="running", config=config, owner=owner)
        failure = self.failure(run_id)
        if failure is not None:
            return Stored(run_id=run_id, state="failed", config=failure.config, failure=failure)
        state: State = "interrupted" if config else "unknown"
        return Stored(run_id=run_id, state=state, config=config)

    def failure(self, run_id: str) -> Failure | None:
        """Why a run failed when it was last tried; None if it did not."""
        return Failure.from_json(_json(self.path / run_id / FAILED))

    def fail(self, run_id: str, failure: Failure) -> None:
        """Write down that a run failed; nobody tries it again unasked."""
        write_json(self.path / run_id / FAILED, asdict(failure))

    def forgive(self, run_id: str) -> None:
        """Forget that a run failed: it is tried again, from its last checkpoint."""
        (self.path / run_id / FAILED).unlink(missing_ok=True)

    def tidy(self, run_id: str) -> None:
        """Remove what a process that was killed right after its result left in a finished run."""
        folder = self.folder(run_id)
        if not ((folder.path / LOCK).exists() or folder.checkpoints.exists()):
            return
        with contextlib.suppress(UserError), held(folder.path):  # unless it lives, or is read-only
            shutil.rmtree(folder.checkpoints, ignore_errors=True)

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


def _settings(path: Path) -> dict[str, Any]:
    found = _json(path)
    config = found.get("config") if isinstance(found, dict) else None
    return config if isinstance(config, dict) else {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
