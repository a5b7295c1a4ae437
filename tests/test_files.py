"""Files are whole or absent, and the cache is where the user says."""

import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from ailora import files
from ailora.errors import UserError


def test_write_atomic_replaces_bytes_and_text_exactly(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    files.write_atomic(path, b"\x00old\r\n")
    assert path.read_bytes() == b"\x00old\r\n"
    files.write_atomic(path, "né\r\n")
    assert path.read_bytes() == "né\r\n".encode()


def test_write_atomic_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    files.write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: No space left on device"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_write_atomic_gives_the_file_the_mode_of_an_ordinary_one(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for write in (files.write_atomic, files.append_line):
        with pytest.raises(UserError, match="cannot write"):
            write(tmp_path / "file" / "a.txt", "x")


def test_write_json_keeps_key_order_and_refuses_nan_without_touching_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": [0.5, "é"]})
    assert path.read_text(encoding="utf-8").index('"b"') < path.read_text().index('"a"')
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            files.write_json(path, {"x": bad})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": [0.5, "é"]}


def test_append_line_adds_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "m.jsonl"
    files.append_line(path, "one")
    files.append_line(path, "zwei ü")
    assert path.read_bytes() == "one\nzwei ü\n".encode()
    with pytest.raises(ValueError, match="one line"):
        files.append_line(path, "a\nb")
    assert path.read_bytes() == "one\nzwei ü\n".encode()


def test_sha256_of_agrees_with_hashlib_over_several_blocks(tmp_path: Path) -> None:
    content = os.urandom(3 * (1 << 20) + 17)
    (tmp_path / "big").write_bytes(content)
    assert files.sha256_of(tmp_path / "big") == hashlib.sha256(content).hexdigest()


def test_the_cache_is_where_ailora_cache_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AILORA_CACHE", str(tmp_path / "mine"))
    assert files.cache_path() == tmp_path / "mine"
    assert not (tmp_path / "mine").exists()
    assert files.cache_dir().is_dir()
    assert not list(files.cache_dir().iterdir())


@pytest.mark.skipif(os.name != "posix", reason="XDG is for Unix")
def test_xdg_cache_home_is_used_unless_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("AILORA_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_path() == tmp_path / "xdg" / "ailora"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert files.cache_path() == tmp_path / ".cache" / "ailora"


def test_a_cache_that_cannot_be_written_names_the_folder_and_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("AILORA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"file/cache.*set AILORA_CACHE") as caught:
        files.cache_dir()
    assert "\n" not in str(caught.value)


def test_a_tree_is_synchronised_file_by_file_and_its_folders_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_text("x")
    synced: list[Path] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink())
    )
    files.sync_tree(tmp_path)
    assert synced == [tmp_path / "inner" / "a", tmp_path / "inner", tmp_path]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.json.x1.tmp", "inner/.b.x2.tmp/c", "inner/kept.tmp", ".hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    files.remove_temporary(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"inner/kept.tmp", ".hidden"}


@pytest.mark.parametrize("proc", [True, False])
def test_asking_for_the_usual_mode_makes_no_file_of_another_thread_public(
    proc: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The umask belongs to the process: whoever sets it to read it, sets it for every thread."""
    if not proc:

        def unreadable(*_: object, **__: object) -> str:
            raise OSError

        monkeypatch.setattr(Path, "read_text", unreadable)
    before = os.umask(0o027)
    asked, ended = set(), threading.Event()

    def ask() -> None:
        while not ended.is_set():
            asked.add((files.usual_mode(), files.usual_mode(folder=True)))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        paths = [tmp_path / str(number) for number in range(3000)]
        for path in paths:
            path.open("x").close()
    finally:
        ended.set()
        thread.join()
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert not any(mode & 0o027 for mode in modes), [oct(mode) for mode in modes]
    assert asked == {(0o640, 0o750)}
