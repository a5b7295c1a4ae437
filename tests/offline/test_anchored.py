"""`init_files` without a residual model: what `ailora.get_peft_model` would save."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.errors import UserError
from ailora.offline import export_adapter, init_files
from tests.checkpoints.models import files, saved
from tests.offline.models import loaded, logits, with_adapter

CONFIG = "adapter_config.json"
MIXED = AILoRAConfig(
    r=4,
    lora_alpha=3.0,
    roles={
        "q": Role(init="principal", r=2),
        "k": Role(init="gaussian", lora_alpha=6),  # the same alpha for all in the file
        "v": Role(init="minor", lr_ratio=2.0),
    },
)
CASES = [
    ("llama", presets.ailora(r=4), torch.float32),
    ("llama", presets.ailora(r=4), torch.bfloat16),
    ("llama", MIXED, torch.float64),
    ("bert", presets.lora(r=4, task_type="SEQ_CLS"), torch.float32),
    ("gpt2", presets.ailora(r=4, task_type="CAUSAL_LM"), torch.float16),
]


@pytest.mark.parametrize(("family", "config", "dtype"), CASES)
def test_the_files_are_those_of_a_wrapped_and_saved_model_byte_for_byte(
    tmp_path: Path, family: str, config: AILoRAConfig, dtype: torch.dtype
) -> None:
    model = saved(tmp_path / "model", family, dtype, shards=True)
    report = init_files(model, tmp_path / "out", config)
    assert report.model is None
    torch.manual_seed(0)  # of Gaussian starts
    wrapped = ailora.get_peft_model(loaded(model, family, dtype), config)
    wrapped.save_pretrained(tmp_path / "saved")
    written, expected = files(tmp_path / "out"), files(tmp_path / "saved")
    assert in_order(written.pop(CONFIG)) == in_order(expected.pop(CONFIG))
    card = expected.pop("README.md")
    note = written.pop("README.md").decode().removeprefix(card.decode())
    assert note.lstrip().startswith("## What to train with these files")
    assert str(model) in note
    assert written == expected


def test_baked_rates_reach_a_trainer_without_ailora(tmp_path: Path) -> None:
    """It has them from the scales alone; what is trained and saved here has one scale."""
    model, config = saved(tmp_path / "model"), presets.ailora(r=4, bake_rates=True)
    init_files(model, tmp_path / "out", config)
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["alpha_pattern"] == {"v_proj": 32}
    stock = with_adapter(model, tmp_path / "out", dtype=torch.float32)
    wrapped = ailora.get_peft_model(loaded(model, dtype=torch.float32), config)
    assert scales(stock) == scales(wrapped)
    wrapped.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / CONFIG).read_text())["alpha_pattern"] == {}
    for folder in ("out", "saved"):
        again = ailora.load_adapter(
            loaded(model, dtype=torch.float32), tmp_path / folder, is_trainable=True
        )
        assert scales(again) == scales(wrapped)
        ours, theirs = dict(wrapped.named_parameters()), dict(again.named_parameters())
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def scales(model: nn.Module) -> dict[str, float]:
    return {
        name: module.scaling["default"]  # type: ignore[index]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def in_order(config: bytes) -> dict[str, object]:
    content: dict[str, object] = json.loads(config)
    return {**content, "target_modules": sorted(content["target_modules"])}  # type: ignore[call-overload]


def test_names_are_in_an_order_that_is_the_same_in_every_process(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    roles = {role: Role(init="principal") for role in "qkvo"}
    for anchored in (False, True):
        config = AILoRAConfig(r=2, roles=roles, anchored=anchored)  # type: ignore[arg-type]
        adapter = init_files(model, tmp_path / str(anchored), config).adapter
        plain = export_adapter(adapter, tmp_path / f"plain-{anchored}", folded_base=not anchored)
        for folder in (adapter, plain.folder):
            names = json.loads((folder / CONFIG).read_text())["target_modules"]
            assert names == ["k_proj", "o_proj", "q_proj", "v_proj"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_loads_for_training_at_the_original_function(tmp_path: Path, family: str) -> None:
    model = saved(tmp_path / "model", family)
    init_files(model, tmp_path / "out", presets.ailora(r=4))
    wrapped = ailora.load_adapter(loaded(model, family), tmp_path / "out", is_trainable=True)
    assert torch.equal(logits(wrapped, family), logits(loaded(model, family), family))
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) > 0


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        init_files(model, tmp_path / "out", presets.ailora(r=4))
    assert files(tmp_path / "out") == {"mine": b"x"}


def test_the_random_state_of_the_caller_stays(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    init_files(model, tmp_path / "out", presets.lora(r=4))
    assert torch.equal(torch.get_rng_state(), before)
