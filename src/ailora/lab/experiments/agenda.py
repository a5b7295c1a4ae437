"""What a sweep set out to do, for those who watch its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from ailora.files import write_json

AGENDA = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Agenda:
    """The runs of the sweep that began last in a folder.

    Attributes:
        runs: Their names.
        ended: How many had ended before.
        began: When it began, in seconds since 1970.
    """

    runs: tuple[str, ...]
    ended: int
    began: float

    @classmethod
    def read(cls, folder: Path) -> Agenda | None:
        """What stands in a folder of runs; None if there is nothing, or no such thing."""
        try:
            found = json.loads((folder / AGENDA).read_text(encoding="utf-8"))
            agenda = cls(
                runs=tuple(map(str, found["runs"])),
                ended=int(found["ended"]),
                began=float(found["began"]),
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return agenda

    def write(self, folder: Path) -> None:
        """Write it down.

        Raises:
            UserError: The folder cannot be written.
        """
        write_json(folder / AGENDA, asdict(self))

    def left(self, ended: Collection[str]) -> int:
        """How many of its runs are not among those that ended."""
        return len(set(self.runs) - set(ended))

    def seconds_left(self, ended: Collection[str]) -> float | None:
        """Until all have ended, at the pace since it began; None before the first has."""
        left = self.left(ended)
        since = len(self.runs) - left - self.ended
        return left * (time.time() - self.began) / since if since > 0 else None
