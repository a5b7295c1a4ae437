"""What is published: a wheel that is the same bytes wherever it is built, and all that is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEEDED = ("src", "pyproject.toml", "README.md", "LICENSE")


def copied(folder: Path, modified: int) -> Path:
    """The sources in a folder, as a checkout made at another time."""
    folder.mkdir()
    caches = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in NEEDED:
        copy = shutil.copy if (ROOT / name).is_file() else partial(shutil.copytree, ignore=caches)
        copy(ROOT / name, folder / name)
    for path in folder.rglob("*"):
        os.utime(path, (modified, modified))
    return folder


def built(source: Path, out: Path) -> Path:
    """The wheel that is made from the source archive of these sources."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", out, source],
        capture_output=True,
        text=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600", "CC": "false", "CXX": "false"},
        umask=0o022,  # file modes are in a wheel
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkout, and its wheel."""
    folder = tmp_path_factory.mktemp("first")
    source = copied(folder / "source", 1_700_000_000)
    return source, built(source, folder / "out")


@pytest.mark.slow
def test_the_wheel_has_all_files_and_needs_no_compiler(first: tuple[Path, Path]) -> None:
    source, wheel = first
    assert wheel.name.endswith("-py3-none-any.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ailora/")}
    there = [path for path in (source / "src" / "ailora").rglob("*") if path.is_file()]
    assert inside == {str(path.relative_to(source / "src")) for path in there}


@pytest.mark.slow
def test_the_wheel_is_the_same_bytes_from_any_checkout(
    first: tuple[Path, Path], tmp_path: Path
) -> None:
    other = copied(tmp_path / "other", 1_750_000_001)
    wheel = built(other, tmp_path / "out")
    assert wheel.name == first[1].name
    assert wheel.read_bytes() == first[1].read_bytes()
    # The control: another file is another wheel.
    (other / "src" / "ailora" / "more.py").write_text('"""More."""\n')
    assert built(other, tmp_path / "more").read_bytes() != wheel.read_bytes()
