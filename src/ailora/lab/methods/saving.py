"""Saving, loading, restoring and merging: the same four calls whatever the method.

PEFT's methods and the library's are PEFT adapters. BitFit, Houlsby's adapters and full fine-tuning
stay models of transformers, on which a `MethodRecord` notes the method.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from safetensors.torch import save as serialise
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from ailora.adapters import load_adapter
from ailora.adapters.folder import read_any_config, require_weights
from ailora.adapters.marker import is_started
from ailora.errors import MALFORMED, UserError
from ailora.files import parse_json, read_text, require_file, write_atomic, write_json
from ailora.lab.methods.table import method_named
from ailora.lab.methods.targets import head_parameters
from ailora.lab.settings import RunConfig
from ailora.pretrained import check_config

M = TypeVar("M", bound=nn.Module)
_ATTRIBUTE = "ailora_method"
_ADAPTER_CONFIG = "adapter_config.json"
RECORD = "ailora_method.json"
WEIGHTS = "ailora_method.safetensors"
_FORMAT = 1
_AGAIN = "copy the whole folder again"


@dataclass(frozen=True, kw_only=True)
class MethodRecord:
    """What must be known to save such a model, and to build it again.

    Attributes:
        method: Name of the method.
        bottleneck: Width of Houlsby's adapters.
    """

    method: Literal["full", "bitfit", "houlsby"]
    bottleneck: int | None = None


def mark(model: M, what: MethodRecord) -> M:
    """Note on a model which method it was adapted by, and return the model."""
    owner: Any = model
    setattr(owner, _ATTRIBUTE, what)
    return model


def save(model: nn.Module, folder: Path) -> None:
    """Write what the method learned.

    PEFT's methods and ours leave a PEFT adapter for the *untouched* base model (with
    ``anchored=False`` one for its residual), BitFit and Houlsby the trained parameters alone, full
    fine-tuning the whole model.

    Args:
        model: As a method of `ailora.lab.methods` returned it, or as `load` did.
        folder: Made where it is missing.

    Raises:
        UserError: The folder cannot be written, or no method has adapted the model.
    """
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder))
        return
    what = _record_of(model)
    if what.method == "full":
        cast(PreTrainedModel, model).save_pretrained(str(folder))
        _write_record(folder, what)
    else:
        _write(cast(PreTrainedModel, model), folder, what)


def load(
    base: nn.Module, folder: Path, *, is_trainable: bool = False
) -> PeftModel | PreTrainedModel:
    """A saved method again, on its base model as ``from_pretrained`` gives it.

    Args:
        base: The pre-trained model with the task's head; changed in place. Of full fine-tuning
            the class and dtype alone matter.
        folder: Written by `save`.
        is_trainable: Whether what the method trains is to be trained on.

    Raises:
        UserError: No method has been saved there, or one of another model.
    """
    if is_started(folder):
        return load_adapter(base, folder, is_trainable=is_trainable)
    if (folder / _ADAPTER_CONFIG).exists():
        return _load_stock(base, folder, is_trainable)
    what = read_record(folder)
    if what.method == "full":
        return _load_whole(cast(PreTrainedModel, base), folder, is_trainable)
    return _read(cast(PreTrainedModel, base), folder, what, is_trainable=is_trainable)


def restore(model: nn.Module, checkpoint: Path) -> None:
    """Give an adapted model the parameters of one of its Trainer checkpoints, in place.

    Args:
        model: Adapted by the run's method, as the checkpoint's was.
        checkpoint: Holds a PEFT adapter, or the whole of another model.

    Raises:
        UserError: The checkpoint is broken, or of another model.
    """
    if isinstance(model, PeftModel):
        model.load_adapter(str(checkpoint), "default")
        return
    try:
        load_model(model, checkpoint / SAFE_WEIGHTS_NAME)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{checkpoint}: {reason}; resume from an earlier checkpoint") from error


def merge(model: nn.Module) -> PreTrainedModel:
    """The model with what was learned in its own weights and nothing around them.

    A PEFT model is used up by it.

    Raises:
        UserError: The method adds layers, which no weight of the model can take in (Houlsby).
    """
    if isinstance(model, PeftModel):
        return cast(PreTrainedModel, model.merge_and_unload())
    if _record_of(model).method == "houlsby":
        raise UserError(
            "method 'houlsby' cannot be merged: its adapters are layers with a GELU between, which "
            "no weight can hold; keep the adapter and load it with ailora.lab.methods.load"
        )
    return cast(PreTrainedModel, model)


def _write_record(folder: Path, what: MethodRecord) -> None:
    """Write the method's name and what it was built with."""
    write_json(folder / RECORD, {"format": _FORMAT, **asdict(what)})


