"""GRPO with a reward that can be checked, from LoRA's zeros and from spectral starts.

    python benchmarks/grpo_starts.py

A two-layer LLaMA of width 64 learns to name the last letter, by the alphabet, of five, until it is
right about half of the time. Then TRL's GRPOTrainer trains adapters of rank 8 on its q and v: eight
answers to each of eight prompts a step, reward 1 for the right letter. Every start is tried at
every rate, and the greedy accuracy on 500 other prompts is taken before and after. It is as small
as a trial of the machinery is; it ranks no methods.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from statistics import fmean, stdev

import peft
import torch
import transformers as hf
from datasets import Dataset
from machine import machine
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from trl import GRPOConfig, GRPOTrainer

import ailora
from ailora import presets
from ailora.cli.console import quiet_libraries
from ailora.files import write_json

RESULTS = Path(__file__).parent / "results" / "grpo_starts.json"
LETTERS = "abcdefghijklmnopqrst"
SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "is")
STARTS = {
    "LoRA": presets.lora,
    "principal (PiSSA)": presets.pissa,
    "minor (MiLoRA)": presets.milora,
    "AILoRA": presets.ailora,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", default="1e-3,4e-3,1.6e-2")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--enough", type=float, default=0.5, help="accuracy to start from")
    asked = parser.parse_args()
    quiet_libraries()
    rates = [float(rate) for rate in asked.rates.split(",")]
    tests = prompts(500, seed=99)
    with tempfile.TemporaryDirectory() as folder:
        before = pretrain(Path(folder), tests, asked.enough)
        jobs = [(n, lr, seed) for n in STARTS for lr in rates for seed in range(asked.seeds)]
        found: dict[str, dict[str, list[float]]] = {}
        for name, lr, seed in track(jobs, description="GRPO"):
            score = trained(Path(folder), name, lr, seed, asked.steps, tests)
            found.setdefault(name, {}).setdefault(f"{lr:g}", []).append(score)
    write_json(
        RESULTS,
        {"machine": machine(), "asked": vars(asked), "before": before, "accuracy": found},
    )
    table = Table(title=f"greedy accuracy after {asked.steps} steps; before: {before:.3f}")
    table.add_column("start")
    for rate in found["LoRA"]:
        table.add_column(f"lr {rate}")
    for name, by_rate in found.items():
        table.add_row(name, *(f"{fmean(s):.3f} ± {stdev(s):.3f}" for s in by_rate.values()))
    Console().print(table)


def prompts(count: int, *, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)  # noqa: S311
    rows = [draw.choices(LETTERS, k=5) for _ in range(count)]
    return [{"prompt": " ".join([*row, "is"]), "answer": max(row)} for row in rows]


def right(completions: list[str], answer: list[str], **_: object) -> list[float]:
    return [float(text.split()[:1] == [one]) for text, one in zip(completions, answer, strict=True)]


def pretrain(folder: Path, tests: list[dict[str, str]], enough: float) -> float:
    """Train the base on the task until its greedy accuracy is enough, and save it."""
    words = {word: index for index, word in enumerate((*SPECIAL, *LETTERS))}
    inner = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    tokens = hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]",
        eos_token="[EOS]", padding_side="left",
    )  # fmt: skip
    tokens.save_pretrained(folder)
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(2000):
        rows = prompts(64, seed=1000 + step)
        ids = tokens([f"{row['prompt']} {row['answer']}" for row in rows], return_tensors="pt")
        labels = ids["input_ids"].clone()
        labels[:, :-1] = -100
        model(input_ids=ids["input_ids"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 2 and accuracy(model, folder, tests) >= enough:
            break
    model.save_pretrained(folder)
    return accuracy(model, folder, tests)


@torch.no_grad()
def accuracy(model: torch.nn.Module, folder: Path, tests: list[dict[str, str]]) -> float:
    tokens = hf.AutoTokenizer.from_pretrained(folder)
    ids = tokens([row["prompt"] for row in tests], return_tensors="pt")["input_ids"]
    said = tokens.batch_decode(model.eval()(input_ids=ids).logits[:, -1].argmax(-1)[:, None])
    model.train()
    return fmean(right(said, [row["answer"] for row in tests]))


def trained(
    folder: Path, name: str, lr: float, seed: int, steps: int, tests: list[dict[str, str]]
) -> float:
    """Greedy accuracy after GRPO with one start, rate and seed."""
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = peft.get_peft_model(model, STARTS[name](r=8, task_type="CAUSAL_LM"))
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=right,
        args=GRPOConfig(
            output_dir=str(folder / "out"), max_steps=steps, per_device_train_batch_size=64,
            num_generations=8, max_completion_length=1, learning_rate=lr, beta=0.04, seed=seed,
            lr_scheduler_type="constant", logging_steps=steps, save_strategy="no", report_to="none",
            use_cpu=True, bf16=False, disable_tqdm=True, gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(prompts(8 * steps, seed=seed)),
        processing_class=hf.AutoTokenizer.from_pretrained(folder),
        optimizers=(ailora.create_optimizer(model, lr=lr), None),
    )  # fmt: skip
    trainer.train()
    return accuracy(trainer.model, folder, tests)


if __name__ == "__main__":
    main()
