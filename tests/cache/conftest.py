"""A cache of its own for each test, and a count of what is really computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ailora import linalg
from ailora.cache import decompositions
from tests.conftest import one_thread


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of entries, not there yet."""
    monkeypatch.setenv("AILORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AILORA_CACHE_LIMIT", raising=False)
    monkeypatch.setattr(decompositions, "_complained", set())
    return tmp_path / "cache" / "decompositions"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Rank and part of every decomposition that was computed and not read."""
    calls: list[tuple[int, str]] = []
    real = linalg.decompose

    def counted(weight: Tensor, rank: int, part: linalg.triplets.Part, **how: float) -> object:
        calls.append((rank, part))
        return real(weight, rank, part, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(linalg, "decompose", counted)
    return calls


def weight(m: int = 90, n: int = 70, *, seed: int = 0) -> Tensor:
    """W (m, n) float32."""
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed))


def same(a: linalg.Triplets, b: linalg.Triplets) -> bool:
    """Whether two results agree to the bit, their check (but for the seconds) included."""
    checks = [{**vars(t.check), "seconds": 0} for t in (a, b)]
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("U", "S", "Vt"))
        and checks[0] == checks[1]
        and (a.part, a.dead_below) == (b.part, b.dead_below)
    )


def entry_names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.safetensors")}
