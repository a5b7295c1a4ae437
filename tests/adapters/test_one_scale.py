"""A saved adapter has one scale, whoever reads it; training goes on from it as before."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from peft import PeftModel, load_peft_weights, peft_model, set_peft_model_state_dict
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as torch_file
from torch import nn

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters.record import _snapped
from tests.adapters.models import V0, batch, factors, logits, parts, same, tiny, train, trained
from tests.adapters.test_named_parameters import by_name

VALUE_B = f"base_model.model.{V0}.lora_B.weight"
BAKED = {"roles": presets.ailora().roles, "bake_rates": True}
EXACT: dict[str, dict[str, Any]] = {
    "rates": BAKED,
    "rates, one rank each": {
        "bake_rates": True,
        "roles": {"q": Role(init="principal"), "v": Role(init="gaussian", r=3, lr_ratio=4)},
    },
    "roles' own alphas": {
        "roles": {"q": Role(init="minor"), "v": Role(init="minor", lora_alpha=20)},
    },
    "no product at the start": {
        "bake_rates": True,
        "roles": {"q": Role(init="gaussian"), "v": Role(init="gaussian", lr_ratio=2)},
    },
}  # fmt: skip
ROUNDED: dict[str, dict[str, Any]] = {
    "a ratio of 3": {
        "bake_rates": True,
        "roles": {"q": Role(init="principal"), "v": Role(init="minor", lr_ratio=3)},
    },
    "rslora": {
        "use_rslora": True,
        "roles": {"q": Role(init="principal"), "v": Role(init="minor", lora_alpha=7)},
    },
}
ALL = EXACT | ROUNDED


def as_servers_read(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Each module's dW, by lora_alpha and the rank of its matrices, and nothing else."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key, A in tensors.items():
        if key.endswith(".lora_A.weight"):
            B = tensors[key.replace("lora_A", "lora_B")]
            rank = math.sqrt(A.shape[0]) if config["use_rslora"] else A.shape[0]
            name = key.removesuffix(".lora_A.weight").removeprefix("base_model.model.")
            found[name] = config["lora_alpha"] / rank * B.astype("f8") @ A.astype("f8")
    return found


def deltas(model: PeftModel) -> dict[str, np.ndarray[Any, Any]]:
    found = {}
    for name in model.peft_config["default"].record.layers:
        A, B = (module.weight.detach().double() for module in factors(model, name))
        scale = model.get_base_model().get_submodule(name).scaling["default"]
        found[name] = scale * (B @ A).numpy()
    return found


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)


def save_by_name(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, state_dict=by_name(model))


def save_twice(model: Any, folder: Path) -> None:
    """As LLaVA-style scripts: the model, and then its config once more."""
    model.save_pretrained(folder)
    model.peft_config["default"].save_pretrained(folder)


@pytest.mark.parametrize("way", [save, save_by_name, save_twice])
@pytest.mark.parametrize("kind", ALL)
def test_who_reads_one_scale_reads_the_trained_model(
    kind: str, way: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    model = trained(dtype=torch.float32, **ALL[kind])
    wanted = deltas(model)
    way(model, tmp_path)
    found = as_servers_read(tmp_path)
    assert found.keys() == wanted.keys()
    for name, dW in wanted.items():
        assert np.abs(dW).max() > 1e-4
        np.testing.assert_allclose(found[name], dW, rtol=0, atol=3e-7 * np.abs(dW).max())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["alpha_pattern"] == {}
    alphas = model.peft_config["default"].alpha_pattern
    assert alphas  # in memory they stay different, which is what makes the rates
    stock = PeftModel.from_pretrained(tiny(torch.float32), str(tmp_path))
    got, expected = logits(stock, batch(stock)), logits(model, batch(model))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_the_scales_in_memory_would_be_read_wrongly(tmp_path: Path) -> None:
    """The negative control: B as it trains, read with one scale, is four times too small."""
    model = trained(dtype=torch.float32, **BAKED)
    for name, dW in deltas(model).items():
        A, B = (module.weight.detach().double().numpy() for module in factors(model, name))
        ratio = np.linalg.norm(dW) / np.linalg.norm(5 / 2 * B @ A)
        assert ratio == pytest.approx(4 if name.endswith("value") else 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ALL)
def test_training_goes_on_from_the_same_factors(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    config = AILoRAConfig(r=2, lora_alpha=5, **ALL[kind])
    model = ailora.get_peft_model(tiny(dtype), config, autocast_adapter_dtype=False)
    train(model, batch(model), 3)
    model.save_pretrained(tmp_path / "one")
    B = torch_file(tmp_path / "one/adapter_model.safetensors")[VALUE_B]
    assert B.dtype == (dtype if kind in EXACT else torch.float32)
    again = ailora.load_adapter(
        tiny(dtype), tmp_path / "one", is_trainable=True, autocast_adapter_dtype=False
    )
    ours, theirs = parts(model), parts(again)
    for key, part in ours.items():
        assert part.scaling == pytest.approx(theirs[key].scaling, rel=1e-12)
        assert part.modules[1].weight.dtype == theirs[key].modules[1].weight.dtype == dtype
        for side in (0, 1):
            A, B = (p.modules[side].weight for p in (part, theirs[key]))
            if kind in EXACT or dtype == torch.bfloat16:
                assert torch.equal(A, B)
            torch.testing.assert_close(A, B, rtol=3e-7, atol=0)
    if kind in EXACT and dtype == torch.float32:  # of 16-bit factors A0 is known until saved
        assert train(model, batch(model), 3) == train(again, batch(again), 3)
        model.save_pretrained(tmp_path / "a")
        again.save_pretrained(tmp_path / "b")
        one, two = (tmp_path / name / "adapter_model.safetensors" for name in "ab")
        assert one.read_bytes() == two.read_bytes()


def load_as_trainer(model: PeftModel, folder: Path) -> None:
    model.load_adapter(str(folder), "default", is_trainable=True)


def load_by_hand(model: PeftModel, folder: Path) -> None:
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))


@pytest.mark.parametrize(
    ("kind", "way"),
    [*((kind, load_as_trainer) for kind in EXACT), ("rates", load_by_hand)],
)
def test_a_started_model_takes_the_files(
    kind: str, way: Callable[[PeftModel, Path], None], tmp_path: Path
) -> None:
    model = trained(dtype=torch.float32, **EXACT[kind])
    model.save_pretrained(tmp_path)
    torch.manual_seed(3)
    other = trained(dtype=torch.float32, **EXACT[kind])
    train(other, batch(other), 2)
    way(other, tmp_path)
    assert same(by_name(other), by_name(model))
    other.load_state_dict(model.state_dict())  # a model's own is taken as it is
    assert same(by_name(other), by_name(model))


@pytest.mark.parametrize("kind", ["no product at the start", "rates"])
def test_a_file_put_in_by_hand_is_told_by_its_anchor_or_warned_of(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an anchor nothing in the tensors says whether they are a file's or a model's own."""
    model = trained(dtype=torch.float32, **EXACT[kind])
    model.save_pretrained(tmp_path)
    other = trained(dtype=torch.float32, **EXACT[kind])
    caplog.clear()
    load_by_hand(other, tmp_path)
    right = same(by_name(other), by_name(model))
    assert right == (kind == "rates")
    assert right != ("read it with ailora.load_adapter" in caplog.text)


