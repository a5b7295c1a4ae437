"""Adapters of a residual model, as plain LoRA of the original."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import ailora
from ailora import AILoRAConfig, Role
from ailora.adapters.folder import read_adapter
from ailora.errors import UserError
from ailora.offline import export_adapter, init_files, merge_adapter
from tests.checkpoints.models import edit_json, saved
from tests.offline.models import (
    loaded,
    logits,
    logits_of,
    perturb,
    saved_by_0_1_0,
    stock_adapter,
    with_adapter,
)


def config_for(family: str) -> AILoRAConfig:
    """Rates cannot be baked into a fused layer."""
    return AILoRAConfig(r=4, lora_alpha=6, anchored=False, bake_rates=family != "gpt2")


CONFIG = config_for("llama")


def trained(tmp_path: Path, family: str = "llama") -> tuple[Path, Path]:
    """The original, and an adapter that stock PEFT trained on its residual model."""
    original = saved(tmp_path / "original", family, shards=True)
    report = init_files(original, tmp_path / "start", config_for(family))
    assert report.model is not None
    model = PeftModel.from_pretrained(
        loaded(report.model, family, torch.float32), str(report.adapter), is_trainable=True
    )
    perturb(model)
    model.save_pretrained(tmp_path / "trained")
    return original, tmp_path / "trained"


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_what_stock_peft_trained_is_the_same_function_on_the_original(
    tmp_path: Path, family: str
) -> None:
    original, adapter = trained(tmp_path, family)
    report = export_adapter(adapter, tmp_path / "plain", folded_base=True)
    assert report.base == str(original)
    assert report.rank == (16 if family == "gpt2" else 8)
    expected = logits(with_adapter(tmp_path / "start" / "model", adapter, family), family)
    got = logits(with_adapter(original, tmp_path / "plain", family), family)
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()
    unconverted = logits(with_adapter(original, adapter, family), family)
    assert (unconverted - expected).abs().max() > 1e-2 * expected.abs().max()


def test_of_an_untrained_start_nothing_is_left(tmp_path: Path) -> None:
    original = saved(tmp_path / "original")
    report = init_files(original, tmp_path / "start", CONFIG)
    export_adapter(report.adapter, tmp_path / "plain", folded_base=True)
    for update in read_adapter(tmp_path / "plain").updates.values():
        A, B = update.exact()
        assert not (B @ A).any()
    merge_adapter(report.adapter, original, tmp_path / "merged", folded_base=True)
    for path in original.glob("*.safetensors"):
        assert (tmp_path / "merged" / path.name).read_bytes() == path.read_bytes()


def test_a_later_cast_to_16_bits_loses_little_of_a_small_update(tmp_path: Path) -> None:
    original = saved(tmp_path / "original")
    report = init_files(original, tmp_path / "start", CONFIG)
    model = PeftModel.from_pretrained(
        loaded(tmp_path / "start" / "model", dtype=torch.float32),
        str(report.adapter),
        is_trainable=True,
    )
    perturb(model, size=1e-3)
    model.save_pretrained(tmp_path / "trained")
    export_adapter(tmp_path / "trained", tmp_path / "plain", folded_base=True)
    for update in read_adapter(tmp_path / "plain").updates.values():
        A, B = update.exact()
        lost = torch.linalg.norm(B.bfloat16().double() @ A.bfloat16().double() - B @ A)
        assert lost < 0.01 * torch.linalg.norm(B @ A)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_that_ailora_folded_itself_is_converted_as_well(
    tmp_path: Path, family: str
) -> None:
    original = saved(tmp_path / "original", family)
    config = AILoRAConfig(
        r=4,
        lora_alpha=6,
        anchored=False,
        roles={
            "q": Role(init="principal"),
            "k": Role(init="gaussian"),
            "v": Role(init="minor", r=3, lora_alpha=4.5),
        },
    )
    model = ailora.get_peft_model(loaded(original, family), config).eval()
    perturb(model)
    model.save_pretrained(tmp_path / "trained")
    export_adapter(tmp_path / "trained", tmp_path / "plain", folded_base=True)
    expected = logits(model, family)
    got = logits(with_adapter(original, tmp_path / "plain", family), family)
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()


def test_without_the_flag_it_is_refused_and_with_it_a_plain_one(tmp_path: Path) -> None:
    original, adapter = trained(tmp_path)
    with pytest.raises(UserError, match="--folded-base"):
        export_adapter(adapter, tmp_path / "out")
    with pytest.raises(UserError, match="--folded-base"):
        merge_adapter(adapter, original, tmp_path / "out")
    with pytest.raises(UserError, match="leave out --folded-base"):
        merge_adapter(adapter, tmp_path / "start" / "model", tmp_path / "out", folded_base=True)
    stock_adapter(tmp_path / "plain")
    with pytest.raises(UserError, match="start is not found"):
        export_adapter(tmp_path / "plain", tmp_path / "out", folded_base=True)
    with pytest.raises(UserError, match="merge into the original"):
        merge_adapter(tmp_path / "plain", tmp_path / "start" / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_start_that_moved_is_given_by_hand_and_a_wrong_one_refused(tmp_path: Path) -> None:
    original, adapter = trained(tmp_path)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="/somewhere/else")
    start = tmp_path / "start" / "adapter"
    export_adapter(adapter, tmp_path / "plain", folded_base=True, start=start)
    expected = logits(with_adapter(tmp_path / "start" / "model", adapter))
    got = logits(with_adapter(original, tmp_path / "plain"))
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()
    other = saved(tmp_path / "other", "bert")
    wrong = init_files(other, tmp_path / "wrong", CONFIG).adapter
    with pytest.raises(UserError, match="its training began from"):
        export_adapter(adapter, tmp_path / "out", folded_base=True, start=wrong)
    with pytest.raises(UserError, match="--start"):
        export_adapter(adapter, tmp_path / "out", start=start)


def test_an_adapter_that_did_not_go_on_with_the_start_is_said_to_be_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As axolotl 0.19 trains for DPO and KTO: its own adapter, on the residual model."""
    _, adapter = trained(tmp_path)
    export_adapter(adapter, tmp_path / "plain", folded_base=True)
    assert "resembles" not in caplog.text
    residual = tmp_path / "start" / "model"
    torch.manual_seed(0)
    stock = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(loaded(residual, dtype=torch.float32), stock)
    perturb(model, size=0.01)
    model.save_pretrained(tmp_path / "new")
    export_adapter(tmp_path / "new", tmp_path / "other", folded_base=True)
    assert "new: no factor resembles the start's (largest cosine 0." in caplog.text


