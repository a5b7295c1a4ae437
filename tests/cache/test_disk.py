"""The size limit: what it may say, what goes first, and off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ailora import cache
from ailora.cache import disk
from ailora.cache.disk import DEFAULT_LIMIT, size_limit
from ailora.errors import UserError
from tests.cache.conftest import entry_names, weight

KEYS = [f"{i:064x}" for i in range(6)]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", DEFAULT_LIMIT),
        ("0", 0),
        ("123456", 123456),
        ("2GB", 2 * 10**9),
        ("1.5 gb", 15 * 10**8),
        ("2GiB", 2 * 2**30),
        (" 500M ", 5 * 10**8),
        ("8k", 8000),
        ("1TB", 10**12),
    ],
)
def test_a_limit_is_bytes_or_has_a_unit(
    text: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AILORA_CACHE_LIMIT", text)
    assert size_limit() == size


@pytest.mark.parametrize("text", ["lots", "-1", "2XB", "1e9", "nan", "GB", "2 2"])
def test_another_limit_is_refused_in_one_line_that_quotes_it(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AILORA_CACHE_LIMIT", text)
    with pytest.raises(UserError, match=f"AILORA_CACHE_LIMIT='{text}' is not a size") as raised:
        cache.decompose(weight(), 3, "minor")
    assert "\n" not in str(raised.value)


def test_at_limit_0_nothing_is_read_or_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, computed: list[object]
) -> None:
    cache.decompose(weight(), 3, "minor")
    before = entry_names(folder)
    monkeypatch.setenv("AILORA_CACHE_LIMIT", "0")
    cache.decompose(weight(), 3, "minor")
    cache.decompose(weight(), 3, "principal")
    assert len(computed) == 3
    assert entry_names(folder) == before


def _put(folder: Path, key: str, *, limit: int, size: int = 100, used: float = 0) -> None:
    assert disk.add(folder, key, 8, b"x" * size, limit=limit)
    os.utime(folder / f"{key}-8.safetensors", (used, used))


def _keys(folder: Path) -> list[str]:
    return sorted(entry.key for entry in disk.entries_in(folder))


def test_the_least_recently_used_goes_first(folder: Path) -> None:
    for used, key in zip((30, 10, 20), KEYS, strict=False):
        _put(folder, key, limit=300, used=used)
    _put(folder, KEYS[3], limit=300, used=40)
    assert _keys(folder) == [KEYS[0], KEYS[2], KEYS[3]]
    _put(folder, KEYS[4], limit=300, size=150, used=50)
    assert _keys(folder) == [KEYS[3], KEYS[4]]


def test_the_folder_is_listed_again_only_after_a_sixteenth_of_the_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    real = disk.entries_in
    monkeypatch.setattr(disk, "entries_in", lambda *where: listed.append(where) or real(*where))
    for i in range(160):
        assert disk.add(folder, f"{i:064x}", 8, b"x" * 100, limit=32_000)
        assert len(listed) == 1 + i // 20


def test_a_full_folder_is_relieved_of_a_sixteenth_at_once(folder: Path) -> None:
    for i in range(100):
        assert disk.add(folder, f"{i:064x}", 8, b"x" * 160, limit=16_000)
        os.utime(folder / f"{i:064x}-8.safetensors", (i, i))
    assert disk.add(folder, "f" * 64, 8, b"x" * 160, limit=16_000)
    left = _keys(folder)
    assert left == [*(f"{i:064x}" for i in range(7, 100)), "f" * 64]


def test_reading_an_entry_keeps_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, computed: list[object]
) -> None:
    A, B, C = (weight(30, 30, seed=seed) for seed in (1, 2, 3))
    for W, used in ((A, 10), (B, 20)):
        before = entry_names(folder)
        cache.decompose(W, 3, "minor")
        (new,) = entry_names(folder) - before
        os.utime(folder / new, (used, used))
    cache.decompose(A, 2, "minor")
    monkeypatch.setenv("AILORA_CACHE_LIMIT", str(cache.status().size + 10))
    cache.decompose(C, 3, "minor")
    assert len(computed) == 3
    cache.decompose(A, 3, "minor")
    assert len(computed) == 3, "A was used last and is still there"
    cache.decompose(B, 3, "minor")
    assert len(computed) == 4, "B was evicted"


def test_the_folder_never_passes_its_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AILORA_CACHE_LIMIT", "12kB")
    for seed in range(12):
        cache.decompose(weight(30, 30, seed=seed), 4, "minor")
        assert 0 < sum(path.stat().st_size for path in folder.glob("*.*")) <= 12_000
    assert cache.status().entries > 1


def test_an_entry_above_the_limit_evicts_nothing_and_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.decompose(weight(9, 9), 1, "minor")
    before = entry_names(folder)
    monkeypatch.setenv("AILORA_CACHE_LIMIT", "2000")
    for part in ("minor", "principal"):
        cache.decompose(weight(90, 90), 8, part)  # type: ignore[arg-type]
    assert entry_names(folder) == before
    assert [record.message for record in caplog.records if "above the limit" in record.message] == [
        caplog.records[-1].message
    ]


def test_what_killed_writers_left_goes_after_an_hour_and_other_files_stay(folder: Path) -> None:
    folder.mkdir(parents=True)
    old, new = (folder / f".{KEYS[0]}-8.safetensors.{end}.tmp" for end in ("old", "new"))
    foreign = folder / ".notes.tmp"
    for path in (old, new, foreign, folder / "mine.safetensors"):
        path.write_bytes(b"x" * 1000)
    for path in (old, foreign):
        os.utime(path, (10, 10))
    _put(folder, KEYS[1], limit=300)
    left = {path.name for path in folder.iterdir()}
    assert left == {new.name, ".notes.tmp", "mine.safetensors", f"{KEYS[1]}-8.safetensors"}


def test_clear_deletes_entries_and_nothing_else(folder: Path, computed: list[object]) -> None:
    asset = folder.parent / "assets" / "model.safetensors"
    asset.parent.mkdir(parents=True)
    asset.write_bytes(b"x")
    cache.decompose(weight(), 3, "minor")
    cache.decompose(weight(), 4, "minor")
    (folder / "mine.safetensors").write_bytes(b"x")
    assert cache.clear() == 2
    assert entry_names(folder) == {"mine.safetensors"}
    assert asset.exists()
    assert cache.clear() == 0
    cache.decompose(weight(), 3, "minor")
    assert len(computed) == 3


def test_status_counts_what_is_there_and_makes_nothing(folder: Path) -> None:
    empty = cache.status()
    assert (empty.entries, empty.size, empty.last_used) == (0, 0, None)
    assert not folder.parent.exists()
    _put(folder, KEYS[0], limit=1000, used=1_700_000_000)
    _put(folder, KEYS[1], limit=1000, size=50, used=1_600_000_000)
    now = cache.status()
    assert (now.folder, now.entries, now.size, now.limit) == (folder, 2, 150, DEFAULT_LIMIT)
    assert now.last_used is not None
    assert now.last_used.timestamp() == 1_700_000_000
