"""Adapters as servers read them: one rank, one scale, what each refuses, llama.cpp's names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import ailora
from ailora import AILoRAConfig, Role
from ailora.adapters.folder import read_adapter
from ailora.offline import export_adapter
from ailora.offline.servers import SERVERS
from tests.checkpoints.models import saved, tiny
from tests.offline.models import perturb

gguf = pytest.importorskip("gguf")

MIXED = AILoRAConfig(
    r=4,
    bake_rates=True,
    roles={
        "q": Role(init="principal"),
        "k": Role(init="gaussian", lora_alpha=3),
        "v": Role(init="minor", r=3, lr_ratio=2),
        "o": Role(init="minor", r=2),
    },
)
Matrix = np.ndarray[Any, Any]


def ours(folder: Path, family: str = "llama") -> dict[str, Matrix]:
    """Save an adapter with several ranks and scales; dW of each module in memory."""
    model = ailora.get_peft_model(tiny(family), MIXED).eval()
    perturb(model)
    model.save_pretrained(folder)
    layers = {name: model.get_base_model().get_submodule(name) for name in read_names(folder)}
    return {
        name: layer.get_delta_weight("default").detach().double().numpy()  # type: ignore[operator]
        for name, layer in layers.items()
    }


def read_names(folder: Path) -> list[str]:
    return list(read_adapter(folder).updates)


def close(found: Matrix, wanted: Matrix) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("server", SERVERS)
def test_alpha_over_r_of_the_config_is_all_that_needs_to_be_read(
    tmp_path: Path, server: str
) -> None:
    wanted = ours(tmp_path / "adapter")
    export_adapter(tmp_path / "adapter", tmp_path / "out", server=server)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    for name, dW in wanted.items():
        A, B = (tensors[f"base_model.model.{name}.lora_{x}.weight"].astype("f8") for x in "AB")
        assert A.shape[0] == B.shape[1] == config["r"] == 8
        close(scale * B @ A, dW)


# --- llama.cpp -------------------------------------------------------------------------------


def test_llama_cpp_has_a_name_for_each_weight(tmp_path: Path) -> None:
    """By gguf's own table, which its converter goes by."""
    ours(tmp_path / "adapter")
    export_adapter(tmp_path / "adapter", tmp_path / "out", server="llama.cpp")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    found = {}
    for key in load_file(tmp_path / "out" / "adapter_model.safetensors"):
        base = re.sub(r"^base_model\.model\.|\.lora_[AB](?=\.weight$)", "", key)
        found[key] = names.get_name(base, try_suffixes=(".weight",))
    assert set(found.values()) == {
        f"blk.{layer}.attn_{part}.weight" for layer in (0, 1) for part in ("q", "k", "v", "output")
    }


CONVERTER = "convert_lora_to_gguf.py"


@pytest.mark.slow
@pytest.mark.skipif("LLAMA_CPP" not in os.environ, reason="LLAMA_CPP=folder of llama.cpp's source")
def test_llama_cpps_converter_keeps_the_update(tmp_path: Path) -> None:
    """Its own script, run on files as saved and as exported; read again by the gguf package."""
    model = saved(tmp_path / "model")
    wanted = ours(tmp_path / "adapter")
    export_adapter(tmp_path / "adapter", tmp_path / "served", server="llama.cpp")
    for folder in ("adapter", "served"):
        command = [sys.executable, str(Path(os.environ["LLAMA_CPP"]) / CONVERTER)]
        out = tmp_path / f"{folder}.gguf"
        options = ["--base", str(model), "--outfile", str(out)]
        subprocess.run([*command, str(tmp_path / folder), *options], check=True)
        reader = gguf.GGUFReader(out)
        alpha = float(reader.fields["adapter.lora.alpha"].contents())
        tensors = {tensor.name: tensor.data.astype("f8") for tensor in reader.tensors}
        assert len(tensors) == 2 * len(wanted) == 16
        for name, dW in wanted.items():
            layer, part = re.findall(r"layers\.(\d)\.self_attn\.(\w)_proj", name)[0]
            key = f"blk.{layer}.attn_{'output' if part == 'o' else part}.weight"
            A, B = (tensors[f"{key}.lora_{letter}"] for letter in "ab")
            heads = {"q": 4, "k": 2}.get(part)
            close(alpha / B.shape[1] * B @ A, dW if heads is None else interleaved(dW, heads))


def interleaved(matrix: Matrix, heads: int) -> Matrix:
    """llama.cpp's order of the rows of W^Q and W^K: pairs that rotate lie side by side."""
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
