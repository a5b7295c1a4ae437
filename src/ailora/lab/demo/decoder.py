"""The embedded decoder: its GGUF file turned once into what trains."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

from ailora.files import cache_path, sha256_of, write_json
from ailora.lab.demo.assets import DECODER
from ailora.lab.demo.store import kept, obtain

_MANIFEST = "sha256.json"


def decoder_dir() -> Path:
    """Return a folder for ``AutoModelForCausalLM`` and ``AutoTokenizer.from_pretrained``.

    It holds SmolLM2-135M-Instruct: LLaMA, 30 layers, 576 wide, 9 query and 3 key/value heads,
    134.5 M parameters, the 4-bit weights (Q4_1) of its GGUF file in fp32 safetensors (540 MB). They
    are converted at the first call, in some seconds, under the same rules as ``obtain``.

    Raises:
        UserError: Not in the cache and not to be fetched; the message says how to provide it.
    """
    folder = cache_path() / "assets" / f"{DECODER.package}-fp32-{DECODER.version}"
    return kept(folder, DECODER.title, is_whole=_is_whole, make=_convert)


def _convert(scratch: Path) -> Path:
    source, fresh = obtain(DECODER), scratch / "fresh"
    # Imports torch and transformers, which nothing else here needs.
    import_module("ailora.lab.demo.convert").convert_gguf(source / DECODER.members[0].name, fresh)
    shutil.copyfile(source / "LICENSE", fresh / "LICENSE")
    hashes = {file.name: sha256_of(file) for file in sorted(fresh.iterdir())}
    write_json(fresh / _MANIFEST, hashes)
    return fresh


def _is_whole(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        same = [sha256_of(folder / name) == wanted for name, wanted in hashes.items()]
    except (OSError, ValueError, AttributeError):
        return False
    return bool(same) and all(same)
