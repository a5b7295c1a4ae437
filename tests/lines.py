"""Records of cases: JSON lines that may have been broken off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a record; none if there is no such file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [parsed for line in lines if (parsed := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return found


def add_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line, also after one that was cut off."""
    before = path.read_bytes()[-1:] if path.exists() else b""
    with path.open("a") as file:
        file.write("\n" * (before not in (b"", b"\n")) + json.dumps(entry) + "\n")
