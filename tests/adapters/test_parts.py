"""Adapters on models for images and sound, and on parts of models of several modalities."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import save_file
from torch import Tensor

import ailora
from ailora import AILoRAConfig, Role
from ailora.adapters.selection import select
from ailora.errors import UserError
from tests.adapters.models import parts
from tests.towers import HALVES, TOWERS, build_tower, language_model, tower_inputs

_FURTHER = ["blip", "hiera", "parakeet", "sam", "segformer", "swinv2", "timesformer"]
MODELS = ["vit", "whisper", "wav2vec2", "siglip", *(n for n in _FURTHER if n in TOWERS)]
ALL = {"*": Role(init="principal")}


def _run(model: torch.nn.Module, inputs: Callable[[int], Mapping[str, Tensor]]) -> Tensor:
    with torch.no_grad():
        return model(**inputs(2)).last_hidden_state


def _train(model: torch.nn.Module, output: Callable[[], Tensor]) -> None:
    """Three steps of Adam, away from what the model gives."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    target = torch.randn(output().shape, generator=torch.Generator().manual_seed(3))
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(output(), target).backward()
        optimizer.step()


@pytest.mark.parametrize("name", MODELS)
def test_start_disable_merge_and_stock_reload_of_towers(name: str, tmp_path: Path) -> None:
    inputs = tower_inputs(name)
    before = _run(build_tower(name), inputs)
    model = peft.get_peft_model(build_tower(name), AILoRAConfig(r=4)).eval()
    torch.testing.assert_close(_run(model.base_model.model, inputs), before, rtol=0, atol=1e-5)
    _train(model, lambda: model.base_model.model(**inputs(2)).last_hidden_state)
    trained = _run(model.base_model.model, inputs)
    assert (trained - before).abs().max() > 2e-4
    with model.disable_adapter():
        assert torch.equal(_run(model.base_model.model, inputs), before)
    model.save_pretrained(tmp_path)
    stock = peft.PeftModel.from_pretrained(build_tower(name), tmp_path).eval()
    torch.testing.assert_close(_run(stock.base_model.model, inputs), trained, rtol=0, atol=1e-5)
    merged = model.merge_and_unload()
    torch.testing.assert_close(_run(merged, inputs), trained, rtol=0, atol=1e-4)


def _see(model: torch.nn.Module) -> Tensor:
    """What the vision tower of a whole Qwen-VL says of an image."""
    visual = model.get_submodule(
        next(name for name, _ in model.named_modules() if name.endswith("model.visual"))
    )
    seen = visual(**tower_inputs("qwen2_5_vl")(2))
    return getattr(seen, "pooler_output", seen)  # a tensor in transformers 4


def _look(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return _see(model)


def test_start_disable_merge_and_reload_of_the_vision_tower_of_qwen(tmp_path: Path) -> None:
    name = "qwen2_5_vl"
    before = _look(language_model(name))
    config = AILoRAConfig(r=4, parts=["vision"])
    model = peft.get_peft_model(language_model(name), config).eval()
    assert all("visual.blocks" in n for n, p in model.named_parameters() if p.requires_grad)
    torch.testing.assert_close(_look(model), before, rtol=0, atol=1e-5)
    _train(model, lambda: _see(model))
    trained = _look(model)
    assert (trained - before).abs().max() > 2e-4
    with model.disable_adapter():
        assert torch.equal(_look(model), before)
    model.save_pretrained(tmp_path)
    assert "parts" not in (tmp_path / "adapter_config.json").read_text()
    stock = peft.PeftModel.from_pretrained(language_model(name), tmp_path).eval()
    torch.testing.assert_close(_look(stock), trained, rtol=0, atol=1e-5)
    again = ailora.load_adapter(language_model(name), tmp_path, is_trainable=True).eval()
    torch.testing.assert_close(_look(again), trained, rtol=0, atol=1e-5)
    assert again.peft_config["default"].record.origin.parts == ("vision",)
    merged = model.merge_and_unload()
    torch.testing.assert_close(_look(merged), trained, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["vit", "qwen2_5_vl", *(n for n in _FURTHER if n in TOWERS)])
def test_step_0_and_a_disabled_adapter_are_the_base_bit_for_bit_in_bf16(name: str) -> None:
    def look(model: torch.nn.Module) -> Tensor:
        rows = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs(2).items()}
        with torch.no_grad():
            seen = model(**rows)
        return getattr(seen, "last_hidden_state", seen)  # a tensor in transformers 4

    inputs, dtype = tower_inputs(name), torch.bfloat16
    base = build_tower(name).to(dtype)
    before = look(base)
    model = peft.get_peft_model(base, AILoRAConfig(r=4)).eval()
    assert torch.equal(look(model.base_model.model), before)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    assert not torch.equal(look(model.base_model.model), before)
    with model.disable_adapter():
        assert torch.equal(look(model.base_model.model), before)


