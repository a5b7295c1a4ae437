"""``ailora check`` as a shell calls it: 0 nothing wrong, 1 something is, 2 bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.models import edit_json, files, saved
from tests.commands import Call, check_refused
from tests.offline.models import stock_adapter

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", shards=True)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def adapter(call: Call, model: Path, tmp_path: Path) -> Path:
    ended = call(f"init {model} --out {tmp_path / 'adapter'} --anchored --rank 2")
    assert ended.code == 0, ended.err
    return tmp_path / "adapter"


def row(out: str, subject: str) -> str:
    return next(line for line in out.splitlines() if line.startswith(f"│ {subject}"))


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_an_adapter_and_its_model_are_fine(call: Call, adapter: Path, model: Path) -> None:
    before = files(adapter) | files(model)
    ended = call(f"check {adapter} {model}")
    assert ended.code == 0, ended.out + ended.err
    assert ended.out.count("fine") == 6
    assert "all 4 weights are those of the start" in row(ended.out, "base")
    assert files(adapter) | files(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_model_is_the_same_model(
    call: Call, adapter: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    assert call(f"check {adapter} {saved(tmp_path / 'cast', dtype=dtype)}").code == 0


def test_gpt2_whose_weights_are_transposed_and_fused(call: Call, tmp_path: Path) -> None:
    model = saved(tmp_path / "gpt2", "gpt2")
    call(f"init {model} --out start --anchored --rank 2")
    ended = call(f"check start {model}")
    assert ended.code == 0, ended.out
    assert "weights are those of the start" in row(ended.out, "base")


def test_a_folded_start_is_of_the_original_and_not_of_the_residual(call: Call, model: Path) -> None:
    call(f"init {model} --out start --rank 2")
    ended = call(f"check start/adapter {model}")
    assert ended.code == 0, ended.out
    assert "weights are those of the start" in row(ended.out, "base")
    check_refused(call("check start/adapter start/model"), "is a residual model")


def test_a_model_trained_since_is_named_by_its_first_layer(
    call: Call, adapter: Path, model: Path
) -> None:
    for shard in model.glob("*.safetensors"):
        for layer in (0, 1):
            name = f"model.layers.{layer}.self_attn.v_proj.weight"
            if name in load_file(shard):
                edit(shard, lambda tensors, name=name: tensors[name].mul_(1.001))
    ended = call(f"check {adapter} {model}")
    assert ended.code == 1
    assert "2 of 4 weights" in row(ended.out, "base")
    assert "model.layers.0.self_attn.v_proj is the first that differs" in row(ended.out, "base")


def test_another_kind_of_model_is_wrong(call: Call, adapter: Path, tmp_path: Path) -> None:
    ended = call(f"check {adapter} {saved(tmp_path / 'bert', 'bert')}")
    assert ended.code == 1
    assert "does not have the layers" in row(ended.out, "layers")


Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("subject", "change", "words"),
    [
        ("values", lambda t: t[f"{Q0}.lora_A.weight"].fill_(float("nan")), "lora_A"),
        ("values", lambda t: t[f"{Q0}.lora_B.weight"][0].fill_(float("inf")), "lora_B"),
        ("anchors", lambda t: t[f"{Q0}.lora_A.weight"].mul_(1.2), "frozen half"),
        ("files", lambda t: t.pop(f"{Q0}.lora_B.weight"), "two matrices"),
        ("files", lambda t: t.pop(f"{Q0}.lora_A.weight"), "which adapter_model.safe"),
        (
            "files",
            lambda t: t.update(
                {n: torch.cat([w, w], int("_B" in n)) for n, w in t.items() if Q0 in n}
            ),
            "rank 8, where adapter_config.json says 4",
        ),
        (
            "layers",
            lambda t: t.update(
                {f"{Q0}.lora_A.weight": t[f"{Q0}.lora_A.weight"][:, 1:].contiguous()}
            ),
            "in the model",
        ),
    ],
)
def test_what_is_wrong_with_the_weights_is_said(
    call: Call,
    adapter: Path,
    model: Path,
    subject: str,
    change: Callable[[dict[str, torch.Tensor]], object],
    words: str,
) -> None:
    edit(adapter / WEIGHTS, change)
    ended = call(f"check {adapter} {model}")
    assert ended.code == 1, ended.out + ended.err
    assert "wrong" in row(ended.out, subject)
    assert words in row(ended.out, subject)


def test_files_of_two_adapters_are_wrong(call: Call, adapter: Path, model: Path) -> None:
    call(f"init {model} --out other --anchored --rank 3")
    shutil.copy("other/ailora.json", adapter)
    ended = call(f"check {adapter} {model}")
    assert ended.code == 1
    assert "where its ailora.json says 6" in row(ended.out, "ranks")
    shutil.copy("other/adapter_config.json", adapter)
    assert call(f"check {adapter} {model}").code == 1
    (adapter / "ailora.json").write_text("{")
    ended = call(f"check {adapter} {model}")
    assert (ended.code, "wrong" in row(ended.out, "files")) == (1, True)


def test_other_tools_adapters_and_quantised_models_cannot_be_told(
    call: Call, adapter: Path, model: Path, tmp_path: Path
) -> None:
    stock_adapter(tmp_path / "stock")
    ended = call(f"check {tmp_path / 'stock'} {model}")
    assert ended.code == 0
    assert "cannot tell" in row(ended.out, "base")
    edit(tmp_path / "stock" / WEIGHTS, lambda t: t.pop(f"{Q0}.lora_A.weight"))
    ended = call(f"check {tmp_path / 'stock'} {model}")
    assert ended.code == 1
    assert "without its other factor" in row(ended.out, "files")
    edit_json(model / "config.json", quantization_config={"quant_method": "gptq"})
    ended = call(f"check {adapter} {model}")
    assert ended.code == 0
    assert "cannot tell" in row(ended.out, "base")


@pytest.mark.parametrize("line", ["{adapter} ./nowhere", "./nowhere {model}", "{model} {model}"])
def test_bad_input_ends_in_one_line(call: Call, adapter: Path, model: Path, line: str) -> None:
    check_refused(call(f"check {line.format(adapter=adapter, model=model)}"), "give")
