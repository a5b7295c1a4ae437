"""Reinforcement learning through TRL: the reference is the base, exactly, before and after."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from datasets import Dataset
from safetensors.torch import load_file

import ailora
from ailora.errors import UserError
from tests.conftest import BAD, GOOD
from tests.integrations.test_trl import arguments, base, logits, reference, trl
from tests.integrations.test_trl_config import STOCK_PROCESS

Made = Callable[[Path, Path, dict[str, Any]], Any]
BETA = 0.1


def many_words(completions: list[str], **_: Any) -> list[float]:
    """A reward that anyone can check: how many different words there are."""
    return [float(len(set(text.split()))) for text in completions]


def online(name: str, folder: Path, out: Path, given: dict[str, Any], **more: Any) -> Any:
    options = {"max_completion_length": 6, "num_generations": 4, "beta": BETA, **more}
    return getattr(trl, f"{name}Trainer")(
        **given,
        reward_funcs=many_words,
        args=arguments(getattr(trl, f"{name}Config"), out, **options),
        train_dataset=Dataset.from_list([{"prompt": "the film was"}] * 8),
        processing_class=hf.AutoTokenizer.from_pretrained(folder),
    )


def grpo(folder: Path, out: Path, given: dict[str, Any]) -> Any:
    return online("GRPO", folder, out, given)


def rloo(folder: Path, out: Path, given: dict[str, Any]) -> Any:
    return online("RLOO", folder, out, given)


def kto(folder: Path, out: Path, given: dict[str, Any]) -> Any:
    if not hasattr(trl, "KTOTrainer"):
        pytest.skip("this TRL's KTO is experimental")
    rows = [
        {"prompt": "the film was", "completion": f" {words[i % 3]} very", "label": words is GOOD}
        for i in range(8)
        for words in (GOOD, BAD)
    ]
    return trl.KTOTrainer(
        **given,
        args=arguments(trl.KTOConfig, out, beta=BETA, gradient_checkpointing=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=hf.AutoTokenizer.from_pretrained(folder),
    )


TRAINERS: dict[str, Made] = {"grpo": grpo, "rloo": rloo, "kto": kto}
WAYS = pytest.mark.parametrize("way", ["wrapped", "peft_config"])


def given(folder: Path, way: str, **fields: Any) -> dict[str, Any]:
    config = ailora.AILoRAConfig(r=3, task_type="CAUSAL_LM", **fields)
    model = base(folder)
    if way == "wrapped":
        return {"model": peft.get_peft_model(model, config)}
    return {"model": model, "peft_config": config}


def logged(trainer: Any) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@WAYS
@pytest.mark.parametrize("name", TRAINERS)
def test_the_reference_is_the_base_bit_for_bit_and_the_first_kl_is_0(
    name: str, way: str, tiny_llama: Path, tmp_path: Path
) -> None:
    trainer = TRAINERS[name](tiny_llama, tmp_path / "out", given(tiny_llama, way, bake_rates=True))
    ailora.log_roles(trainer)
    before = logits(base(tiny_llama))
    for found in (logits(trainer.model), reference(trainer.model)):
        assert torch.equal(found, before)
    trainer.train()
    lines = logged(trainer)
    assert lines[0]["kl"] == 0
    if name == "kto":
        assert lines[0]["loss"] == 0.5  # 1 - sigmoid(0), of the good and of the bad
        assert lines[-1]["loss"] < 0.5
    after = logits(trainer.model)
    assert not torch.allclose(after, before, atol=1e-4)
    assert torch.equal(reference(trainer.model), before)
    with trainer.model.disable_adapter():
        assert torch.equal(logits(trainer.model), before)
    assert lines[-1]["lr/v"] == pytest.approx(2 * lines[-1]["lr/q"])
    assert lines[-1]["moved/q"] > 0 and lines[-1]["moved/v"] > 0

    trainer.save_model(str(tmp_path / "adapter"))
    config = peft.PeftConfig.from_pretrained(str(tmp_path / "adapter"))
    assert type(config) is peft.LoraConfig and config.init_lora_weights is True
    again = ailora.load_adapter(base(tiny_llama), tmp_path / "adapter", is_trainable=True)
    assert torch.equal(logits(again), after)
    if way == "peft_config":
        check_elsewhere(tiny_llama, tmp_path, after)


def check_elsewhere(model: Path, folder: Path, expected: torch.Tensor) -> None:
    """Stock PEFT computes the same from the files, in a process without ailora."""
    paths = [str(model), str(folder / "adapter"), str(folder / "found")]
    call = [sys.executable, "-c", STOCK_PROCESS, "AutoModelForCausalLM", *paths]
    subprocess.run(call, check=True)
    found = load_file(folder / "found")["logits"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_folded_start_is_refused_where_the_disabled_adapter_is_the_reference(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    folded = given(tiny_llama, "peft_config", anchored=False)
    with pytest.raises(UserError, match="is folded into the base weights"):
        TRAINERS[name](tiny_llama, tmp_path / "out", folded).train()


@pytest.mark.parametrize("name", TRAINERS)
def test_a_folded_start_that_trl_copies_as_its_reference_is_the_base_to_rounding(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    folded = given(tiny_llama, "wrapped", anchored=False, bake_rates=True)
    trainer = TRAINERS[name](tiny_llama, tmp_path / "out", folded)
    before = logits(base(tiny_llama))
    torch.testing.assert_close(reference(trainer.model), before, rtol=0, atol=1e-4)
    start = reference(trainer.model)
    trainer.train()
    assert logged(trainer)[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert torch.equal(reference(trainer.model), start)
    assert not torch.allclose(logits(trainer.model), before, atol=1e-3)


@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
def test_without_a_reference_a_folded_start_trains_as_the_anchored_one(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    ends = []
    for anchored in (True, False):
        torch.manual_seed(0)
        config = given(tiny_llama, "peft_config", anchored=anchored, bake_rates=True)
        trainer = online(
            name, tiny_llama, tmp_path / str(anchored), config, beta=0.0, max_grad_norm=0.0
        )
        before = logits(trainer.model)
        torch.testing.assert_close(before, logits(base(tiny_llama)), rtol=0, atol=1e-4)
        trainer.train()
        assert "kl" not in logged(trainer)[0]
        assert not torch.allclose(logits(trainer.model), before, atol=1e-3)
        ends.append(logits(trainer.model))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-2)
