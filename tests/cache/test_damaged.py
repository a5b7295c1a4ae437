"""A damaged entry is computed again, an unusable folder done without: each with a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ailora import linalg
from ailora.cache import decompose, decompositions
from tests.cache.conftest import entry_names, same, weight

Computed = list[object]


def _the_entry(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("<html>404</html>")


def _without_checksum(path: Path) -> None:
    save_file(load_file(path), path)


def _not_a_number(path: Path) -> None:
    whole, _ = decompositions.read_entry(path, shape=(90, 70), rank=3)
    U = whole.U.clone()
    U[5, 1] = float("nan")
    path.write_bytes(decompositions.entry_bytes(replace(whole, U=U), 1e-8))


def _of_another_weight(path: Path) -> None:
    path.write_bytes(decompositions.entry_bytes(linalg.decompose(weight(50, 40), 3, "minor"), 1e-8))


def _of_another_rank(path: Path) -> None:
    path.write_bytes(decompositions.entry_bytes(linalg.decompose(weight(), 2, "minor"), 1e-8))


DAMAGE = [
    _truncate,
    _empty,
    _text,
    _without_checksum,
    _not_a_number,
    _of_another_weight,
    _of_another_rank,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__.strip("_"))
def test_a_damaged_entry_is_computed_again_with_a_warning(
    damage: Callable[[Path], None],
    folder: Path,
    computed: Computed,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = decompose(weight(), 3, "minor")
    damage(_the_entry(folder))
    before = len(computed)
    assert same(decompose(weight(), 3, "minor"), first)
    assert len(computed) == before + 1
    assert [r.levelname for r in caplog.records if "damaged cache entry" in r.message] == [
        "WARNING"
    ]
    assert same(decompose(weight(), 3, "minor"), first), "mended"
    assert len(computed) == before + 1


def test_any_flipped_bit_is_seen(folder: Path) -> None:
    decompose(weight(12, 10), 2, "minor")
    path = _the_entry(folder)
    whole = path.read_bytes()
    expected, _ = decompositions.read_entry(path, shape=(12, 10), rank=2)
    unseen = []
    for position in range(8, len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            found, _ = decompositions.read_entry(path, shape=(12, 10), rank=2)
        except decompositions.DamagedEntryError:
            continue
        if not (same(found, expected) and found.check == expected.check):
            unseen.append(position)
    assert unseen == []


def test_a_larger_entry_that_is_damaged_is_skipped_for_the_next(
    folder: Path, computed: Computed
) -> None:
    decompose(weight(), 3, "minor")
    small = _the_entry(folder)
    decompose(weight(), 6, "minor")
    _truncate(small)
    decompose(weight(), 3, "minor")
    assert len(computed) == 2, "served by the rank-6 entry"
    assert len(entry_names(folder)) == 1


def test_a_cache_path_below_a_file_costs_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    computed: Computed,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AILORA_CACHE", str(tmp_path / "file"))
    expected = linalg.decompose(weight(), 3, "minor")
    assert same(decompose(weight(), 3, "minor"), expected)
    assert same(decompose(weight(), 3, "minor"), expected)
    assert len(computed) == 3
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "not cached" in warning
    assert "Not a directory" in warning
    assert "AILORA_CACHE_LIMIT=0" in warning


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_still_read(folder: Path, computed: Computed) -> None:
    first = decompose(weight(), 3, "minor")
    folder.chmod(0o500)
    try:
        assert same(decompose(weight(), 3, "minor"), first)
        decompose(weight(), 3, "principal")
    finally:
        folder.chmod(0o700)
    assert len(computed) == 2


def test_an_entry_that_cannot_be_touched_is_still_read(
    monkeypatch: pytest.MonkeyPatch, computed: Computed
) -> None:
    first = decompose(weight(), 3, "minor")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    assert same(decompose(weight(), 3, "minor"), first)
    assert len(computed) == 1


def test_without_a_home_it_computes(
    monkeypatch: pytest.MonkeyPatch, computed: Computed, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("AILORA_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    decompose(weight(), 3, "minor")
    decompose(weight(), 3, "minor")
    assert len(computed) == 2
    assert sum("not cached" in r.message for r in caplog.records) == 1


FULL = """
import logging, resource, torch
from ailora.cache import decompose
logging.basicConfig()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
W = torch.randn(90, 70, generator=torch.Generator().manual_seed(0))
assert decompose(W, 3, "minor").rank == decompose(W, 3, "principal").rank == 3
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as a full disk would")
def test_a_disk_that_fills_up_leaves_no_part_of_a_file_and_the_start_goes_on(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FULL], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("not cached") == 1
    assert {path.name for path in folder.iterdir()} == {"locks"}


def test_a_solver_that_fails_is_not_hidden_by_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no such thing")

    monkeypatch.setattr(linalg, "decompose", fail)
    with pytest.raises(OSError, match="no such thing"):
        decompositions.decompose(torch.eye(9), 3, "minor")
    assert entry_names(folder) == set()
