"""Checkpoints of tiny random models, in one file or several."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers as hf
from transformers import PreTrainedModel

from tests.families import FAMILIES

GPT2 = {
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "initializer_range": 0.1,
}


def tiny(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A tiny model; ``gpt2`` has fused, transposed weights."""
    if family != "gpt2":
        return FAMILIES[family]().to(dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)).eval().to(dtype)


def saved(
    folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, *, shards: bool = False
) -> Path:
    """The folder of a saved tiny model, in several shards if asked for."""
    tiny(family, dtype).save_pretrained(folder, max_shard_size="20KB" if shards else "1GB")
    assert (folder / "model.safetensors.index.json").exists() is shards
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edit_json(path: Path, **values: object) -> None:
    """Set some keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
