"""AILoRAConfig in ``add_adapter`` of transformers and of sentence-transformers.

transformers checks PEFT's version there itself, so this is for a pair that it accepts:

    pip install torch==2.13.0 transformers==5.16.1 peft==0.20.0 accelerate==1.13.0 \
        sentence-transformers
    PYTHONPATH=src python tools/other_versions.py

Trains a few steps, saves, and loads by stock PEFT in another process; what it prints should be
exact: step 0 and every reload off by 0.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import ailora

TOKENS = torch.arange(3, 27).reshape(3, 8)
TEXTS = ["a good film", "a bad film"]
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48}
STOCK = """
import sys
sys.modules["ailora"] = None  # cannot be imported
import peft, torch, transformers
from safetensors.torch import load_file
base, adapter, wanted = sys.argv[1:]
model = transformers.LlamaForCausalLM.from_pretrained(base)
model = peft.PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    found = model(input_ids=torch.arange(3, 27).reshape(3, 8)).logits
print(float((found - load_file(wanted)["logits"]).abs().max()))
"""


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    """Of the tokens above."""
    return model.eval()(input_ids=TOKENS).logits


def with_transformers(folder: Path) -> None:
    """``model.add_adapter(config)``, three steps, ``save_pretrained``."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        **SIZES, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    hf.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    model = hf.LlamaForCausalLM.from_pretrained(folder / "llama")
    before = logits(model)
    model.add_adapter(ailora.AILoRAConfig(r=4))
    print("transformers add_adapter: step 0 off by", off(logits(model), before))
    optimizer = ailora.create_optimizer(model, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    after = logits(model)
    print("moved by", off(after, before))
    model.save_pretrained(folder / "adapter")
    save_file({"logits": after}, folder / "after")
    paths = [str(folder / name) for name in ("llama", "adapter", "after")]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *paths], check=True, capture_output=True, text=True
    )
    print("stock PEFT, another process: off by", done.stdout.strip())
    base = hf.LlamaForCausalLM.from_pretrained(folder / "llama")
    again = ailora.load_adapter(base, folder / "adapter", is_trainable=True)
    print("ailora.load_adapter: off by", off(logits(again), after))


def with_sentence_transformers(folder: Path) -> None:
    """``SentenceTransformer.add_adapter(config)``, three steps, ``save``."""
    torch.manual_seed(0)
    config = hf.BertConfig(**SIZES, num_hidden_layers=2, num_attention_heads=4)
    hf.BertModel(config).save_pretrained(folder / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film"]
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[1]))
    inner.pre_tokenizer = Whitespace()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), words, strict=False))
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    tokenizer.save_pretrained(folder / "bert")
    model = SentenceTransformer(str(folder / "bert"))
    before = torch.from_numpy(model.encode(TEXTS))
    model.add_adapter(ailora.AILoRAConfig(r=4, task_type="FEATURE_EXTRACTION"))
    found = torch.from_numpy(model.encode(TEXTS))
    print("sentence-transformers add_adapter: step 0 off by", off(found, before))
    optimizer = ailora.create_optimizer(model, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(tokenizer(TEXTS, return_tensors="pt"))["sentence_embedding"].square().sum().backward()
        optimizer.step()
    after = torch.from_numpy(model.encode(TEXTS))
    print("moved by", off(after, before))
    model.save(str(folder / "sentences"))
    fresh = SentenceTransformer(str(folder / "bert"))
    fresh.load_adapter(str(folder / "sentences"))
    found = torch.from_numpy(fresh.encode(TEXTS))
    print("sentence-transformers load_adapter: off by", off(found, after))


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    """Their largest difference."""
    return float((one - other).abs().max())


if __name__ == "__main__":
    names = ("transformers", "peft", "sentence-transformers")
    print(", ".join(f"{name} {version(name)}" for name in names))
    with tempfile.TemporaryDirectory() as temporary:
        with_transformers(Path(temporary))
        with_sentence_transformers(Path(temporary))
