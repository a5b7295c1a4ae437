"""The tests of the installed PEFT, from its source archive on the package index or a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from ailora.errors import UserError
from ailora.files import cache_dir, sha256_of, write_atomic

PACKAGE = "peft_tests"  # not "tests", as this project's own are


def obtain() -> tuple[Path, str]:
    """A folder with PEFT's tests as the package ``peft_tests``, and where they come from.

    ``PEFT_TESTS`` names a checkout of PEFT; else ``pip download`` fetches the source archive of the
    installed version once, into the user's cache.

    Raises:
        UserError: pip cannot have it, or there are no tests in it.
    """
    checkout = os.environ.get("PEFT_TESTS")
    if checkout:
        folder = cache_dir() / "peft-tests" / "checkout"
        _unpack(Path(checkout) / "tests", folder)
        return folder, "a checkout"
    release = version("peft")
    folder = cache_dir() / "peft-tests" / release
    note = folder / "SHA256"
    if not note.exists():
        with tempfile.TemporaryDirectory() as scratch:
            archive = _download(release, Path(scratch))
            with tarfile.open(archive) as file:
                file.extractall(scratch, filter="data")
            _unpack(Path(scratch) / f"peft-{release}" / "tests", folder)
            write_atomic(note, sha256_of(archive))  # last: what lacks it is fetched again
    return folder, f"{release}.tar.gz sha256 {note.read_text()}"


def _download(release: str, folder: Path) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--dest", str(folder)),
        f"peft=={release}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    found = list(folder.glob("peft-*.tar.gz"))
    if done.returncode or not found:
        raise UserError(
            f"pip cannot fetch the source archive of peft {release}; set PEFT_TESTS to a checkout "
            "of that version"
        )
    return found[0]


def _unpack(tests: Path, folder: Path) -> None:
    if not (tests / "testing_common.py").exists():
        raise UserError(f"{tests}: no tests of PEFT are there; set PEFT_TESTS to a checkout of it")
    package = folder / PACKAGE
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for file in tests.glob("*.py"):
        if file.name != "conftest.py":
            shutil.copy(file, package)
    (package / "__init__.py").touch()
    (folder / "pytest.ini").write_text("[pytest]\n")
