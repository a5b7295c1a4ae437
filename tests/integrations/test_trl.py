"""TRL's trainers, with a model wrapped beforehand and with ``peft_config=``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from datasets import Dataset
from peft import PeftModel

import ailora
from ailora import presets
from tests.conftest import BAD, GOOD, sentences


class Importing:
    """TRL, whose trainers are imported when they are asked for, if they can be."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self.module, name)
        except RuntimeError as error:  # 0.24 takes mergekit for installed beside transformers 5
            pytest.skip(f"TRL {self.module.__version__}: {' '.join(str(error).split())}")


trl = Importing(pytest.importorskip("trl", reason="TRL needs Python 3.11"))

WAYS = pytest.mark.parametrize("way", ["wrapped", "peft_config"])
CONFIG = presets.ailora(3, bake_rates=True, task_type="CAUSAL_LM")
TOKENS = torch.arange(4, 16).view(2, 6)


def base(folder: Path) -> hf.PreTrainedModel:
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def given(folder: Path, way: str) -> dict[str, Any]:
    model = base(folder)
    if way == "wrapped":
        return {"model": ailora.get_peft_model(model, CONFIG)}
    return {"model": model, "peft_config": CONFIG}


def arguments(kind: Any, out: Path, **more: Any) -> Any:
    return kind(
        output_dir=str(out),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        **({"max_length": 24} if "max_length" in kind.__dataclass_fields__ else {}),
        **more,
    )


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=TOKENS).logits


def texts(count: int = 16) -> Dataset:
    return Dataset.from_list([{"text": text} for text, _ in sentences(count)])


def preferences(count: int = 16) -> Dataset:
    rows = [
        {"prompt": "the film was", "chosen": f" {GOOD[i % 3]} very", "rejected": f" {BAD[i % 3]}"}
        for i in range(count)
    ]
    return Dataset.from_list(rows)


@WAYS
@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_trains_and_what_it_saves_is_a_plain_lora(
    tiny_llama: Path, tmp_path: Path, way: str, checkpointing: bool
) -> None:
    trainer = trl.SFTTrainer(
        **given(tiny_llama, way),
        args=arguments(trl.SFTConfig, tmp_path / "out", gradient_checkpointing=checkpointing),
        train_dataset=texts(),
        processing_class=hf.AutoTokenizer.from_pretrained(tiny_llama),
    )
    before = logits(base(tiny_llama))
    assert torch.equal(logits(trainer.model), before)
    trainer.train()
    after = logits(trainer.model)
    assert not torch.allclose(after, before, atol=1e-3)
    trainer.save_model(str(tmp_path / "adapter"))
    stock = PeftModel.from_pretrained(base(tiny_llama), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(stock), after)
    again = ailora.load_adapter(base(tiny_llama), tmp_path / "adapter", is_trainable=True)
    assert torch.equal(logits(again), after)
    with trainer.model.disable_adapter():
        assert torch.equal(logits(trainer.model), before)


@WAYS
def test_dpo_starts_at_log_2_and_its_reference_stays_the_base(
    tiny_llama: Path, tmp_path: Path, way: str
) -> None:
    trainer = trl.DPOTrainer(
        **given(tiny_llama, way),
        args=arguments(trl.DPOConfig, tmp_path / "out", gradient_checkpointing=False),
        train_dataset=preferences(),
        processing_class=hf.AutoTokenizer.from_pretrained(tiny_llama),
    )
    before = logits(base(tiny_llama))
    assert torch.equal(reference(trainer.model), before)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0] - 1e-3
    assert torch.equal(reference(trainer.model), before)
    assert not torch.allclose(logits(trainer.model), before, atol=1e-3)


@torch.no_grad()
def reference(model: PeftModel) -> torch.Tensor:
    """What DPOTrainer compares with: the adapter "ref" if there is one, else no adapter."""
    if "ref" not in model.peft_config:
        with model.disable_adapter():
            return logits(model)
    model.set_adapter("ref")
    found = logits(model)
    model.set_adapter("default")
    return found
