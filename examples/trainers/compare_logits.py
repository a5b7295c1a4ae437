"""Whether a trained adapter came back as a LoRA of the original model. Stock PEFT, without ailora.

Run it:  python examples/trainers/compare_logits.py MODEL start/model TRAINED plain
"""

from __future__ import annotations

import argparse
import sys

import torch
from peft import PeftModel, __version__
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ("The museum opens at nine and closes at four.", "I forgot my password.")


def load(model: str, adapter: str | None = None) -> torch.nn.Module:
    """A decoder in fp32, with an adapter if one is given."""
    decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return (PeftModel.from_pretrained(decoder, adapter) if adapter else decoder).eval()


def main(original: str, residual: str, trained: str, plain: str) -> None:
    """Print by how much the logits of each pair of models differ at most."""
    tokenizer = AutoTokenizer.from_pretrained(original)
    batches = [tokenizer(text, return_tensors="pt")["input_ids"] for text in TEXTS]

    @torch.no_grad()
    def logits(model: str, adapter: str | None = None) -> torch.Tensor:
        decoder = load(model, adapter)
        return torch.cat([decoder(input_ids=batch).logits[0] for batch in batches])

    base, wanted = logits(original), logits(residual, trained)
    rows = {
        "training moved the logits by": base,
        "PLAIN on the original model: off by": logits(original, plain),
        "TRAINED on the original model, not exported: off by": logits(original, trained),
    }
    print(f"peft {__version__}, ailora imported: {'ailora' in sys.modules}")
    for words, found in rows.items():
        print(f"{words:52} {(found - wanted).abs().max():.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", help="the model that the start was made of")
    parser.add_argument("residual", help="what the trainer was given, start/model")
    parser.add_argument("trained", help="the adapter that the trainer saved")
    parser.add_argument("plain", help="what ailora export --folded-base made of it")
    main(**vars(parser.parse_args()))
