"""What a fair comparison was asked for, kept beside its runs, and what they have come to.

The runs alone do not tell: which seeds chose and which are reported, and where each search began,
stands in one small file in their folder. With it the comparison is read again from the folder, half
done or done, without the data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ailora.errors import MALFORMED, UserError
from ailora.files import parse_json, read_text, write_json
from ailora.lab.experiments.fair import Protocol, Search, fair, setting_key
from ailora.lab.experiments.store import Stored
from ailora.lab.settings import RunConfig

RECORD = "fair.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The fair comparison that was begun last in a folder of runs.

    Attributes:
        protocol: What is compared, with the reporting seeds that a budget allowed.
        data: Fingerprint of each setting's data, in their order.
        command: The command that asked for it.
    """

    protocol: Protocol
    data: Sequence[str]
    command: str

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record in a folder of runs; None if there is none, or something else in its place."""
        try:
            found = parse_json(read_text(folder / RECORD))
            protocol = Protocol(
                settings=[RunConfig.from_json(one) for one in found["settings"]],
                choose=[_seed(one) for one in found["choose"]],
                report=[_seed(one) for one in found["report"]],
                halving=found["halving"] is True,
            )
            record = cls(
                protocol=protocol,
                data=tuple(str(one) for one in found["data"]),
                command=str(found["command"]),
            )
        except (OSError, *MALFORMED):
            return None
        whole = protocol.settings and len(record.data) == len(protocol.settings)
        return record if whole else None

    def write(self, folder: Path) -> None:
        """Write it down.

        Raises:
            UserError: The folder cannot be written.
        """
        protocol = self.protocol
        found = {
            "settings": [asdict(one) for one in protocol.settings],
            "choose": list(protocol.choose),
            "report": list(protocol.report),
            "halving": protocol.halving,
            "data": list(self.data),
            "command": self.command,
        }
        write_json(folder / RECORD, found)

    def searches(self, stored: Sequence[Stored]) -> list[Search]:
        """How far the runs of a folder have brought the search of each setting.

        A run that failed otherwise than by diverging counts as missing: the same command does it
        again.

        Args:
            stored: All runs of the folder.
        """
        runs = _by_identity(stored)
        data = dict(zip(map(setting_key, self.protocol.settings), self.data, strict=True))

        def there(asked: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
            found = ((run, runs.get(run.identity(data[setting_key(run)]))) for run in asked)
            return [(run, one) for run, one in found if one is not None]

        return fair(self.protocol, there)


def _seed(stored: object) -> int:
    if type(stored) is not int:
        raise TypeError(f"{stored!r} is no seed")
    return stored


def _by_identity(stored: Sequence[Stored]) -> dict[str, Stored]:
    """Runs that finished or diverged, by the identity of their settings and data."""
    ended = [
        run
        for run in stored
        if run.result is not None or (run.failure is not None and run.failure.kind == "diverged")
    ]
    return {_identity(run): run for run in ended}


def _identity(run: Stored) -> str:
    """The end of its name, unless another version of ailora named it."""
    if run.result is not None:
        with contextlib.suppress(UserError, KeyError, TypeError):  # a result of something else
            config = RunConfig.from_json(run.result["config"])
            return config.identity(run.result["data"]["fingerprint"])
    return run.run_id.rpartition("-")[2]
