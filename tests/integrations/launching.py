"""Starts `distributed.py` in two processes, and reads what it left."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("distributed.py")
DDP = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]


def fsdp(
    version: int,
    efficient: bool = False,
    kind: str = "FULL_STATE_DICT",
    layer: str = "LlamaDecoderLayer",
) -> list[str]:
    """Accelerate's launcher for two processes; a port has to follow."""
    return [
        *("-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--use_fsdp"),
        *("--fsdp_version", str(version), "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
        *("--fsdp_transformer_layer_cls_to_wrap", layer),
        *("--fsdp_cpu_ram_efficient_loading", str(efficient).lower()),
        *("--fsdp_state_dict_type", kind, "--main_process_port"),
    ]


def launch(launcher: list[str], model: Path, out: Path, *more: str) -> Any:
    out.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *launcher, free_port(), str(SCRIPT), str(model), str(out), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=SCRIPT.parents[2],
        capture_output=True,
        text=True,
        timeout=240,
    )


def run(launcher: list[str], model: Path, out: Path, *more: str) -> dict[str, Any]:
    done = launch(launcher, model, out, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "done-0.json").read_text())


def resume(launcher: list[str], model: Path, whole: Path, out: Path, *more: str) -> dict[str, Any]:
    """The second half of a run again, from its checkpoint at half-way."""
    out.mkdir()
    (whole / "checkpoint-3").rename(out / "checkpoint-3")
    return run(launcher, model, out, "--resume", *more)


def adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def free_port() -> str:
    """Of this machine, for processes to meet at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])
