"""AILoRA in TRL's SFTTrainer: it wraps the model itself, so it is given a PEFT config.

Run it:  pip install 'ailora[trl]' && python examples/trl_sft.py      (Python 3.11 or newer)

A handful of messages and the team that each is for; then three messages that were not among them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, set_seed
from trl import SFTConfig, SFTTrainer

import ailora
from ailora.lab.demo import decoder_dir

PROMPT = "Message: {}\nTeam:"
SORTED = {
    "billing": (
        "My card was charged twice.",
        "Please send the invoice again.",
        "I want my money back.",
        "The price on my bill is wrong.",
    ),
    "delivery": (
        "The parcel has not come.",
        "The box is crushed.",
        "It was sent to my old address.",
        "When will my order arrive?",
    ),
    "login": (
        "I forgot my password.",
        "The code never reaches me.",
        "My account is locked.",
        "The page says my name is unknown.",
    ),
}
NEW = ("Where is my package?", "I cannot sign in to my account.", "You took the payment two times.")


def rows() -> Dataset:
    """Prompts and completions; TRL ends each, and its loss is of the completions alone."""
    return Dataset.from_list(
        [
            {"prompt": PROMPT.format(message), "completion": f" {team}"}
            for team, messages in SORTED.items()
            for message in messages
        ]
    )


@torch.no_grad()
def answers(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the model writes after each new message, always its likeliest token."""
    model.eval()
    written = []
    for message in NEW:
        prompt = tokenizer(PROMPT.format(message), return_tensors="pt").to(model.device)
        out = model.generate(
            input_ids=prompt["input_ids"],
            attention_mask=prompt["attention_mask"],
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = out[0, prompt["input_ids"].shape[1] :]
        written.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return written


def main(model: str, out: Path) -> None:
    """Print what the model answers before training and after it; the adapter is saved."""
    model = str(decoder_dir()) if model == "demo" else model
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    before = answers(base, tokenizer)

    set_seed(0)
    trainer = SFTTrainer(
        model=base,
        args=SFTConfig(
            output_dir=str(out),
            num_train_epochs=6,
            per_device_train_batch_size=3,
            learning_rate=1e-3,
            logging_steps=4,
            save_strategy="no",
            report_to="none",
            bf16=False,
        ),
        train_dataset=rows(),
        processing_class=tokenizer,
        # TRL makes the optimiser, so V's rate goes into the factors.
        peft_config=ailora.AILoRAConfig(r=8, bake_rates=True, task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(str(out))

    for message, old, new in zip(NEW, before, answers(trainer.model, tokenizer), strict=True):
        print(f"{message}\n  before: {old!r}\n  after:  {new!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a decoder: a folder or a hub name")
    parser.add_argument("--out", type=Path, default=Path("runs/trl_sft"), help="the adapter's")
    main(**vars(parser.parse_args()))
