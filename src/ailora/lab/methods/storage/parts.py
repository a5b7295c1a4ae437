"""Files of the methods that train some parameters of a model which stays one of transformers'."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor
from transformers import PreTrainedModel

from ailora.errors import UserError
from ailora.files import write_atomic, write_json
from ailora.lab.methods.bitfit import bitfit
from ailora.lab.methods.bottleneck import NAME
from ailora.lab.methods.head import head_parameters
from ailora.lab.methods.houlsby import houlsby
from ailora.lab.methods.settings import Settings
from ailora.lab.methods.storage.kept import Kept

RECORD = "ailora_method.json"
WEIGHTS = "ailora_method.safetensors"
_FORMAT = 1
_AGAIN = "copy the whole folder again"


def write_record(folder: Path, what: Kept) -> None:
    """Write the method's name and what it was built with."""
    write_json(folder / RECORD, {"format": _FORMAT, **asdict(what)})


def read_record(folder: Path) -> Kept:
    """What `write_record` wrote.

    Raises:
        UserError: There is none, or it is broken or newer than this version.
    """
    path = folder / RECORD
    if not path.exists():
        raise UserError(f"{folder}: no method is saved there; give the folder of a finished run")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("format") != _FORMAT:
            raise UserError(f"{path}: made by a newer ailora; update ailora to load it")
        return Kept(**record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({error}); {_AGAIN}") from error


def write(model: PreTrainedModel, folder: Path, what: Kept) -> None:
    """Write the parameters that the method trains, whether or not they are to be trained now."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in _own(model, what).items()}
    write_atomic(folder / WEIGHTS, serialise(tensors, metadata={"format": "pt"}))
    write_record(folder, what)


def read(base: PreTrainedModel, folder: Path, what: Kept, *, is_trainable: bool) -> PreTrainedModel:
    """Build the method on the base model and give it its saved parameters.

    Raises:
        UserError: The file is broken, or of another model; the model is then not to be used.
    """
    path = folder / WEIGHTS
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
    if what.method == "houlsby":
        model = houlsby(base, Settings(bottleneck=what.bottleneck or 1))
    else:
        model = bitfit(base, Settings())
    _fill(model, saved, what, path)
    if not is_trainable:
        model.requires_grad_(False)
    return model.eval()


def _own(model: PreTrainedModel, what: Kept) -> dict[str, Tensor]:
    head = {name for name, _ in head_parameters(model)}

    def is_own(name: str) -> bool:
        part = name.split(".")
        return name in head or (NAME in part if what.method == "houlsby" else part[-1] == "bias")

    return {name: value for name, value in model.named_parameters() if is_own(name)}


@torch.no_grad()
def _fill(model: PreTrainedModel, saved: dict[str, Tensor], what: Kept, path: Path) -> None:
    own = _own(model, what)
    odd = sorted(
        name
        for name in own.keys() | saved.keys()
        if name not in own or name not in saved or own[name].shape != saved[name].shape
    )
    if odd:
        raise UserError(
            f"{path}: {odd[0]} is not as in this {type(model).__name__} (nor are "
            f"{len(odd) - 1} others); load it into the model it was made for"
        )
    for name, value in own.items():
        value.copy_(saved[name])