def _clip() -> hf.CLIPModel:
    torch.manual_seed(0)
    return hf.CLIPModel(hf.CLIPConfig(**HALVES)).eval()


def _similarities(model: torch.nn.Module) -> Tensor:
    image = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    return model(input_ids=torch.arange(4, 20).view(2, 8), pixel_values=image).logits_per_text


def _as_version_0_1_0(folder: Path, model: peft.PeftModel) -> None:
    """The marker and anchors that version 0.1.0 would have written: it named no layers."""
    role = {"r": None, "alpha": None, "modules": None}
    config = {
        "r": 4,
        "alpha": None,
        "dropout": 0.0,
        "base": "anchored",
        "lr_mode": "groups",
        "roles": {
            "q": {**role, "init": "principal", "lr_ratio": 1.0},
            "v": {**role, "init": "minor", "lr_ratio": 2.0},
        },
        "task_type": None,
        "modules_to_save": None,
        "layers": None,
    }
    (folder / "ailora.json").write_text(json.dumps({"format": 1, "config": config}))
    anchors = {}
    for key, found in parts(model).items():
        anchors |= {f"{key}.A": found.A0.clone(), f"{key}.B": found.B0.clone()}
    save_file(anchors, folder / "ailora_anchor.safetensors")


@pytest.mark.parametrize("halves", [["language"], ["vision"], ["language", "vision"]])
def test_version_0_1_0s_adapters_of_clip_are_of_the_halves_that_their_files_have(
    halves: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = peft.get_peft_model(_clip(), AILoRAConfig(r=4, parts=halves)).eval()
    _train(model, lambda: _similarities(model))
    model.save_pretrained(tmp_path)
    _as_version_0_1_0(tmp_path, model)
    caplog.clear()
    again = ailora.load_adapter(_clip(), tmp_path, is_trainable=True).eval()
    assert caplog.records == []
    assert torch.equal(_similarities(again), _similarities(model))
    assert parts(again).keys() == parts(model).keys()
    assert again.peft_config["default"].record.origin.parts == tuple(halves)


@pytest.mark.parametrize("trainable", [False, True])
def test_an_adapter_of_the_text_half_that_names_no_parts_loads_as_it_is(
    trainable: bool, tmp_path: Path
) -> None:
    """As it was saved before both halves were the default."""
    model = peft.get_peft_model(_clip(), AILoRAConfig(r=4, parts=["language"])).eval()
    _train(model, lambda: _similarities(model))
    model.save_pretrained(tmp_path)
    marker = json.loads((tmp_path / "ailora.json").read_text())
    assert marker["config"].pop("parts") == ["language"]
    (tmp_path / "ailora.json").write_text(json.dumps(marker))
    again = ailora.load_adapter(_clip(), tmp_path, is_trainable=trainable).eval()
    adapted = {name for name, _ in again.named_parameters() if "lora_" in name}
    assert adapted == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert all(".text_model." in name for name in adapted)
    assert torch.equal(_similarities(again), _similarities(model))
    if trainable:
        before = _similarities(again).detach()
        _train(again, lambda: _similarities(again))
        again.save_pretrained(tmp_path / "again")
        stock = peft.PeftModel.from_pretrained(_clip(), tmp_path / "again").eval()
        torch.testing.assert_close(_similarities(stock), _similarities(again), rtol=0, atol=1e-4)
        assert not torch.equal(_similarities(again), before)


def test_both_halves_of_clip_are_adapted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        chosen = select(_clip(), AILoRAConfig(r=4)).chosen
    halves = {one.projection.name.partition(".")[0] for one in chosen}
    assert halves == {"text_model", "vision_model"}
    assert "both halves are adapted" in caplog.text


def test_the_keys_of_a_fused_tower_layer_stay_as_they_are() -> None:
    model = peft.get_peft_model(
        language_model("qwen2_5_vl"), AILoRAConfig(r=4, parts=["vision"], anchored=True)
    )
    _train(model, lambda: _see(model))
    layer = model.get_submodule("base_model.model.model.visual.blocks.0.attn.qkv")
    change = layer.get_delta_weight("default")
    assert float(change[32:64].abs().max()) < 1e-6
    assert float(change[:32].abs().max()) > 1e-3 and float(change[64:].abs().max()) > 1e-3


def _roles(config: AILoRAConfig) -> dict[str, set[str]]:
    """By role, the parts of the names of the layers that take it."""
    found: dict[str, set[str]] = {}
    for one in select(language_model("qwen2_5_vl"), config).chosen:
        name = one.projection.name
        where = "merger" if "merger" in name else name.split(".")[1]
        found.setdefault(one.projection.role, set()).add(where)
    return found


def test_the_language_part_is_the_default_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert _roles(AILoRAConfig(r=4)) == {"q": {"language_model"}, "v": {"language_model"}}
    lines = [record.message for record in caplog.records]
    assert lines == [
        "Qwen2_5_VLForConditionalGeneration has several parts (language, vision, projector): the "
        "language part is adapted; parts=[...] chooses others"
    ]


@pytest.mark.parametrize(
    ("target_modules", "counts"),
    [
        ("all-linear", "language 14, vision 10, projector 2"),
        (["q_proj", "qkv"], "language 2, vision 2"),
    ],
)
def test_a_selection_by_name_in_several_parts_is_said(
    target_modules: str | list[str], counts: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = AILoRAConfig(r=4, target_modules=target_modules)
    with caplog.at_level(logging.WARNING):
        found = _roles(config)
    assert found["q"] == {"language_model", "visual"}
    assert ("merger" in found.get("*", ())) is (target_modules == "all-linear")
    (line,) = [record.message for record in caplog.records]
    assert "several parts of Qwen2_5_VLForConditionalGeneration" in line and counts in line
    stock = peft.get_peft_model(
        language_model("qwen2_5_vl"), peft.LoraConfig(target_modules=target_modules)
    )
    chosen = [name for name, _ in stock.named_parameters() if ".lora_A." in name]
    assert sum(int(n) for n in re.findall(r"\d+", counts)) == len(chosen)


def test_a_selection_by_name_in_one_part_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        select(language_model("qwen2_5_vl"), AILoRAConfig(r=4, target_modules=["qkv"]))
        config = AILoRAConfig(r=4, target_modules="all-linear", parts=["vision"])
        select(language_model("qwen2_5_vl"), config)
        select(build_tower("vit"), AILoRAConfig(r=4, target_modules="all-linear"))
    assert caplog.records == []


def test_a_model_of_one_kind_of_input_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        select(build_tower("vit"), AILoRAConfig(r=4))
    assert caplog.records == []


def test_projector_layers_take_the_star_role_only_when_named() -> None:
    both = {"language_model", "visual"}
    named = _roles(AILoRAConfig(r=4, parts=["projector", "vision", "language"]))
    assert named == {"q": both, "v": both, "*": {"merger"}}
    assert _roles(AILoRAConfig(r=4, parts=["projector"])) == {"*": {"merger"}}
    starred = AILoRAConfig(r=4, roles=ALL, parts=["vision", "projector"])
    assert {one.role.init for one in select(language_model("qwen2_5_vl"), starred).chosen} == {
        "principal"
    }
    assert "merger" not in _roles(AILoRAConfig(r=4, roles=ALL, parts=["vision"]))["*"]


def test_pefts_own_expression_selects_in_every_part() -> None:
    found = _roles(AILoRAConfig(r=4, target_modules=r".*\.(qkv|q_proj|v_proj)"))
    assert found == {"q": {"language_model", "visual"}, "v": {"language_model", "visual"}}
    tower = AILoRAConfig(r=4, target_modules="all-linear", parts=["vision"])
    assert set().union(*_roles(tower).values()) == {"visual"}


@pytest.mark.parametrize("parts", [["audio"], ["language", "audio"]])
def test_an_absent_part_is_refused_in_one_line(parts: list[str]) -> None:
    with pytest.raises(UserError, match="parts names 'audio'"):
        peft.get_peft_model(language_model("qwen2_5_vl"), AILoRAConfig(r=4, parts=parts))


@pytest.mark.parametrize("parts", ["vision", [], ["sound"], 3])
def test_parts_that_make_no_sense_are_refused(parts: object) -> None:
    with pytest.raises(UserError, match="parts"):
        AILoRAConfig(parts=parts)  # type: ignore[arg-type]
