"""Of two processes with one folder for their results, one goes on and the other is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ailora import AILoRAConfig
from ailora.errors import UserError
from ailora.lock import LockedError, held
from ailora.offline import export_adapter, extract_adapter, init_files, merge_adapter
from tests.checkpoints.models import files, saved
from tests.offline.models import stock_adapter

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
Write = Callable[[Path, Path], Any]

# What writes to a folder, from the inputs; and what it reads first, once it has its folder.
OPERATIONS: dict[str, tuple[Write, str]] = {
    "init": (
        lambda inputs, out: init_files(inputs / "llama", out, AILoRAConfig(r=4, anchored=False)),
        "started_weights.open_checkpoint",
    ),
    "init, anchored": (
        lambda inputs, out: init_files(inputs / "llama", out, AILoRAConfig(r=4)),
        "started_weights.open_checkpoint",
    ),
    "export": (
        lambda inputs, out: export_adapter(inputs / "adapter", out, base="any"),
        "export.read_plain",
    ),
    "merge": (
        lambda inputs, out: merge_adapter(inputs / "adapter", inputs / "llama", out),
        "merge.read_plain",
    ),
    "extract": (
        lambda inputs, out: extract_adapter(inputs / "llama", inputs / "merged", out, rank=4),
        "extract.read_pair",
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    saved(folder / "llama", "llama")
    stock_adapter(folder / "adapter")
    merge_adapter(folder / "adapter", folder / "llama", folder / "merged")
    return folder


def ends_of_two(run: Callable[[], object]) -> Iterator[str]:
    """Run in two forked processes at once; how each ended: "done", or why it was refused."""
    pipes = []
    for _ in range(2):
        reading, writing = os.pipe()
        if os.fork() == 0:
            said = "done"
            try:
                run()
            except LockedError as error:
                said = f"locked: {error}"
            except BaseException as error:
                said = repr(error)
            os.write(writing, said.encode())
            os._exit(0)
        os.close(writing)
        pipes.append(reading)
    for reading in pipes:
        with os.fdopen(reading, encoding="utf-8") as stream:
            yield stream.read()
        os.wait()


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_wins_whole_and_the_other_is_refused(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write, first_read = OPERATIONS[name]
    write(inputs, tmp_path / "alone")
    module, _, function = first_read.partition(".")
    module = f"ailora.offline.{module}"
    inner = getattr(sys.modules[module], function)

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(0.5)
        return inner(*args, **options)

    monkeypatch.setattr(f"{module}.{function}", slowly)
    out = tmp_path / "new" / "out"
    refused, done = sorted(ends_of_two(lambda: write(inputs, out)), reverse=True)
    assert done == "done"
    assert refused.startswith(f"locked: {out}: process ")
    assert "is working there; wait for it to end, or stop it" in refused
    assert "\n" not in refused
    assert _without_paths(out) == _without_paths(tmp_path / "alone")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_command_is_refused_in_one_line_and_leaves_the_folder_alone(
    inputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = "from ailora.lab.cli.main import main; main()"
    command = [sys.executable, "-c", code, "init", str(inputs / "llama"), "--out", str(out)]
    with held(tmp_path / ".out.lock"):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"ailora: {out}: process {os.getpid()} on ")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_refusal_for_another_reason_leaves_no_lock(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 32"):
        init_files(inputs / "llama", tmp_path / "deep" / "out", AILoRAConfig(r=10_000))
    assert not (tmp_path / "deep").exists()


def _without_paths(folder: Path) -> dict[str, bytes]:
    """The files that do not name the folder they lie in."""
    told = ("README.md", "adapter_config.json", "ailora.json")
    return {name: data for name, data in files(folder).items() if not name.endswith(told)}