def read_record(folder: Path) -> MethodRecord:
    """The method of a folder that holds no PEFT adapter.

    Raises:
        UserError: There is none, or it is broken or newer than this version.
    """
    path = folder / RECORD
    if not path.exists():
        raise UserError(f"{folder}: no method is saved there; give the folder of a finished run")
    try:
        record = parse_json(read_text(path))
        if record.pop("format") != _FORMAT:
            raise UserError(f"{path}: made by a newer ailora; update ailora to load it")
        return MethodRecord(**record)
    except (OSError, *MALFORMED) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({error}); {_AGAIN}") from error


def _write(model: PreTrainedModel, folder: Path, what: MethodRecord) -> None:
    """Write the parameters that the method trains, whether or not they are to be trained now."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in _own(model, what).items()}
    write_atomic(folder / WEIGHTS, serialise(tensors, metadata={"format": "pt"}))
    _write_record(folder, what)


def _read(
    base: PreTrainedModel, folder: Path, what: MethodRecord, *, is_trainable: bool
) -> PreTrainedModel:
    """Build the method on the base model and give it its saved parameters.

    Raises:
        UserError: The file is broken, or of another model; the model is then not to be used.
    """
    path = folder / WEIGHTS
    try:
        require_file(path)
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
    settings = RunConfig(method=what.method, bottleneck=what.bottleneck or 1)
    model = method_named(what.method).build(base, settings, None)
    _fill(model, saved, what, path)
    if not is_trainable:
        model.requires_grad_(False)
    return model.eval()


def _own(model: PreTrainedModel, what: MethodRecord) -> dict[str, Tensor]:
    head = {name for name, _ in head_parameters(model)}

    def is_own(name: str) -> bool:
        part = name.split(".")
        return name in head or (
            what.method in part if what.method == "houlsby" else part[-1] == "bias"
        )

    return {name: value for name, value in model.named_parameters() if is_own(name)}


@torch.no_grad()
def _fill(model: PreTrainedModel, saved: dict[str, Tensor], what: MethodRecord, path: Path) -> None:
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


def _record_of(model: nn.Module) -> MethodRecord:
    what: MethodRecord | None = getattr(model, _ATTRIBUTE, None)
    if what is None:
        raise UserError(
            f"this {type(model).__name__} was adapted by no method; "
            "give the model that a method of ailora.lab.methods returned"
        )
    return what


def _load_stock(base: nn.Module, folder: Path, is_trainable: bool) -> PeftModel:
    read_any_config(folder)
    require_weights(folder)
    try:
        # On the meta device until the file fills it: PEFT makes no start that is replaced at once
        # (MiCA's would decompose every weight).
        model = PeftModel.from_pretrained(
            base, str(folder), is_trainable=is_trainable, low_cpu_mem_usage=True
        )
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{folder}: this adapter does not fit the {type(base).__name__}: {reason}; "
            "load it into the model it was made for"
        ) from error
    unfilled = next((name for name, value in model.named_parameters() if value.is_meta), None)
    if unfilled is not None:
        raise UserError(f"{folder}: its file lacks {unfilled}; copy the whole folder again")
    return model


def _load_whole(base: PreTrainedModel, folder: Path, is_trainable: bool) -> PreTrainedModel:
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    check_config(folder)
    try:
        model = type(base).from_pretrained(folder, dtype=base.dtype, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{folder}: {reason}; copy the whole folder again") from error
    model.to(base.device).eval().requires_grad_(is_trainable)
    return cast(PreTrainedModel, mark(model, MethodRecord(method="full")))
