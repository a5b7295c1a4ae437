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


@pytest.mark.slow
def test_the_wheel_is_the_same_bytes_from_any_checkout_and_has_all_files(tmp_path: Path) -> None:
    wheels = []
    for name, modified in (("one", 1_700_000_000), ("two", 1_750_000_001)):
        wheels.append(built(copied(tmp_path / name, modified), tmp_path / f"{name}-out"))
    assert wheels[0].name == wheels[1].name
    assert wheels[0].name.endswith("-py3-none-any.whl"), "no compiler is needed"
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    inside = {name for name in zipfile.ZipFile(wheels[0]).namelist() if name.startswith("ailora/")}
    source = tmp_path / "one" / "src"
    there = [path for path in (source / "ailora").rglob("*") if path.is_file()]
    assert inside == {str(path.relative_to(source)) for path in there}
    # The control: another file is another wheel.
    (tmp_path / "two" / "src" / "ailora" / "more.py").write_text('"""More."""\n')
    other = built(tmp_path / "two", tmp_path / "other")
    assert other.read_bytes() != wheels[0].read_bytes()
