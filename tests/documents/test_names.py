"""Every path and every name of this library that the documents mention is there."""

from __future__ import annotations

import re
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "DECISIONS.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Where a path in a document may begin.
FROM = [
    ROOT,
    ROOT / "src" / "ailora",
    ROOT / "src" / "ailora" / "lab",
    ROOT / "src",
    ROOT / "tests",
    ROOT / "docs",
    ROOT / "tests/adapters",
]
_PATH = re.compile(r"`([\w./-]+\.py|[\w.-]+/(?:[\w.-]+/)*)(?:::\w+)?`")
_NAME = re.compile(r"`(ailora(?:\.\w+)+)\b[^`]*`")
# Folders that a user's own work makes, and scripts of other projects.
THEIRS = {"checkpoints/", "start/", "runs/", "run_glue.py", "setup.py"}


def paths(page: Path) -> set[str]:
    return set(_PATH.findall(page.read_text(encoding="utf-8"))) - THEIRS


def names(page: Path) -> set[str]:
    return set(_NAME.findall(page.read_text(encoding="utf-8")))


def is_there(name: str) -> bool:
    """Whether a dotted name is a module of this library or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            module = import_module(".".join(parts[:count]))
        except ImportError:
            continue
        try:
            reduce(getattr, parts[count:], module)
        except AttributeError:
            return False
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_is_there(page: Path) -> None:
    assert {
        path for path in paths(page) if not any((base / path).exists() for base in FROM)
    } == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_is_there(page: Path) -> None:
    assert {name for name in names(page) if not is_there(name)} == set()


def test_there_are_paths_and_names_to_look_for() -> None:
    assert len(set().union(*map(paths, PAGES))) > 30
    assert len(set().union(*map(names, PAGES))) > 10


def test_a_path_and_a_name_that_are_not_there_would_be_seen() -> None:
    assert not any((base / "adapters/factors/anchored.py").exists() for base in FROM)
    assert not is_there("ailora.peft_config")
    assert is_there("ailora.adapters.step_hooks.watch")
