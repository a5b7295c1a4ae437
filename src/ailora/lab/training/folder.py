"""A run's folder: what is in it, whether it is finished, where it can be resumed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open

from ailora.errors import UserError
from ailora.files import (
    append_line,
    parse_json,
    read_text,
    remove_temporary,
    require_file,
    write_atomic,
    write_json,
)
from ailora.lab.settings import RunConfig
from ailora.lab.training.results import read_result, stamped
from ailora.lock import LOCK, held

STATE = "trainer_state.json"  # what Trainer writes last into a checkpoint
FAILED = "failed.json"  # why a sweep gave the run up


class RunFolder:
    """What a run leaves behind.

    config.json, metrics.jsonl, checkpoints/, adapter/, predictions-*.jsonl and, written last,
    result.json; where TensorBoard is asked for, its events in tensorboard/.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, until the run is finished."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapter."""
        return self.path / "adapter"

    @property
    def events(self) -> Path:
        """Folder of TensorBoard's events."""
        return self.path / "tensorboard"

    @property
    def started(self) -> bool:
        """Whether a run began here."""
        return (self.path / "config.json").exists()

    def result(self) -> dict[str, Any] | None:
        """The finished run's result; None for one that is unfinished, half-written or foreign.

        Raises:
            DamagedError: It is finished, and its result was changed so that it cannot be read.
        """
        return read_result(self.path / "result.json")

    def start(
        self,
        config: RunConfig,
        fingerprint: str,
        environment: Mapping[str, Any],
        weights: str = "",
    ) -> None:
        """Write down what the run is made of, from which weights, and on what machine."""
        made_of = {"config": asdict(config), "data": fingerprint, "environment": environment}
        made_of["weights"] = weights
        write_json(self.path / "config.json", made_of)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the result, drop the checkpoints, and return the result as it will be read."""
        remove_temporary(self.path)
        write_json(self.path / "result.json", stamped(result))
        with contextlib.suppress(OSError):  # it is finished, whatever else is left
            (self.path / FAILED).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return self.result() or result

    def tidy(self) -> None:
        """Remove from a finished run what a process left that was killed right after the result."""
        if (self.path / LOCK).exists() or self.checkpoints.exists():
            with contextlib.suppress(UserError), held(self.path):  # it lives, or is read-only
                shutil.rmtree(self.checkpoints, ignore_errors=True)

    def clear(self) -> None:
        """Forget an unfinished run."""
        for folder in (self.checkpoints, self.events):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("metrics.jsonl", "result.json", FAILED):
            (self.path / name).unlink(missing_ok=True)

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end, and got to the disk."""
        whole = [
            folder
            for folder in self.checkpoints.glob("checkpoint-*")
            if folder.name.rpartition("-")[2].isdigit() and _is_whole(folder)
        ]
        return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)

    def history(self) -> list[dict[str, Any]]:
        """The evaluations written so far; a last line cut off by a kill is left out."""
        path = self.path / "metrics.jsonl"
        text = read_text(path, errors="replace") if path.is_file() else ""
        entries = [parse_json(line) for line in text.splitlines() if _parses(line)]
        return [
            entry
            for entry in entries
            if isinstance(entry, dict) and isinstance(entry.get("step"), int | float)
        ]

    def log(self, entry: dict[str, Any]) -> None:
        """Append one evaluation."""
        append_line(self.path / "metrics.jsonl", json.dumps(entry))

    def keep_outputs(self, split: str, outputs: Iterable[dict[str, Any]]) -> None:
        """Write what the model answered to each row of a split, one JSON object per line."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in outputs)
        write_atomic(self.path / f"predictions-{split}.jsonl", lines)

    def rewind(self, step: int) -> None:
        """Drop evaluations after a step: the resumed run will make them again."""
        kept = [json.dumps(entry) for entry in self.history() if entry["step"] <= step]
        write_atomic(self.path / "metrics.jsonl", "".join(f"{line}\n" for line in kept))


def check_name(folder: Path) -> None:
    """Raise a UserError if PEFT and safetensors, which write a run's weights, take no such name.

    In a locale without UTF-8 that is every name beyond ASCII; they say so once all is trained.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(folder).decode("utf-8", "backslashreplace")
        raise UserError(
            f"{shown}: its name is not UTF-8, or this locale reads none: set PYTHONUTF8=1, or give "
            "another folder with --out"
        ) from error


def check_writable(folder: Path) -> None:
    """Raise a UserError if results cannot be written to a folder; nothing is made or left."""
    check_name(folder)
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); give another folder with --out"
        ) from error


def _is_whole(checkpoint: Path) -> bool:
    """Whether its last file is there and no file is cut short, as a crashed machine leaves them."""
    try:
        if not _parses(read_text(checkpoint / STATE, errors="replace")):
            return False
    except OSError:
        return False
    torches = (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth"))
    return all(map(is_zipfile, torches)) and all(map(_opens, checkpoint.glob("*.safetensors")))


def _opens(path: Path) -> bool:
    try:
        require_file(path)
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _parses(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True