def test_files_with_a_pattern_are_read_as_they_are(tmp_path: Path) -> None:
    """As they were saved before: each module's own alpha in the config, B as it trains."""
    model = trained(dtype=torch.float32, **BAKED)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    for key, matrix in tensors.items():
        if "value.lora_B" in key:
            matrix /= 4
    config["alpha_pattern"] = {"value": 40}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    again = ailora.load_adapter(tiny(torch.float32), tmp_path, is_trainable=True)
    assert same(by_name(again), by_name(model))
    other = trained(dtype=torch.float32, **BAKED)
    train(other, batch(other), 2)
    load_as_trainer(other, tmp_path)
    assert same(by_name(other), by_name(model))


def test_what_transformers_saves_has_one_scale_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf.integrations.peft, "check_peft_version", lambda **_: None)
    config = presets.ailora(2, lora_alpha=5, bake_rates=True)
    model: Any = tiny(torch.float32)
    model.add_adapter(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter[:, :2] += 0.1
    expected = logits(model, batch(model))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["alpha_pattern"] == {}
    assert model.peft_config["default"].alpha_pattern
    again = PeftModel.from_pretrained(tiny(torch.float32), str(tmp_path))
    torch.testing.assert_close(logits(again, batch(again)), expected, rtol=0, atol=1e-6)
    for name, dW in as_servers_read(tmp_path).items():
        layer = model.get_submodule(name)
        torch.testing.assert_close(
            torch.from_numpy(dW).float(), layer.get_delta_weight("default"), rtol=0, atol=1e-6
        )


def test_an_embeddings_own_alpha_stays_where_peft_reads_it(tmp_path: Path) -> None:
    model = trained(
        dtype=torch.float32,
        **BAKED,
        target_modules=["query", "value", "word_embeddings"],
        alpha_pattern={"word_embeddings": 9},
    )
    nn.init.normal_(model.get_base_model().bert.embeddings.word_embeddings.lora_embedding_B.default)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["alpha_pattern"] == {"word_embeddings": 9}
    again = PeftModel.from_pretrained(tiny(torch.float32), str(tmp_path))
    got, expected = logits(again, batch(again)), logits(model, batch(model))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_ratios_that_are_powers_of_two_but_for_rounding_change_no_bit() -> None:
    found = [_snapped(ratio) for ratio in (2 * (1 + 4e-16), 0.25 * (1 - 2e-16), 1.0, 3.0, 2.1)]
    assert found == [2.0, 0.25, 1.0, 3.0, 2.1]


def test_the_config_in_use_is_put_back_where_saving_fails(tmp_path: Path) -> None:
    model = trained(dtype=torch.float32, **BAKED)
    before = dict(model.peft_config["default"].alpha_pattern)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="should be a directory"):
        model.save_pretrained(str(tmp_path / "file"))
    assert model.peft_config["default"].alpha_pattern == before
    ailora.load_adapter(tiny(torch.float32), saved_whole(model, tmp_path), is_trainable=True)


