"""``peft_config=AILoRAConfig(...)`` in TRL's trainers: from step 0 to stock PEFT elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from datasets import Dataset
from safetensors.torch import load_file

import ailora
from ailora.errors import UserError
from tests.integrations.test_trl import arguments, base, logits, preferences, texts, trl
from tests.other_process import run_elsewhere

CONFIG = ailora.AILoRAConfig(r=3, bake_rates=True, task_type="CAUSAL_LM")
STOCK_PROCESS = """
import sys
sys.modules["ailora"] = None  # cannot be imported
import peft, torch, transformers
from safetensors.torch import save_file
kind, base, adapter, out = sys.argv[1:]
torch.set_num_threads(1)
fields = {"num_labels": 1} if kind == "AutoModelForSequenceClassification" else {}
model = getattr(transformers, kind).from_pretrained(base, dtype=torch.float32, **fields)
model = peft.PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    found = model(input_ids=torch.arange(4, 16).view(2, 6)).logits
save_file({"logits": found}, out)
"""


def sft(folder: Path, out: Path) -> Any:
    return trl.SFTTrainer(
        model=base(folder),
        peft_config=CONFIG,
        args=arguments(trl.SFTConfig, out),
        train_dataset=texts(),
        processing_class=hf.AutoTokenizer.from_pretrained(folder),
    )


def dpo(folder: Path, out: Path) -> Any:
    return trl.DPOTrainer(
        model=base(folder),
        peft_config=CONFIG,
        args=arguments(trl.DPOConfig, out, gradient_checkpointing=False),
        train_dataset=preferences(),
        processing_class=hf.AutoTokenizer.from_pretrained(folder),
    )


def reward(folder: Path, out: Path) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hf.AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype=torch.float32
        )
    rows = [{"chosen": f"film was {i % 3 * 'good '}very", "rejected": "bad plot"} for i in range(8)]
    return trl.RewardTrainer(
        model=model,
        peft_config=ailora.AILoRAConfig(r=3, bake_rates=True, task_type="SEQ_CLS"),
        args=arguments(trl.RewardConfig, out),
        train_dataset=Dataset.from_list(rows),
        processing_class=hf.AutoTokenizer.from_pretrained(folder),
    )


def grpo(folder: Path, out: Path) -> Any:
    def many_words(completions: list[str], **_: Any) -> list[float]:
        return [float(len(set(text.split()))) for text in completions]

    options = {"max_completion_length": 6, "num_generations": 4, "beta": 0.1}
    return trl.GRPOTrainer(
        model=base(folder),
        peft_config=CONFIG,
        reward_funcs=many_words,
        args=arguments(trl.GRPOConfig, out, **options),
        train_dataset=Dataset.from_list([{"prompt": "the film was"}] * 8),
        processing_class=hf.AutoTokenizer.from_pretrained(folder),
    )


TRAINERS: dict[str, Callable[[Path, Path], Any]] = {
    "sft": sft,
    "dpo": dpo,
    "reward": reward,
    "grpo": grpo,
}


@pytest.mark.parametrize("name", TRAINERS)
def test_it_starts_at_the_base_trains_and_is_a_plain_lora_for_stock_peft(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    trainer = TRAINERS[name](tiny_llama, tmp_path / "out")
    with trainer.model.disable_adapter():
        before = logits(trainer.model)
    assert torch.equal(logits(trainer.model), before)
    trainer.train()
    after = logits(trainer.model)
    assert not torch.allclose(after, before, atol=1e-4)
    with trainer.model.disable_adapter():
        assert name == "reward" or torch.equal(logits(trainer.model), before)  # its head trains
    if name == "grpo":
        first = next(entry for entry in trainer.state.log_history if "kl" in entry)
        assert first["kl"] == pytest.approx(0, abs=1e-6)

    trainer.save_model(str(tmp_path / "adapter"))
    kind = "AutoModelForSequenceClassification" if name == "reward" else "AutoModelForCausalLM"
    run_elsewhere(STOCK_PROCESS, kind, tiny_llama, tmp_path / "adapter", tmp_path / "found")
    found = load_file(tmp_path / "found")["logits"]
    torch.testing.assert_close(found, after, rtol=0, atol=1e-6)
    if name != "reward":
        again = ailora.load_adapter(base(tiny_llama), tmp_path / "adapter", is_trainable=True)
        assert torch.equal(logits(again), after)


@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_a_folded_start_is_refused_where_the_disabled_adapter_is_the_reference(
    name: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = ailora.AILoRAConfig(r=3, anchored=False, task_type="CAUSAL_LM")
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", folded)
    with pytest.raises(UserError, match=r"is folded into the base weights"):
        TRAINERS[name](tiny_llama, tmp_path / "out").train()
