"""Pre-trained models by name, read without pickle and without code of the model's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ailora.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What every from_pretrained gets.
SAFE = MappingProxyType({"trust_remote_code": False, "use_safetensors": True})

# Models with a name of their own, each a function that returns its folder; the laboratory adds
# those that it embeds.
NAMED: dict[str, Callable[[], Path]] = {}


def resolve(name: str) -> str:
    """The folder or hub name that `from_pretrained` takes.

    Args:
        name: A key of `NAMED`, a folder, or a hub name.

    Raises:
        UserError: A path that does not exist.
    """
    if name in NAMED:
        return str(NAMED[name]())
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    if name.startswith((".", "/", "~")):
        raise UserError(f"model {name!r}: no such folder; give {_known()}")
    return name


def load_backbone(name: str) -> PreTrainedModel:
    """Load a model without a head, to look at its weights.

    Raises:
        UserError: No such model, or one that cannot be loaded so.
    """
    from transformers import AutoModel  # noqa: PLC0415 - it imports torch

    with named_in_errors(name):
        return AutoModel.from_pretrained(resolve(name), **SAFE)


@contextmanager
def named_in_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises while it loads a model into a UserError with its name."""
    from safetensors import SafetensorError  # noqa: PLC0415

    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
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
