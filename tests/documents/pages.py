"""The README and the pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^(?:    )?(ailora .*)$", re.MULTILINE)


def commands() -> dict[str, str]:
    """Every command line that a page shows, without its remark, and the first page with it."""
    found: dict[str, str] = {}
    for page in PAGES:
        for line in COMMAND.findall((ROOT / page).read_text(encoding="utf-8")):
            found.setdefault(" ".join(line.partition(" #")[0].split()), page)
    return found
