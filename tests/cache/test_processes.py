"""Several processes at once, and the next process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ailora import cache
from tests.cache.conftest import entry_names

SCRIPT = """
import hashlib, json, sys, time
from pathlib import Path
import torch
from ailora import linalg
from ailora.cache import decompose
threads, may_compute, seeds, barrier, own = json.loads(sys.argv[1])
torch.set_num_threads(threads)
real, computed = linalg.decompose, []

def counted(W, rank, part, **how):
    assert may_compute, "a decomposition was computed"
    computed.append(part)
    time.sleep(0.05)
    return real(W, rank, part, **how)

linalg.decompose = counted
if barrier:
    Path(own).touch()
    while not Path(barrier).exists():
        time.sleep(0.002)
digest = hashlib.sha256()
for seed in seeds:
    W = torch.randn(100, 100, generator=torch.Generator().manual_seed(seed))
    for part in ("principal", "minor"):
        found = decompose(W, 4, part)
        assert found.check.residual <= 1e-8
        error = (W.double() @ found.Vt.T - found.U * found.S).abs().max()
        assert error < 1e-6, error
        for tensor in (found.U, found.S, found.Vt):
            digest.update(tensor.numpy().tobytes())
print(json.dumps([len(computed), digest.hexdigest()]))
"""


def _start(
    seeds: list[int],
    *,
    threads: int = 1,
    may_compute: bool = True,
    barrier: Path | None = None,
    own: Path | None = None,
) -> subprocess.Popen[str]:
    what = json.dumps([threads, may_compute, seeds, str(barrier or ""), str(own or "")])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "damaged" not in err
    count, digest = json.loads(out)
    return count, digest


def test_the_second_start_computes_nothing_and_is_the_same_to_the_bit() -> None:
    first = _end(_start([1, 2]))
    assert first[0] == 4
    again = _end(_start([1, 2], may_compute=False))
    assert again == (0, first[1])
    other_threads = _end(_start([1, 2], threads=2, may_compute=False))
    assert other_threads == (0, first[1])


def test_without_the_entries_the_second_start_would_have_computed() -> None:
    process = _start([1], may_compute=False)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "a decomposition was computed" in err


def test_processes_that_start_together_compute_each_weight_once(tmp_path: Path) -> None:
    barrier, seeds = tmp_path / "go", list(range(5))
    signs = [tmp_path / f"ready{i}" for i in range(3)]
    processes = [_start(seeds, barrier=barrier, own=sign) for sign in signs]
    _await(signs)
    barrier.touch()
    ends = [_end(process) for process in processes]
    assert len({digest for _, digest in ends}) == 1
    assert sum(count for count, _ in ends) == 2 * len(seeds)


def test_processes_that_evict_each_others_entries_still_get_right_answers(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AILORA_CACHE_LIMIT", "25kB")  # three entries
    barrier = tmp_path / "go"
    signs = [tmp_path / f"ready{i}" for i in range(3)]
    orders = ([0, 1, 2, 3, 0, 1], [3, 2, 1, 0, 3, 2], [1, 3, 0, 2, 1, 3])
    processes = [
        _start(order, barrier=barrier, own=sign) for order, sign in zip(orders, signs, strict=True)
    ]
    _await(signs)
    barrier.touch()
    while any(process.poll() is None for process in processes):
        cache.clear()
        time.sleep(0.05)
    for process in processes:
        _end(process)
    assert all(name.endswith("-4.safetensors") for name in entry_names(folder))
    assert not list(folder.glob(".*.tmp"))


def _await(signs: list[Path]) -> None:
    until = time.monotonic() + 90
    while not all(sign.exists() for sign in signs):
        assert time.monotonic() < until, "the processes did not come up"
        time.sleep(0.01)
