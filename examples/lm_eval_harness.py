"""An adapter in EleutherAI's lm-evaluation-harness: as ``peft=``, and merged into the model.

Run it:  python examples/lm_eval_harness.py          (pip install lm-eval)
On the command line, with any of its tasks:
    lm_eval --model hf --model_args pretrained=MODEL,peft=ADAPTER,dtype=float32 --tasks hellaswag

What AILoRA saves is a plain LoRA of the untouched model, so the harness needs nothing for it. Here
a few multiple-choice questions are a task of their own, of two files, without a network.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import ailora
from ailora.lab.demo import decoder_dir

QUESTIONS = (
    ("The museum opens at nine and closes at", ("four", "apples", "green"), 0),
    ("The library lends", ("clouds", "books", "seven"), 1),
    ("At night the market is", ("closed", "a song", "triangle"), 0),
    ("Trains leave from the", ("soup", "idea", "station"), 2),
)
TASK = """\
task: opening_hours
dataset_path: json
dataset_kwargs:
  data_files: {rows}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
"""


def write_task(folder: Path) -> None:
    """The rows as JSON lines, and the task that reads them."""
    names = ("question", "choices", "label")
    rows = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in QUESTIONS)
    (folder / "questions.jsonl").write_text(rows, encoding="utf-8")
    task = TASK.format(rows=folder.absolute() / "questions.jsonl")
    (folder / "opening_hours.yaml").write_text(task, encoding="utf-8")


def load(model: str) -> PreTrainedModel:
    """Load a decoder in fp32."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def train_a_little(model: str, out: Path) -> None:
    """Ten steps of AILoRA on the questions with their answers; then as adapter and merged."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [f"{question} {choices[label]}" for question, choices, label in QUESTIONS]
    rows = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
    tuned = ailora.get_peft_model(load(model), ailora.AILoRAConfig(r=8, task_type="CAUSAL_LM"))
    optimizer = ailora.create_optimizer(tuned, lr=1e-3)
    for _ in range(10):
        for ids in rows:
            tuned(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned.eval().save_pretrained(out / "adapter")
    tuned.merge_and_unload().save_pretrained(out / "merged")
    tokenizer.save_pretrained(out / "merged")


def evaluated(folder: Path, **model: str) -> tuple[float, list[float]]:
    """Accuracy, and the log-likelihood of every choice of every question."""
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model="hf",
        model_args={**model, "dtype": "float32"},
        tasks=["opening_hours"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        batch_size=1,
        bootstrap_iters=0,
    )
    samples = found["samples"]["opening_hours"]
    likelihoods = [float(reply[0]) for sample in samples for reply in sample["filtered_resps"]]
    return found["results"]["opening_hours"]["acc,none"], likelihoods


def main(model: str, out: Path) -> None:
    """Train, and compare base, adapter and merged model in the harness."""
    out.mkdir(parents=True)  # files are never mixed with those of an earlier call
    model = str(decoder_dir()) if model == "demo" else model
    write_task(out)
    train_a_little(model, out)
    base = evaluated(out, pretrained=model)
    adapter = evaluated(out, pretrained=model, peft=str(out / "adapter"))
    merged = evaluated(out, pretrained=str(out / "merged"))
    for name, (accuracy, _) in (("base", base), ("as peft=", adapter), ("merged", merged)):
        print(f"{name + ':':9} accuracy {accuracy:.2f} on {len(QUESTIONS)} questions")
    pairs = list(zip(base[1], adapter[1], merged[1], strict=True))
    print(f"training moved a log-likelihood by up to {max(abs(b - a) for b, a, _ in pairs):.2e}")
    print(f"adapter and merged model differ by up to {max(abs(a - m) for _, a, m in pairs):.2e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a decoder: a folder or a hub name")
    parser.add_argument("--out", type=Path, default=Path("runs/lm_eval_harness"), help="new folder")
    main(**vars(parser.parse_args()))
