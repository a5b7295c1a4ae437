"""A checkpoint with the names, shapes and shards of a large Llama, whose data are holes in files.

python -m tests.load.big_model FOLDER: Llama-2-70B's, 138 GB that take 0.3 GB: two layers' q_proj
and v_proj are filled with numbers, so that a start can be made from them.
python -m tests.load.big_model FOLDER OUT LAYERS [folded]: a start of that many of its layers, and
as a JSON line the most bytes of memory above what the imports take.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

import ailora.adapters
from ailora import AILoRAConfig
from ailora.offline import init_files
from tests.load.measured import most_resident, resident

assert ailora.adapters  # imported before memory is measured


class Size(NamedTuple):
    """What makes a Llama large."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int


LLAMA_70B = Size(80, 8192, 28672, 64, 8, 32_000)


def make(folder: Path, size: Size, *, filled: int = 2, per_shard: int = 48) -> Path:
    """Write config.json, the shards and their index.

    Args:
        folder: The folder to make.
        size: The model's.
        filled: Layers with numbers in q_proj and v_proj.
        per_shard: Tensors in a file, bf16.
    """
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "vocab_size": size.vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = list(_tensors(size))
    parts = [tensors[start : start + per_shard] for start in range(0, len(tensors), per_shard)]
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        _write(folder / name, part, filled)
        index |= dict.fromkeys((tensor for tensor, _ in part), name)
    total = sum(2 * torch.Size(shape).numel() for _, shape in tensors)
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


def _tensors(size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = size.hidden, size.inner
    narrow = hidden // size.heads * size.kv_heads
    yield "model.embed_tokens.weight", (size.vocabulary, hidden)
    for layer in range(size.layers):
        own = f"model.layers.{layer}."
        yield f"{own}self_attn.q_proj.weight", (hidden, hidden)
        yield f"{own}self_attn.k_proj.weight", (narrow, hidden)
        yield f"{own}self_attn.v_proj.weight", (narrow, hidden)
        yield f"{own}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{own}mlp.gate_proj.weight", (inner, hidden)
        yield f"{own}mlp.up_proj.weight", (inner, hidden)
        yield f"{own}mlp.down_proj.weight", (hidden, inner)
        yield f"{own}input_layernorm.weight", (hidden,)
        yield f"{own}post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (size.vocabulary, hidden)


def _write(path: Path, tensors: list[tuple[str, tuple[int, ...]]], filled: int) -> None:
    """A shard: its header, numbers where a start needs them, and holes."""
    header, end = {}, 0
    for name, shape in tensors:
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        file.truncate(start + end)
        for name, shape in tensors:
            if name.endswith(("q_proj.weight", "v_proj.weight")) and _layer(name) < filled:
                file.seek(start + header[name]["data_offsets"][0])
                torch.manual_seed(_layer(name))
                values = (torch.randn(shape) * shape[1] ** -0.5).bfloat16()
                file.write(values.view(torch.int16).numpy().tobytes())


def _layer(name: str) -> int:
    return int(name.split(".")[2])


def start(folder: Path, out: Path, layers: int, *, folded: bool) -> int:
    """Make a start of the first layers; the most bytes of this process's own memory meanwhile."""
    config = AILoRAConfig(r=8, anchored=not folded, layers_to_transform=list(range(layers)))
    before = resident()
    with most_resident() as most:
        init_files(folder, out, config)
    return most[0] - before


if __name__ == "__main__":
    if len(sys.argv) == 2:
        make(Path(sys.argv[1]), LLAMA_70B)
    else:
        folder, out, layers, *rest = sys.argv[1:]
        torch.set_num_threads(1)
        taken = start(Path(folder), Path(out), int(layers), folded=bool(rest))
        print(json.dumps({"layers": int(layers), "memory": taken}))  # noqa: T201
