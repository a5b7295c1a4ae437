"""Peak extra memory of one decomposition, in a process of its own: prints bytes.

python benchmarks/memory.py 2048x2048 8 minor ailora
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from matrices import weight

from ailora.linalg import Part

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(shape: str, rank: int, part: str, method: str) -> int | None:
    """Bytes above what the process held before, by the high-water mark; None if not on Linux."""
    if not _RESET.exists():
        return None
    command = [sys.executable, __file__, shape, str(rank), part, method]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _resident(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def main() -> None:
    from contenders import ailora, svd_fp32  # noqa: PLC0415 - the parent process needs none of it

    m, n = map(int, sys.argv[1].split("x"))
    part: Part = "minor" if sys.argv[3] == "minor" else "principal"
    run = ailora if sys.argv[4] == "ailora" else svd_fp32
    W = weight("gaussian", (m, n))
    run(torch.eye(100), 4, part)  # imports and thread pools
    _RESET.write_text("5")
    before = _resident("VmRSS")
    run(W, int(sys.argv[2]), part)
    print(_resident("VmHWM") - before)


if __name__ == "__main__":
    main()
