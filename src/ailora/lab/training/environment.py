"""What a result was computed on and with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("ailora", "torch", "transformers", "peft", "accelerate", "datasets", "numpy")


def environment() -> dict[str, str | int]:
    """Versions, processor, cores and accelerator, for ``config.json`` and the report."""
    found: dict[str, str | int] = {"python": platform.python_version()}
    found |= {name: _version(name) for name in PACKAGES}
    found["platform"] = f"{platform.system()} {platform.machine()}"
    found["cpu"] = _cpu()
    found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    found["threads"] = torch.get_num_threads()
    found["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found


def computes_bf16_natively() -> bool:
    """Whether bf16 arithmetic is the device's own; emulated, it is slower than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private, but torch has no public question for it; without it the answer is the safe one.
    asks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, ask, lambda: False)() for ask in asks)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
