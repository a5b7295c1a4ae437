"""No member of an archive gets out of the folder it is unpacked into."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.demo import Member
from ailora.lab.demo.store import unpack

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
