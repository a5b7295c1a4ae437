"""One case: an operation is struck, what it left is looked at, and it is done again."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tests.checkpoints.models import files
from tests.faults.child import Child, Ending, Fault
from tests.faults.operations import EVENTS, Operation, make_inputs, operations
from tests.lines import read_lines

_SAID = {"term": "ailora: terminated", "hup": "ailora: terminated", "int": "ailora: stopped"}
_CODES = {
    "term": {0, 143},
    "hup": {0, 129},
    "int": {0, 130},
    "kill": {0, -9},
    "torn": {0, -25},
    "clock": {0},
}
# A cached decomposition tells how long it took.
_NO_PROMISE = (".lock", "-2.safetensors")
_ROOM = 64 << 20  # bytes of a mount that is not full


@dataclass(frozen=True, kw_only=True)
class Case:
    """What was done and how it went; `why` is empty where every promise held."""

    seed: int
    case: int
    operation: str
    fault: str
    at: int
    of: int
    code: int
    seconds: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An operation undisturbed: its end, its files and its number of events."""

    result: Mapping[str, Any]
    files: Mapping[str, bytes]
    before: Mapping[str, bytes]
    events: int


class Ground:
    """A folder with the inputs, in which one case after another is done.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        inputs = folder / "inputs"
        inputs.mkdir()
        make_inputs(inputs)
        self.operations = operations(inputs)
        self.mounts = self._can_mount()
        self._references: dict[str, Reference] = {}

    def draw(self, seed: int, number: int) -> Case:
        """Do the case of that number."""
        began, choice = time.monotonic(), random.Random(f"{seed} {number}")  # noqa: S311
        names = list(self.operations)
        operation = self.operations[names[number % len(names)]]
        kind = choice.choice([one for one in operation.faults if self.mounts or one != "readonly"])
        reference = self.reference(operation)
        of = self._range(kind, reference)
        at = choice.randint(1, of)
        code, why = self.strike(operation, Fault(kind=kind, at=at), choice.randint(1, 1 << 30))
        shown = "nospace" if kind == "full" and not self.mounts else kind
        seconds = round(time.monotonic() - began, 2)
        return Case(
            seed=seed,
            case=number,
            operation=operation.name,
            fault=shown,
            at=at,
            of=of,
            code=code,
            seconds=seconds,
            why=why,
        )

    def reference(self, operation: Operation) -> Reference:
        """Found once, in a child, at the path where the cases are done."""
        if operation.name not in self._references:
            self._fresh(operation)
            before = files(self.work)
            ended = self._child(operation).end()
            assert ended.code == 0, f"{operation.name}: {ended.said}"
            self._references[operation.name] = Reference(
                result=operation.result(self.work),
                files=files(self.work),
                before=before,
                events=ended.events,
            )
            self._remove()
        return self._references[operation.name]

    def strike(self, operation: Operation, fault: Fault, other: int = 1) -> tuple[int, str]:
        """Do one case; the exit code, and what did not hold.

        Args:
            operation: What is done.
            fault: What goes wrong.
            other: A second draw, for what needs one.
        """
        reference = self.reference(operation)
        mounted = fault.kind in ("full", "readonly") and self.mounts
        try:
            self._fresh(operation, mounted)
            ended, found = self._struck(operation, fault, mounted, other % reference.events + 1)
            whys = [*found, *self._broken(operation, reference)]
            if mounted:
                self._remount(f"size={_ROOM}", "rw")
            again = self._child(operation).end()
            if again.code != 0:
                whys.append(f"done again it ended with {again.code}: {_last(again.said)}")
            else:
                whys += self._differs(operation, reference)
            return ended.code, "; ".join(whys)
        finally:
            self._remove(mounted)

    def _struck(
        self, operation: Operation, fault: Fault, mounted: bool, other: int
    ) -> tuple[Ending, list[str]]:
        if fault.kind == "twice":
            both = [self._child(operation), self._child(operation)]
            ends = [one.end() for one in both]
            bad = [w for one in ends for w in _misspoken(fault, one)]
            if all(one.code for one in ends):
                bad.append(f"of two at once both ended badly: {_last(ends[0].said)}")
            return ends[0], bad
        if fault.kind == "readonly" and mounted:
            self._child(operation, Fault(kind="kill", at=other)).end()
            self._remount("ro")
        elif fault.kind == "full" and mounted:
            used = shutil.disk_usage(self.work).used
            self._remount(f"size={used + fault.at + 4096}")
        elif fault.kind == "full":
            fault = Fault(kind="nospace", at=other)
        ended = self._child(operation, fault).end()
        return ended, _misspoken(fault, ended)

    def _range(self, kind: str, reference: Reference) -> int:
        if kind in EVENTS:
            return reference.events
        if kind == "torn":
            return max(map(len, reference.files.values()))
        if kind == "full":
            return sum(map(len, reference.files.values()))
        return 48 << 20 if kind == "memory" else 1

    def _child(self, operation: Operation, fault: Fault | None = None) -> Child:
        def call() -> None:
            operation.run(self.work)

        return Child(call, self.work, fault or Fault(kind="none"))

    def _broken(self, operation: Operation, reference: Reference) -> Iterator[str]:
        """Files under their final names that are not whole."""
        for name, data in files(self.work).items():
            parts = Path(name).parts
            if any(part.startswith(".") for part in parts) or "checkpoints" in parts:
                continue
            if not _is_whole(self.work / name, data):
                yield f"{name} is half written"
            elif operation.exact and not _is_plan(data) and not name.endswith(_NO_PROMISE):
                wanted = (reference.files.get(name), reference.before.get(name))
                if data not in wanted and any(wanted):
                    yield f"{name} has other bytes than at the end"

    def _differs(self, operation: Operation, reference: Reference) -> Iterator[str]:
        result = operation.result(self.work)
        for name in sorted(result.keys() | reference.result.keys()):
            if result.get(name) != reference.result.get(name):
                yield f"done again, {name} differs"
        for path in (self.work / "out").rglob("*"):
            if (path.name.endswith(".tmp") and operation.tidy) or path.name.startswith("lock.json"):
                yield f"{path.name} is left over"

    def _fresh(self, operation: Operation, mounted: bool = False) -> None:
        self.work.mkdir()
        if mounted:
            _mount("-t", "tmpfs", "-o", f"size={_ROOM}", "none", str(self.work))
        operation.prepare(self.work)

    def _remove(self, mounted: bool = False) -> None:
        if mounted:
            subprocess.run(["umount", "-l", str(self.work)], check=False)
        shutil.rmtree(self.work, ignore_errors=True)

    def _remount(self, *options: str) -> None:
        _mount("-o", ",".join(("remount", *options)), str(self.work))

    def _can_mount(self) -> bool:
        self.work.mkdir()
        try:
            _mount("-t", "tmpfs", "-o", "size=1m", "none", str(self.work))
            _mount("-o", "remount,ro", str(self.work))
            return True
        except (OSError, subprocess.CalledProcessError):
            return False
        finally:
            subprocess.run(["umount", "-l", str(self.work)], check=False, capture_output=True)
            self.work.rmdir()


def read_log(path: Path) -> list[Case]:
    """The cases of a log; a last line that was cut off is left out."""
    return [Case(**line) for line in read_lines(path)]


# A run of a sweep that could not be written, or whose failure could not.
_FAILED_RUN = re.compile(
    r"failed \(input\): |failed \(error\): OSError: \[Errno \d+\] .*failed\.json'$"
)


def _misspoken(fault: Fault, ended: Ending) -> Iterator[str]:
    """An exit code or a message that does not say what happened."""
    last = _last(ended.said)
    if ended.code == 2:
        if "Traceback" in ended.said or not last.startswith("ailora: "):
            yield f"exit code 2 with {last!r}"
    elif fault.kind == "memory":
        if ended.code == 1:
            yield f"ended with 1: {last}"
    elif fault.kind == "refused" and ended.code == 1 and _FAILED_RUN.search(last):
        return  # a sweep says why and goes on with the others
    elif ended.code not in _CODES.get(fault.kind, {0}):
        yield f"ended with {ended.code}: {last}"
    elif ended.code > 0 and (_SAID[fault.kind] not in last or "Traceback" in ended.said):
        yield f"ended with {ended.code} and {last!r}"


def _last(said: str) -> str:
    return (said.strip().splitlines() or [""])[-1][-300:]


def _is_whole(path: Path, data: bytes) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
        elif path.suffix == ".html":
            return data.rstrip().endswith(b"</html>")
        elif path.suffix == ".jsonl":
            for line in data.splitlines()[: None if data.endswith(b"\n") else -1]:
                json.loads(line)
    except (ValueError, SafetensorError):
        return False
    return True


def _is_plan(data: bytes) -> bool:
    """A plan is written twice: without the report, and with it."""
    return data.startswith(b'{\n  "format": 1,\n  "plan":')


def _mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True, capture_output=True)
