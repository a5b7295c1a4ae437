"""The hub's cache on disk as huggingface_hub writes it, used offline."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest


def use_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let this process know no hub but that folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def cached(cache: Path, name: str, commit: str, content: Path, *, refs: Sequence[str]) -> Path:
    """Put a folder into the cache as a snapshot of a repository; returns the snapshot's folder."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(content, snapshot)
    for ref in refs:
        path = repository / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    return snapshot
