"""A tiny asset, its wheel on a package index of one folder, and a fresh cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.demo import Asset, Member

FILES = {"toy/model/a.txt": b"alpha" * 5000, "toy/model/b.bin": bytes(range(256)) * 40}


@dataclass(frozen=True)
class Shop:
    """A tiny asset, the folder pip finds its wheel in, and the cache."""

    asset: Asset
    links: Path
    cache: Path

    @property
    def wheel(self) -> Path:
        return next(self.links.glob("*.whl"))

    @property
    def assets(self) -> Path:
        return self.cache / "assets"


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    info = "ailora_toy_asset-1.0.dist-info"
    meta = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: ailora-toy-asset\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(exist_ok=True)
    path = folder / "ailora_toy_asset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, **meta, f"{info}/RECORD": b""}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    wheel = make_wheel(tmp_path / "links", {**FILES, "toy/setup.py": b"raise SystemExit(1)"})
    members = tuple(
        Member(path=path, name=path.split("/")[-1], sha256=hashlib.sha256(content).hexdigest())
        for path, content in FILES.items()
    )
    asset = Asset(
        title="toy",
        package="ailora-toy-asset",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        size=wheel.stat().st_size,
        members=members,
        licence="none",
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("AILORA_CACHE", str(tmp_path / "cache"))
    return Shop(asset=asset, links=wheel.parent, cache=tmp_path / "cache")


@pytest.fixture
def no_subprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a subprocess was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Every process started, with the real thing done."""
    real: Callable[..., subprocess.Popen[str]] = subprocess.Popen
    seen: list[subprocess.Popen[str]] = []

    def start(*args: Any, **options: Any) -> subprocess.Popen[str]:
        seen.append(real(*args, **options))
        return seen[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return seen
