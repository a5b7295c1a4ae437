"""Runs that are killed, or find no room: nothing broken is left, and the same call ends alike."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ailora import AILoRAConfig
from ailora.errors import UserError
from ailora.offline import (
    export_adapter,
    extract_adapter,
    init_files,
    merge_adapter,
    plain_lora,
)
from tests.checkpoints.models import files, saved
from tests.offline.models import stock_adapter

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
CONFIG = AILoRAConfig(r=4, anchored=False)


def in_a_child(run: Callable[[], None]) -> int:
    """Run in a forked process; its signal or 0, as `os.waitstatus_to_exitcode` says."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        except UserError as error:
            code = 2 if str(error).startswith("cannot write") and "\n" not in str(error) else 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killer(at: int) -> Callable[[str, int, int], None]:
    """A progress callback that kills its own process at the n-th call."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def calls_of(run: Callable[[Callable[[str, int, int], None]], object]) -> int:
    seen: list[object] = []
    run(lambda *about: seen.append(about))
    return len(seen)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.9, 1.0])
def test_killed_anywhere_the_same_call_ends_in_the_same_bytes(tmp_path: Path, share: float) -> None:
    model = saved(tmp_path / "model", "llama", torch.bfloat16, shards=True)
    out = tmp_path / "out"
    calls = calls_of(lambda progress: init_files(model, out, CONFIG, on_progress=progress))
    whole = files(out)
    out.rename(tmp_path / "whole")  # the adapter names the folder it lies in
    at = max(1, int(share * calls))
    ended = in_a_child(lambda: init_files(model, out, CONFIG, on_progress=killer(at)) and None)
    assert ended == -signal.SIGKILL
    assert files(out) != whole
    init_files(model, out, CONFIG)
    assert files(out) == whole


def test_a_finished_shard_is_not_made_again(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama", shards=True)
    out = tmp_path / "out"
    calls = calls_of(
        lambda progress: init_files(model, tmp_path / "whole", CONFIG, on_progress=progress)
    )
    at = int(0.6 * calls)
    in_a_child(lambda: init_files(model, out, CONFIG, on_progress=killer(at)) and None)
    before = {path: path.stat().st_ino for path in (out / "model").glob("model-*.safetensors")}
    assert 0 < len(before) < len(list(model.glob("model-*.safetensors")))
    doing: list[str] = []
    init_files(model, out, CONFIG, on_progress=lambda what, *_: doing.append(what))
    assert {path: path.stat().st_ino for path in before} == before
    assert set(doing) == {"writing"}  # the factors were found already


def test_called_again_when_finished_it_reports_and_writes_nothing(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama", shards=True)
    first = init_files(model, tmp_path / "out", CONFIG)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert init_files(model, tmp_path / "out", CONFIG) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_another_call_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama")
    init_files(model, tmp_path / "out", CONFIG)
    with pytest.raises(UserError, match=r"another r \(4, now 2\)"):
        init_files(model, tmp_path / "out", AILoRAConfig(r=2, anchored=False))
    with pytest.raises(UserError, match="another dtype"):
        init_files(model, tmp_path / "out", CONFIG, dtype="float64")
    with pytest.raises(UserError, match="another model"):
        init_files(saved(tmp_path / "other", "llama"), tmp_path / "out", CONFIG)


def rewrite(path: Path) -> None:
    """Other values in the same place, as another process saves them."""
    data = path.read_bytes()
    path.write_bytes(data[:-64] + bytes(64))


def replace(path: Path) -> None:
    """Another file of the same size under the same name, as an atomic writer leaves it."""
    other = path.with_name("other.tmp")
    other.write_bytes(path.read_bytes())
    rewrite(other)
    about = path.stat()
    other.replace(path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize("change", [rewrite, replace, Path.unlink], ids=lambda one: one.__name__)
@pytest.mark.parametrize("what", ["folded", "anchored", "merge", "extract", "the adapter"])
def test_a_model_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, what: str, change: Callable[[Path], None]
) -> None:
    """What was read before and after would be of two models, in a folder that looks whole."""
    model, out = saved(tmp_path / "model", "llama"), tmp_path / "out"
    adapter = tmp_path / "adapter"
    stock_adapter(adapter)
    watched = (adapter if what == "the adapter" else model) / (
        "adapter_model.safetensors" if what == "the adapter" else "model.safetensors"
    )
    began: list[object] = []

    def once(*about: object) -> None:
        if not began:
            change(watched)
        began.append(about)

    with pytest.raises(UserError, match=r"(changed while it was read|cannot be read)"):
        if what in ("folded", "anchored"):
            config = AILoRAConfig(r=4, anchored=what == "anchored")
            init_files(model, out, config, on_progress=once)
        elif what == "extract":
            tuned = saved(tmp_path / "tuned", "llama")
            weights = load_file(tuned / "model.safetensors")
            save_file({k: 1.1 * v for k, v in weights.items()}, tuned / "model.safetensors")
            extract_adapter(model, tuned, out, rank=2, on_progress=once)
        else:
            merge_adapter(adapter, model, out, on_progress=once)
    assert began
    assert out.exists() is (what != "anchored" and (what, change) != ("extract", Path.unlink))
    if out.exists():
        assert '"report": null' in next(out.glob("ailora_*.json")).read_text()


def test_an_adapter_that_changes_while_it_is_exported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "adapter"
    stock_adapter(adapter)
    written = plain_lora.save_file

    def save(*args: object, **kwargs: object) -> None:
        rewrite(adapter / "adapter_model.safetensors")
        written(*args, **kwargs)

    monkeypatch.setattr(plain_lora, "save_file", save)
    with pytest.raises(UserError, match="changed while it was read"):
        export_adapter(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize("most", [4_000, 12_000])
def test_without_room_nothing_broken_is_left_and_it_goes_on_later(
    tmp_path: Path, most: int
) -> None:
    model = saved(tmp_path / "model", "llama", shards=True)
    out = tmp_path / "out"
    init_files(model, out, CONFIG)
    whole = files(out)
    out.rename(tmp_path / "whole")

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        init_files(model, out, CONFIG)

    assert in_a_child(run) == 2
    left = files(out)
    assert not [name for name in left if name.endswith((".tmp", "index.json"))]
    assert not (out / "adapter").exists()
    assert all(whole[name] == data for name, data in left.items() if name.startswith("model/"))
    init_files(model, out, CONFIG)
    assert files(out) == whole


def test_a_killed_merge_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama", shards=True)
    stock_adapter(tmp_path / "adapter")
    whole, out = tmp_path / "whole", tmp_path / "out"
    merge_adapter(tmp_path / "adapter", model, whole)

    def run() -> None:
        merge_adapter(tmp_path / "adapter", model, out, on_progress=killer(15))

    assert in_a_child(run) == -signal.SIGKILL
    merge_adapter(tmp_path / "adapter", model, out)
    assert files(out) == files(whole)
    with pytest.raises(UserError, match="another rank"):
        merge_adapter(tmp_path / "adapter", model, out, rank=2)
