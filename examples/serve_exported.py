"""An adapter as a server wants it: one rank, no patterns, and small; what that costs is said.

Run it:  python examples/serve_exported.py
The export on the command line:
    ailora export ADAPTER --rank 8 --out served
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding, PreTrainedModel

import ailora
from ailora.lab.demo import decoder_dir
from ailora.offline import export_adapter

TEXTS = (
    "The museum opens at nine and closes at four.",
    "The library opens at ten and closes at eight.",
    "The market opens at six and closes at noon.",
)


def load(model: str) -> PreTrainedModel:
    """Load a decoder in fp32."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def train_a_little(model: str, batch: BatchEncoding) -> PeftModel:
    """Ten steps of AILoRA."""
    config = ailora.AILoRAConfig(r=8, task_type="CAUSAL_LM")
    tuned = ailora.get_peft_model(load(model), config)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = ailora.create_optimizer(tuned, lr=2e-4)
    for _ in range(10):
        tuned(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return tuned


@torch.no_grad()
def logits(model: torch.nn.Module, batch: BatchEncoding) -> torch.Tensor:
    """Logits (tokens, vocabulary) at the places that are not padding."""
    return model(**batch).logits[batch["attention_mask"].bool()]


def main(model: str, out: Path) -> None:
    """Export a trained adapter exactly and to rank 8, and compare both with what was trained."""
    out.mkdir(parents=True)  # files are never mixed with those of an earlier call
    model = str(decoder_dir()) if model == "demo" else model
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt", return_token_type_ids=False)
    before = logits(load(model), batch)
    tuned = train_a_little(model, batch)
    tuned.save_pretrained(out / "trained")
    wanted = logits(tuned, batch)
    print(f"training moved the logits by up to {(wanted - before).abs().max():.2e}")

    for name, rank in (("exact", None), ("small", 8)):
        report = export_adapter(out / "trained", out / name, rank=rank)
        worst = max(report.modules, key=lambda module: module.frobenius)
        served = PeftModel.from_pretrained(load(model), report.folder).eval()
        found = logits(served, batch)
        merged = logits(served.merge_and_unload(), batch)
        print(
            f"{name}, rank {report.rank}: lost at most {worst.frobenius:.1%} of an update's norm; "
            f"logits off by {(found - wanted).abs().max():.2e}, "
            f"and merging moves them by {(merged - found).abs().max():.2e}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a decoder: a folder or a hub name")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/serve_exported"), help="a new folder"
    )
    main(**vars(parser.parse_args()))
