"""Adapters made, trained for a step, saved and loaded one after another in one process.

python -m tests.load.many_adapters COUNT [memory|handles|objects]: what the process holds after
every tenth of them, as JSON lines; with a second word it keeps something of each on purpose.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as hf

import ailora
from tests.load.measured import held

CONFIG = hf.BertConfig(
    vocab_size=20,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
)
IDS = torch.arange(8).reshape(1, 8)


def one(seed: int, out: Path) -> Any:
    """A model of its own with an adapter that took a step; saved, and every fifth loaded again."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(hf.BertModel(CONFIG), ailora.AILoRAConfig(r=2))
    optimizer = ailora.create_optimizer(model, torch.optim.AdamW, lr=1e-3)
    model(input_ids=IDS).last_hidden_state.square().sum().backward()
    optimizer.step()
    model.save_pretrained(out)
    if seed % 5 == 0:
        torch.manual_seed(seed)
        ailora.load_adapter(hf.BertModel(CONFIG), out)
        model.add_adapter("second", ailora.AILoRAConfig(r=2))
        model.delete_adapter("second")
    return model


def main() -> None:
    count, leak = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    torch.set_num_threads(1)
    kept: list[object] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AILORA_CACHE"] = f"{folder}/cache"
        os.environ["AILORA_CACHE_LIMIT"] = "100kB"  # entries come and go all the time
        for number in range(count):
            model = one(number, Path(folder) / "adapter")
            if leak == "memory":
                kept.append(b"\1" * (64 << 10))
            elif leak == "handles":
                kept.append(os.dup(1))
            elif leak == "objects":
                kept.append(next(model.parameters()))
            del model
            if (number + 1) % (count // 10) == 0:
                print(json.dumps({"adapters": number + 1, **held()}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
