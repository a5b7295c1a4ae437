"""Pre-trained models by name, read without pickle and without code of the model's folder."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ailora.errors import UserError
from ailora.files import parse_json, read_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What every from_pretrained gets.
SAFE = MappingProxyType({"trust_remote_code": False, "use_safetensors": True})

# Fields of config.json that say how many modules there are.
_LAYERS = re.compile(r"(layers?|blocks?|depths?)$")
_OTHERS = re.compile(r"(experts?|stages?|groups?)$")
_MOST_LAYERS, _MOST_OTHERS = 1000, 4096
_SHARED = 128  # layers that share the tensors of few, at most
# ... and that name functions, which transformers downloads and runs if it is the name of a
# repository and the package kernels is there.
_FUNCTIONS = re.compile(r"(_implementation|_kernels?)$")

_SMALL = 1 << 26  # weights of a head that is new, at most

# Models with a name of their own, each a function that returns its folder; the laboratory adds
# those that it embeds.
NAMED: dict[str, Callable[[], Path]] = {}


def resolve(name: str) -> str:
    """The folder or hub name that `from_pretrained` takes.

    Args:
        name: A key of `NAMED`, a folder, or a hub name.

    Raises:
        UserError: A path that does not exist, or as `check_config`.
    """
    if name in NAMED:
        return str(NAMED[name]())
    path = Path(name).expanduser()
    if path.exists():
        check_config(path)
        return str(path)
    if name.startswith((".", "/", "~")):
        raise UserError(f"model {name!r}: no such folder; give {_known()}")
    return name


def check_config(folder: Path, stored: int | None = None) -> None:
    """Raise a UserError if config.json asks for more modules than a model has, or for others' code.

    transformers builds modules one by one, and does not end where a damaged or hostile file asks
    for a thousand million. A folder without one that can be read is left to whoever reads it.

    Args:
        folder: The model's.
        stored: How many tensors its weights are; a layer without any shares another's.
    """
    path = folder / "config.json"
    try:
        content = parse_json(read_text(path))
    except (OSError, ValueError):
        return
    for key, value in _fields(content):
        if _FUNCTIONS.search(key) and isinstance(value, str) and "/" in value:
            raise UserError(
                f"{path}: {key}={value[:80]!r} is code of others, which ailora never runs; take "
                "that field out"
            )
        if isinstance(value, int) and value > _most(key, stored):
            held = "" if stored is None else f", where its weights are {stored} tensors"
            raise UserError(f"{path}: says {key}={str(value)[:20]}{held}; copy the model again")


def _most(key: str, stored: int | None) -> float:
    if _LAYERS.search(key):
        return _MOST_LAYERS if stored is None else min(max(stored, _SHARED), _MOST_LAYERS)
    return _MOST_OTHERS if _OTHERS.search(key) else math.inf


def _fields(content: Any) -> Iterator[tuple[str, Any]]:
    """What a JSON value holds at any depth, by the name it has or the list has that it is in."""
    todo = [("", content)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, dict):
            # What people call their classes may end in "layers" too.
            todo += [(key or name, inner) for key, inner in value.items() if key != "label2id"]
        elif isinstance(value, list):
            todo += [(name, one) for one in value]
        else:
            yield name, value


def load_backbone(name: str) -> PreTrainedModel:
    """Load a model without a head, to look at its weights.

    Raises:
        UserError: No such model, or one that cannot be loaded so.
    """
    from transformers import AutoModel  # noqa: PLC0415 - it imports torch

    path = resolve(name)
    with named_in_errors(name):
        check_size(path)
        return AutoModel.from_pretrained(path, **SAFE)


def check_size(path: str) -> None:
    """Raise a ValueError if config.json is of a much larger model than the weights beside it.

    transformers makes new weights where the stored ones are missing or of another shape.

    Args:
        path: What `resolve` returned.

    Raises:
        UserError: As `check_config`.
    """
    import torch  # noqa: PLC0415 - as below
    from transformers import AutoConfig, AutoModel  # noqa: PLC0415
    from transformers.utils import cached_file  # noqa: PLC0415

    found = cached_file(path, "config.json")
    if found is None:
        return  # whoever reads it says so
    folder = Path(found).parent
    check_config(folder)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if not stored:
        return  # they are not downloaded yet, or there are none
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if type(config) not in AutoModel._model_mapping:
        return  # a kind that has no model without a head
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        needed = sum(weight.numel() for weight in AutoModel.from_config(config).parameters())
    in_a_byte = 2 if getattr(config, "quantization_config", None) is None else 8
    if needed > in_a_byte * stored + _SMALL:
        raise ValueError(
            f"its config.json is of a model of {needed:.2g} weights, its files have {stored:.2g} "
            "bytes: they are not of one model"
        )


@contextmanager
def named_in_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises while it loads a model into a UserError with its name."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # config.json may hold anything
        raise UserError(
            f"model {name!r} cannot be loaded: {_reason(error)} (give {_known()})"
        ) from (error)


def _known() -> str:
    names = "".join(f"{name!r}, " for name in NAMED)
    return (
        f"{names}a folder with config, tokenizer and safetensors, or a hub name that is cached or "
        "reachable"
    )


def _reason(error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return "it needs code of its own, which ailora never runs"
    return " ".join(text.split()) or type(error).__name__