def test_it_merges_into_the_residual_and_into_the_original_alike(tmp_path: Path) -> None:
    original, adapter = trained(tmp_path)
    merge_adapter(adapter, original, tmp_path / "a", folded_base=True)
    merge_adapter(adapter, tmp_path / "start" / "model", tmp_path / "b")
    expected = logits(with_adapter(tmp_path / "start" / "model", adapter))
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert (logits(loaded(folder)) - expected).abs().max() < 2e-5 * expected.abs().max()
        assert not (folder / "ailora_start").exists()


def test_the_residual_model_alone_is_enough_to_convert(tmp_path: Path) -> None:
    _, adapter = trained(tmp_path)
    shutil.rmtree(tmp_path / "start" / "adapter")
    export_adapter(adapter, tmp_path / "plain", folded_base=True, rank=3)
    assert {u.rank for u in read_adapter(tmp_path / "plain").updates.values()} == {3}


def test_what_peft_converted_is_a_plain_lora_of_the_original(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original = saved(tmp_path / "original")
    model = ailora.get_peft_model(loaded(original, dtype=torch.float32), CONFIG).eval()
    model.save_pretrained(tmp_path / "initial")
    perturb(model)
    model.save_pretrained(
        tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "initial")
    )
    expected = logits(model)
    assert "which vLLM and llama.cpp do not read" in caplog.text
    export_adapter(tmp_path / "converted", tmp_path / "plain")
    assert LoraConfig.from_pretrained(tmp_path / "converted").alpha_pattern
    assert not LoraConfig.from_pretrained(tmp_path / "plain").alpha_pattern
    merge_adapter(tmp_path / "converted", original, tmp_path / "merged")
    for got in (
        logits(with_adapter(original, tmp_path / "plain", dtype=torch.float32)),
        logits(loaded(tmp_path / "merged", dtype=torch.float32)),
    ):
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
    with pytest.raises(UserError, match=r"plain LoRA of the original.*leave out --folded-base"):
        export_adapter(tmp_path / "converted", tmp_path / "out", folded_base=True)
    with pytest.raises(UserError, match="taken off already"):
        export_adapter(
            tmp_path / "converted", tmp_path / "out", folded_base=True, start=tmp_path / "initial"
        )
    # Version 0.1.0 left a folded adapter's marker beside what PEFT had converted.
    for name in ("ailora.json", "ailora_anchor.safetensors"):
        shutil.copy(tmp_path / "initial" / name, tmp_path / "converted" / name)
    with pytest.raises(UserError, match=r"has rank 8 instead of 4.*PEFT's conversion"):
        export_adapter(tmp_path / "converted", tmp_path / "out", folded_base=True)
    assert not (tmp_path / "out").exists()


