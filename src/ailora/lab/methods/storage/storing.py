"""Saving, loading and merging, the same four calls whatever the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from ailora.adapters import load_adapter
from ailora.adapters.folder import is_started
from ailora.errors import UserError
from ailora.lab.methods.storage import parts
from ailora.lab.methods.storage.kept import Kept, keep, kept

_ADAPTER_CONFIG = "adapter_config.json"


def save(model: nn.Module, folder: Path) -> None:
    """Write what the method learned.

    PEFT's methods and ours leave a PEFT adapter for the *untouched* base model (with
    ``base="folded"`` one for its residual), BitFit and Houlsby the trained parameters alone, full
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
    what = _kept(model)
    if what.method == "full":
        cast(PreTrainedModel, model).save_pretrained(str(folder))
        parts.write_record(folder, what)
    else:
        parts.write(cast(PreTrainedModel, model), folder, what)


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
    what = parts.read_record(folder)
    if what.method == "full":
        return _load_whole(cast(PreTrainedModel, base), folder, is_trainable)
    return parts.read(cast(PreTrainedModel, base), folder, what, is_trainable=is_trainable)


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
    if _kept(model).method == "houlsby":
        raise UserError(
            "method 'houlsby' cannot be merged: its adapters are layers with a GELU between, which "
            "no weight can hold; keep the adapter and load it with ailora.lab.methods.load"
        )
    return cast(PreTrainedModel, model)


def _kept(model: nn.Module) -> Kept:
    what = kept(model)
    if what is None:
        raise UserError(
            f"this {type(model).__name__} was adapted by no method; "
            "give the model that a method of ailora.lab.methods returned"
        )
    return what


def _load_stock(base: nn.Module, folder: Path, is_trainable: bool) -> PeftModel:
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
    try:
        model = type(base).from_pretrained(folder, dtype=base.dtype, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{folder}: {reason}; copy the whole folder again") from error
    model.to(base.device).eval().requires_grad_(is_trainable)
    return cast(PreTrainedModel, keep(model, Kept(method="full")))
