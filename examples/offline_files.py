"""AILoRA for a trainer you do not control: a start as files, and afterwards a plain LoRA.

Run it:  python examples/offline_files.py
The first and the last step on the command line:
    ailora init MODEL --out start --bake-rates
    ailora export TRAINED --folded-base --out plain
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding, PreTrainedModel

from ailora import presets
from ailora.lab.demo import decoder_dir
from ailora.offline import export_adapter, init_files

TEXTS = (
    "The museum opens at nine and closes at four.",
    "The library opens at ten and closes at eight.",
    "The market opens at six and closes at noon.",
)


def load(model: str | Path) -> PreTrainedModel:
    """Load a decoder in fp32."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def train_elsewhere(model: Path, adapter: Path, batch: BatchEncoding, out: Path) -> PeftModel:
    """Stand in for the other trainer: PEFT and torch alone, which know nothing of ailora."""
    tuned = PeftModel.from_pretrained(load(model), adapter, is_trainable=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    trainable = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=2e-4, weight_decay=0.0)
    for step in range(10):
        loss = tuned(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, 9):
            print(f"  step {step}: loss {loss.item():.3f}")
    tuned.save_pretrained(out)
    return tuned.eval()


@torch.no_grad()
def logits(model: torch.nn.Module, batch: BatchEncoding) -> torch.Tensor:
    """Logits (tokens, vocabulary) at the places that are not padding."""
    return model(**batch).logits[batch["attention_mask"].bool()]


def main(model: str, out: Path) -> None:
    """Make a start, train it elsewhere, make the result a LoRA of the original, and compare."""
    out.mkdir(parents=True)  # files are never mixed with those of an earlier call
    model = str(decoder_dir()) if model == "demo" else model
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt", return_token_type_ids=False)

    config = presets.ailora(r=8, anchored=False, bake_rates=True, task_type="CAUSAL_LM")
    start = init_files(model, out / "start", config)
    print(f"start: {start.model} and {start.adapter}")
    trained = train_elsewhere(start.model, start.adapter, batch, out / "trained")

    report = export_adapter(out / "trained", out / "plain", folded_base=True)
    print(f"plain LoRA of rank {report.rank} for {report.base}: {report.folder}")
    original = load(model)
    before, wanted = logits(original, batch), logits(trained, batch)
    found = logits(PeftModel.from_pretrained(original, out / "plain").eval(), batch)
    print(f"training moved the logits by up to   {(wanted - before).abs().max():.2e}")
    print(f"on the original model they differ by {(wanted - found).abs().max():.2e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a decoder: a folder or a hub name")
    parser.add_argument("--out", type=Path, default=Path("runs/offline_files"), help="a new folder")
    main(**vars(parser.parse_args()))