def base_of(folder: Path) -> str | None:
    config = json.loads((folder / "adapter_config.json").read_text())
    base: str | None = config["base_model_name_or_path"]
    return base


def test_the_original_is_recorded_also_where_everything_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "original")
    monkeypatch.chdir(tmp_path)  # and recorded by its absolute path, whatever was typed
    init_files("original", Path("start"), CONFIG)
    original = str(tmp_path / "original")
    model = PeftModel.from_pretrained(
        loaded(tmp_path / "start" / "model", dtype=torch.float32),
        str(tmp_path / "start" / "adapter"),
        is_trainable=True,
    )
    model.save_pretrained(tmp_path / "trained")
    (tmp_path / "start").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    given = {
        "adapter": Path("adapter"),
        "inside": tmp_path / "moved" / "model" / "ailora_start",
    }
    for name, start in given.items():
        export_adapter(tmp_path / "trained", tmp_path / name, folded_base=True, start=start)
        assert base_of(tmp_path / name) == original
    # Adapters that 0.1.0 started do not say it themselves, but the model beside them does.
    (tmp_path / "moved" / "adapter" / "ailora_origin.json").unlink()
    start = tmp_path / "moved" / "adapter"
    export_adapter(tmp_path / "trained", tmp_path / "beside", folded_base=True, start=start)
    assert base_of(tmp_path / "beside") == original
    alone = start.rename(tmp_path / "alone")
    with pytest.raises(UserError, match=r"give --base the original") as caught:
        export_adapter(tmp_path / "trained", tmp_path / "out", folded_base=True, start=alone)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    export_adapter(
        tmp_path / "trained", tmp_path / "out", folded_base=True, start=alone, base=original
    )
    assert base_of(tmp_path / "out") == original
    merge_adapter(tmp_path / "trained", original, tmp_path / "m", folded_base=True, start=alone)


@pytest.mark.parametrize("kind", ["folded", "fused_folded"])
def test_folded_adapters_of_version_0_1_0_are_converted(tmp_path: Path, kind: str) -> None:
    adapter, base, expected = saved_by_0_1_0(kind)
    with pytest.raises(UserError, match=r"0\.1\.0.*give --base"):
        export_adapter(adapter, tmp_path / "plain", folded_base=True)
    export_adapter(adapter, tmp_path / "plain", folded_base=True, base=str(base))
    merge_adapter(adapter, base, tmp_path / "merged", folded_base=True)
    for got in (logits_of(base, tmp_path / "plain"), logits_of(tmp_path / "merged")):
        assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
