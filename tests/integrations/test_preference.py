"""Preference training on the files of ``ailora init``: what the reference is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel

from ailora import presets
from ailora.offline import export_adapter, init_files
from tests.integrations.test_trl import arguments, base, logits, preferences

trl = pytest.importorskip("trl", reason="TRL needs Python 3.11")


def files(model: Path, out: Path, *, anchored: bool) -> tuple[Path, Path]:
    """A start for a trainer without ailora: the model and the adapter that it is given."""
    config = presets.ailora(4, anchored=anchored, bake_rates=True, task_type="CAUSAL_LM")
    report = init_files(model, out, config)
    return report.model or model, report.adapter


def trained(
    model: Path, adapter: Path, out: Path, reference: Path | None
) -> tuple[PeftModel, list[float]]:
    """DPO of an adapter as a trainer loads it; the losses of its steps."""
    wrapped = PeftModel.from_pretrained(base(model), str(adapter), is_trainable=True)
    trainer = trl.DPOTrainer(
        model=wrapped,
        ref_model=None if reference is None else base(reference),
        args=arguments(trl.DPOConfig, out, gradient_checkpointing=False),
        train_dataset=preferences(),
        processing_class=hf.AutoTokenizer.from_pretrained(model),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer.model, losses


def test_folded_files_with_the_original_as_reference_start_at_log_2(
    tiny_llama: Path, tmp_path: Path
) -> None:
    residual, adapter = files(tiny_llama, tmp_path / "start", anchored=False)
    model, losses = trained(residual, adapter, tmp_path / "out", tiny_llama)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < losses[0] - 1e-3
    after = logits(model)
    model.save_pretrained(tmp_path / "trained")
    export_adapter(tmp_path / "trained", tmp_path / "plain", folded_base=True)
    plain = PeftModel.from_pretrained(base(tiny_llama), str(tmp_path / "plain"))
    torch.testing.assert_close(logits(plain), after, rtol=0, atol=1e-4)
    for card in (tmp_path / "start/README.md", adapter / "README.md"):
        text = card.read_text()
        assert f"only with `{tiny_llama}` named as the reference" in text
        assert "export TRAINED --folded-base" in text


def test_the_residual_as_reference_does_not_start_at_log_2(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """The negative control: what a trainer compares with that switches the adapter off."""
    residual, adapter = files(tiny_llama, tmp_path / "start", anchored=False)
    _, losses = trained(residual, adapter, tmp_path / "out", residual)
    assert abs(losses[0] - math.log(2)) > 1e-3


def test_anchored_files_in_a_trainer_without_ailora_have_the_original_as_reference(
    tiny_llama: Path, tmp_path: Path
) -> None:
    model, adapter = files(tiny_llama, tmp_path / "start", anchored=True)
    assert "it trains the anchor too" in (adapter / "README.md").read_text()
    before = logits(base(tiny_llama))
    wrapped, losses = trained(model, adapter, tmp_path / "out", None)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    after: Any = logits(wrapped)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), before)
    wrapped.save_pretrained(tmp_path / "trained")
    export_adapter(tmp_path / "trained", tmp_path / "plain")
    plain = PeftModel.from_pretrained(base(tiny_llama), str(tmp_path / "plain"))
    torch.testing.assert_close(logits(plain), after, rtol=0, atol=1e-5)