def saved_whole(model: PeftModel, folder: Path) -> Path:
    model.save_pretrained(folder / "whole")
    return folder / "whole"


@pytest.mark.parametrize("compiled", [False, True])
def test_threads_that_save_one_model_at_once_leave_it_as_it_was(
    compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first has put the configs of the files in the model."""
    model = trained(**BAKED)
    layers = model.get_base_model().bert.encoder.layer
    for number, layer in enumerate(layers) if compiled else ():
        layers[number] = torch.compile(layer, backend="aot_eager")
    config, write = model.peft_config["default"], peft_model.safe_save_file
    seconds = {"first": 1.0, "second": 2.0}

    def slowly(*args: Any, **kwargs: Any) -> None:
        time.sleep(seconds[threading.current_thread().name])
        write(*args, **kwargs)

    monkeypatch.setattr(peft_model, "safe_save_file", slowly)
    threads = [
        threading.Thread(target=model.save_pretrained, args=(tmp_path / name,), name=name)
        for name in seconds
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert model.peft_config["default"] is config
    assert any("_orig_mod" in name for name, _ in model.named_modules()) == compiled
    inputs = batch(model)
    for name in seconds:
        loaded = ailora.load_adapter(tiny(), tmp_path / name).eval()
        assert torch.equal(logits(loaded, inputs), logits(model.eval(), inputs))
