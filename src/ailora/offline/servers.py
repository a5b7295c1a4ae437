"""What servers read of an adapter, and how they are started with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ailora.adapters.folder import AdapterFolder
from ailora.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server. All of them read one rank and one scale, which every exported adapter has.

    Attributes:
        commands: How to start it; ``{adapter}``, ``{base}`` and ``{rank}`` stand for what was
            exported.
        ranks: The limits that it can be started with; empty if it takes any rank.
        default: Its limit where it is started without one; None if it has none.
    """

    commands: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    default: int | None = None


# Read from vllm/config/lora.py and vllm/lora/peft_helper.py, sglang/srt/lora/lora_config.py, and
# llama.cpp's convert_lora_to_gguf.py (llama-cpp-python 0.3.36).
SERVERS: Mapping[str, Server] = {
    "vllm": Server(
        commands=(
            "vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules NAME={adapter}",
        ),
        ranks=(1, 8, 16, 32, 64, 128, 256, 320, 512),
        default=16,
    ),
    "sglang": Server(
        commands=(
            "python -m sglang.launch_server --model-path {base} --enable-lora "
            "--max-lora-rank {rank} --lora-paths NAME={adapter}",
        ),
    ),
    "llama.cpp": Server(
        commands=(
            "python convert_lora_to_gguf.py {adapter} --base {base} --outfile adapter.gguf",
            "llama-server --model BASE.gguf --lora adapter.gguf",
        ),
    ),
}


def check_server(name: str, adapter: AdapterFolder, rank: int) -> None:
    """Raise a UserError if a server cannot be given an adapter of this rank.

    Raises:
        UserError: it is no server that is known, or it would refuse or misread the adapter.
    """
    if name not in SERVERS:
        raise UserError(f"--server {name!r}: must be one of {', '.join(SERVERS)}")
    if adapter.whole:
        saved = adapter.config.modules_to_save
        why = f"modules_to_save={list(saved)}" if saved else f"bias={adapter.config.bias!r}"
        raise UserError(
            f"{adapter.folder}: holds {len(adapter.whole)} tensors in full "
            f"({min(adapter.whole)}, ...; {why}), which {name} refuses; --merge makes a model of "
            "it, or leave out --server"
        )
    ranks = SERVERS[name].ranks
    if ranks and rank > max(ranks):
        raise UserError(
            f"{adapter.folder}: has rank {rank}, where {name} takes {max(ranks)} at most; add "
            f"--rank {max(ranks)} or lower"
        )


def start_commands(name: str, folder: Path, base: str, rank: int) -> list[str]:
    """How to start a server with an exported adapter: it keeps its rank, the limit is above it."""
    limit = limit_for(name, rank)
    return [
        command.format(adapter=folder, base=base or "MODEL", rank=limit)
        for command in SERVERS[name].commands
    ]


def limit_for(name: str, rank: int) -> int:
    """The smallest limit of a server that holds a rank; the rank itself where it takes any."""
    return min((size for size in SERVERS[name].ranks if size >= rank), default=rank)
