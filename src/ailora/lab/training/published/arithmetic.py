"""Arithmetic on LLaMA-2-7B: the paper's rank, rate, warm-up and epochs, the rest LLM-Adapters'."""

from __future__ import annotations

from ailora.lab.training.published.base import Cited, Published, publish, scale_one
from ailora.lab.training.settings import Generation

_SCRIPT = "LLM-Adapters, finetune.py and its LLaMA-7B LoRA command for Math10K"


def arithmetic_llama_2_7b() -> Published:
    """Settings for tuning on Math10K-style records, scored on the five arithmetic tests."""
    return publish(
        rank=Cited(32, "AILoRA section 4.2"),
        alpha=scale_one(32, "LLM-Adapters has 64 at rank 32"),
        dropout=Cited(0.05, f"AILoRA states none; {_SCRIPT}"),
        lr=Cited(3e-4, "AILoRA section 4.2"),
        epochs=Cited(3, "AILoRA section 4.2"),
        batch_size=Cited(16, f"AILoRA states none; {_SCRIPT}"),
        warmup_ratio=Cited(0.03, "AILoRA section 4.2"),
        weight_decay=Cited(0.0, f"AILoRA names AdamW and no decay; {_SCRIPT}: 0"),
        max_length=Cited(256, f"AILoRA states none; {_SCRIPT}: cutoff_len"),
        generation=Cited(
            Generation(loss_on="sequence", max_new_tokens=256, num_beams=4),
            "AILoRA states none; LLM-Adapters: train_on_inputs, and evaluate.py's beam search of "
            "four, without sampling",
        ),
        rates=Cited((3e-4,), "AILoRA section 4.2: one rate, no search"),
        seeds=Cited(5, "AILoRA section 4.2"),
        notes=(
            "warm-up: the AILoRA paper has 3 % of the steps, LLM-Adapters 100 steps",
            "LLM-Adapters adapts query, key, value, up and down; AILoRA query and value",
            "PiSSA asks for no dropout, since with folded weights it moves step 0; with anchored "
            "factors it does not",
            "LLM-Adapters generates for one prompt at a time, in fp16 and without a cache; "
            "here many at a time and with one",
        ),
    )
