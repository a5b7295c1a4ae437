"""Pages as a parser and as a real browser see them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
CHROMIUM = CHROMIUM or shutil.which("google-chrome")
BROWSER = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("AILORA_REQUIRE_BROWSER"),
    reason="no chromium on this machine (set AILORA_REQUIRE_BROWSER=1 to insist)",
)


class Tags(HTMLParser):
    """Names of the tags, and the addresses that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        wanted = ("src", "href", "xlink:href", "srcset", "data")
        self.loads += [value or "" for key, value in attrs if key in wanted]
        self.ids += [value or "" for key, value in attrs if key == "id"]


def parsed(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    return found


class Seen(NamedTuple):
    """Widths in pixels of the content and of the window, heights of pictures, and complaints."""

    scroll: float
    client: float
    pictures: list[float]
    complaints: list[str]


def browse(page: Path, width: int, scratch: Path) -> Seen:
    """Open a page in a frame of a width; complaints are what the console says of it."""
    frame = scratch / "frame.html"
    frame.write_text(
        f"<iframe id=f src='{page.as_uri()}' style='width:{width}px;height:900px;border:0'>"
        "</iframe>"
        "<p id=said></p><script>f.onload=()=>{const d=f.contentDocument,e=d.documentElement;"
        "const s=[...d.querySelectorAll('svg')].map(x=>x.getBoundingClientRect().height);"
        "said.textContent=JSON.stringify([e.scrollWidth,e.clientWidth,s])}"
        "</script>"
    )
    done = subprocess.run(
        [
            *(CHROMIUM or "chromium", "--headless", "--no-sandbox", "--disable-gpu"),
            *("--no-first-run", "--disable-background-networking", "--disable-sync"),
            *("--disable-component-update", "--allow-file-access-from-files"),
            *("--enable-logging=stderr", f"--user-data-dir={scratch / 'profile'}"),
            *("--virtual-time-budget=5000", "--dump-dom", frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = re.search(r"<p id=\"said\">(\[.*?\])</p>", done.stdout)
    assert said, done.stdout[-500:]
    scroll, client, pictures = json.loads(unescape(said[1]))
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(scroll, client, pictures, complaints)
