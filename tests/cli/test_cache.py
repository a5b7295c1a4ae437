"""``ailora cache`` from the outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ailora.cache import disk
from tests.commands import Call


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where entries go."""
    monkeypatch.setenv("AILORA_CACHE", str(tmp_path / "c"))
    monkeypatch.delenv("AILORA_CACHE_LIMIT", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "c" / "decompositions"


def test_an_empty_cache_is_shown_and_not_made(call: Call, folder: Path) -> None:
    ended = call("cache")
    assert ended.code == 0, ended.err
    assert "never" in ended.out
    assert "4.0 GB" in ended.out
    assert not folder.parent.exists()


def test_entries_are_shown_and_cleared(call: Call, folder: Path) -> None:
    for key in ("a" * 64, "b" * 64):
        disk.add(folder, key, 8, b"x" * 3_500_000, limit=10**9)
    shown = call("cache")
    words = shown.out.split()
    assert "7.0" in words
    assert "2" in words
    assert "never" not in words
    cleared = call("cache --clear")
    assert (cleared.code, cleared.out) == (0, "deleted 2 decompositions, 7.0 MB\n")
    assert list(folder.iterdir()) == []
    assert call("cache --clear").out == "deleted 0 decompositions, 0 bytes\n"


def test_the_limit_is_shown_and_a_bad_one_is_refused(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AILORA_CACHE_LIMIT", "0")
    assert "0 (off)" in call("cache").out
    monkeypatch.setenv("AILORA_CACHE_LIMIT", "much")
    refused = call("cache")
    assert refused.code == 2
    assert "AILORA_CACHE_LIMIT='much'" in refused.err
    assert refused.err.count("\n") == 1


def test_a_folder_named_like_markup_is_printed_as_it_is(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AILORA_CACHE", str(tmp_path / "[red]"))
    assert "[red]" in call("cache").out


def test_it_does_not_import_torch() -> None:
    script = (
        "import sys; from ailora.lab.cli.main import main; sys.argv = ['ailora', 'cache']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)
