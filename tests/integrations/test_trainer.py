"""transformers' Trainer with what people switch on in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from datasets import Dataset
from peft import PeftModel

import ailora
from ailora import presets

TOKENS = torch.arange(4, 16).view(2, 6)
ROWS = Dataset.from_list([{"input_ids": row, "labels": row} for row in TOKENS.tolist() * 8])


def base(folder: Path, dtype: torch.dtype = torch.float32) -> hf.PreTrainedModel:
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=TOKENS).logits


def train(model: torch.nn.Module, out: Path, **arguments: Any) -> hf.Trainer:
    trainer = hf.Trainer(
        model=model,
        args=hf.TrainingArguments(
            output_dir=str(out),
            max_steps=4,
            per_device_train_batch_size=4,
            learning_rate=5e-3,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=ROWS,
        optimizers=(ailora.create_optimizer(model, lr=5e-3), None),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_trains_to_the_same_weights(
    tiny_llama: Path, tmp_path: Path, reentrant: bool
) -> None:
    plain = ailora.get_peft_model(base(tiny_llama), presets.ailora(3))
    train(plain, tmp_path / "plain")
    saving = ailora.get_peft_model(base(tiny_llama), presets.ailora(3))
    saving.enable_input_require_grads()
    arguments = {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }
    train(saving, tmp_path / "saving", **arguments)
    torch.testing.assert_close(logits(saving), logits(plain), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(plain), logits(base(tiny_llama)), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_bases_train_and_reload(
    tiny_llama: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    before = logits(base(tiny_llama, dtype))
    model = ailora.get_peft_model(base(tiny_llama, dtype), presets.ailora(3))
    assert torch.equal(logits(model), before)
    trainer = train(model, tmp_path / "out")
    after = logits(model)
    assert torch.isfinite(after).all() and not torch.equal(after, before)
    trainer.save_model(str(tmp_path / "adapter"))
    again = ailora.load_adapter(base(tiny_llama, dtype), tmp_path / "adapter", is_trainable=True)
    assert torch.equal(logits(again), after)
    stock = PeftModel.from_pretrained(base(tiny_llama, dtype), str(tmp_path / "adapter"))
    assert torch.equal(logits(stock), after)


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_weights_and_saves(
    tiny_llama: Path, tmp_path: Path
) -> None:
    plain = ailora.get_peft_model(base(tiny_llama), presets.ailora(3))
    train(plain, tmp_path / "plain")
    model = ailora.get_peft_model(base(tiny_llama), presets.ailora(3))
    trainer = train(model, tmp_path / "out", torch_compile=True, torch_compile_backend="inductor")
    trainer.save_model(str(tmp_path / "adapter"))
    again = ailora.load_adapter(base(tiny_llama), tmp_path / "adapter", is_trainable=True)
    torch.testing.assert_close(logits(again), logits(plain), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(plain), logits(base(tiny_llama)), atol=1e-3)
