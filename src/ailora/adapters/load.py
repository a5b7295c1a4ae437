"""`ailora.load_adapter`: load a saved adapter exactly as it was, to use it or to train on."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftMixedModel, PeftModel
from torch import Tensor, nn

from ailora.adapters import folding, peft_insides
from ailora.adapters.attach import check_room, projections
from ailora.adapters.compatibility import check_compatible, keep_gradients
from ailora.adapters.config import refused_field
from ailora.adapters.factors import cut
from ailora.adapters.fingerprints import check_base
from ailora.adapters.folder import (
    AdapterFolder,
    check_finite,
    read_adapter,
    renamed,
)
from ailora.adapters.locate import locate
from ailora.adapters.marker import marker_mismatch, rank_mismatch, read_record
from ailora.adapters.record import CONFIG, MARKER, WEIGHTS, Record, Sketch, StartedConfig
from ailora.adapters.starting_factors import check_values
from ailora.adapters.starts import STARTS
from ailora.adapters.wrap import add_adapter, check_name_is_free
from ailora.errors import UserError
from ailora.roles import unwrapped
from ailora.roles.projection import shape_of, whole_shape

logger = logging.getLogger(__name__)

_ROWS = ".token_adapter.trainable_tokens_delta"  # PEFT's key, after the embedding's


def load_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    adapter_name: str = "default",
    *,
    is_trainable: bool = False,
    autocast_adapter_dtype: bool = True,
    key_mapping: Mapping[str, str] | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    force: bool = False,
) -> PeftModel:
    """Load an adapter that ailora started, to the bit.

    The files have one scale, the layers each their own; where they differ by no power of two, B is
    right to one rounding (see `ailora.adapters.one_scale`).

    Stock ``PeftModel.from_pretrained`` serves for inference with anchored adapters; for training
    it would train the frozen half as well, and for folded adapters it lacks the residual base.

    Args:
        model: The original base model (untouched), or a PeftModel that gets one more adapter.
        folder: Folder written by ``save_pretrained`` or a Trainer checkpoint, or the one above
            where ``save_pretrained`` put a named adapter; or the name of a repository on the hub.
        adapter_name: Name of the adapter in the PEFT model; where several lie below ``folder``,
            the one of this name is loaded.
        is_trainable: Whether its factors are to be trained on.
        autocast_adapter_dtype: As in PEFT.
        key_mapping: As in PEFT, for adapters saved before transformers renamed a model's modules;
            None takes the model's own.
        subfolder: As in PEFT: the folder below ``folder``, or in the repository.
        revision: As in PEFT: branch, tag or commit of a repository on the hub.
        force: Load it although this is not the base that it was started on, with a warning. Files
            from before a base was remembered are loaded as they are.

    Raises:
        UserError: before the model is changed, if there is no adapter, or one that is a pickle,
            without ailora's marker, with NaN, for another model (or this one before it was trained
            on), or whose files do not belong together; to be trained, if 4-bit weights were packed
            for inference.
    """
    found = locate(folder, adapter_name=adapter_name, subfolder=subfolder, revision=revision)
    adapter = read_adapter(found)
    if isinstance(model, PeftMixedModel):
        raise UserError(
            "the model is a PeftMixedModel, which mixes kinds of adapters; load into the plain "
            "model, or into a PeftModel with adapters beside"
        )
    check_name_is_free(model, adapter_name)
    base = unwrapped(model)
    check_room(base, adapter_name)
    mapping = key_mapping or getattr(base, "_checkpoint_conversion_mapping", None) or {}
    names = renamed(adapter, mapping)
    record = read_record(adapter, base)
    if names:
        adapter, record = _with_names(base, adapter, record, names)
    _check_shapes(base, adapter)
    _check_stacks(base, adapter, record)
    _check_files(base, adapter, record)
    if record.is_folded:
        _check_foldable(model, base, adapter, record)
    if record.base is not None:
        check_base(record.base, base, adapter.folder, force=force)
    if is_trainable:
        check_compatible(record.origin)
        keep_gradients(model)
    config = StartedConfig.in_memory(adapter.config, record)
    config.loading, config.inference_mode = True, not is_trainable
    options = {
        "is_trainable": is_trainable,
        "autocast_adapter_dtype": autocast_adapter_dtype,
        "key_mapping": dict(mapping) or None,
    }
    wrapped = _load(model, adapter.folder, config, adapter_name, options)
    if record.is_folded:
        folding.fold(projections(base, record), record, adapter_name)
    return wrapped


def _load(
    model: nn.Module, folder: Path, config: StartedConfig, name: str, options: dict[str, Any]
) -> PeftModel:
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, str(folder), name, config=config, **options)
    autocast = options["autocast_adapter_dtype"]
    add_adapter(model, config, name, autocast_adapter_dtype=autocast)
    model.load_adapter(str(folder), name, **options)
    # PEFT does this only where it adds the adapter itself, and set_adapter always turns it on.
    model.set_requires_grad(name, options["is_trainable"])
    return model


def _with_names(
    base: nn.Module, adapter: AdapterFolder, record: Record, names: Mapping[str, str]
) -> tuple[AdapterFolder, Record]:
    """An adapter and its record under the names that the model has for its modules now."""

    def new(name: str) -> str:
        return names.get(name, name)

    def moved_key(key: str) -> str:
        old = next((n for n in names if key == n or key.startswith(f"{n}.")), None)
        return key if old is None else names[old] + key.removeprefix(old)

    updates = {new(name): update for name, update in adapter.updates.items()}
    config = copy.copy(adapter.config)
    config.target_modules = peft_insides.selecting(base, list(updates))
    config.rank_pattern = peft_insides.pattern({n: u.rank for n, u in updates.items()}, config.r)
    alphas = {
        new(name): peft_insides.from_pattern(config.alpha_pattern, name, config.lora_alpha)
        for name in adapter.updates
    }
    config.alpha_pattern = peft_insides.pattern(alphas, config.lora_alpha)
    record = replace(
        record,
        layers={new(name): blocks for name, blocks in record.layers.items()},
        scaling={new(name): scale for name, scale in record.scaling.items()},
        anchors={moved_key(key): anchor for key, anchor in record.anchors.items()},
        sketches={moved_key(key): sketch for key, sketch in record.sketches.items()},
        base=record.base and record.base.renamed(names),
    )
    return replace(adapter, updates=updates, config=config), record


def _check_shapes(base: nn.Module, adapter: AdapterFolder) -> None:
    for name, update in adapter.updates.items():
        try:
            module = peft_insides.base_layer(base.get_submodule(name))
            shape = shape_of(module)
        except (AttributeError, TypeError) as error:
            raise UserError(
                f"{adapter.folder}: adapts {name}, which this {type(base).__name__} does not have; "
                "load it into the model it was made for"
            ) from error
        if shape != update.shape:
            raise UserError(
                f"{adapter.folder}: adapts a weight of shape {update.shape} at {name}, where this "
                f"model has {shape}; load it into the model it was made for"
            )
        check_values(module, name)


def _check_stacks(base: nn.Module, adapter: AdapterFolder, record: Record) -> None:
    """Raise a UserError unless the model has the stacks of experts that the adapter is of."""
    for name, blocks in record.layers.items():
        block = blocks[0]
        if block.parameter is None:
            continue
        try:
            one = projections(base, replace(record, layers={name: (replace(block, rows=None),)}))
            ((_, stack),) = one.items()
            found = (stack.count, *stack.shape)  # type: ignore[attr-defined]
        except (AttributeError, ValueError):
            found = None
        A, B = adapter.stacks[name]
        wanted = (block.experts, B.shape[0], A.shape[1])
        if found != wanted:
            raise UserError(
                f"{adapter.folder}: adapts experts (number, rows, columns) {wanted} at "
                f"{block.name(name)}, where this model has {found or 'none'}; load it into the "
                "model it was made for, with the PEFT that saved it or a later one from 0.20 on"
            )


def _check_config(base: nn.Module, adapter: AdapterFolder, record: Record) -> None:
    """Refuse fields that would have PEFT adapt other layers, or in another way."""
    field = refused_field(adapter.config)
    if field is not None:
        raise UserError(
            f"{adapter.folder}: its {CONFIG} has {field}={getattr(adapter.config, field)!r}, which "
            "no adapter has that ailora started; copy the whole adapter folder again"
        )
    if record.layers:
        left = {name for name, blocks in record.layers.items() if blocks[0].parameter is None}
        if left and adapter.config.target_modules:
            left -= set(peft_insides.targets(adapter.config, base))
        if left:
            raise UserError(
                f"{adapter.folder}: target_modules of its {CONFIG} leave out {min(left)}, which "
                f"its {MARKER} has; copy the whole adapter folder again"
            )


def _check_tokens(base: nn.Module, adapter: AdapterFolder) -> None:
    """Raise a UserError unless the rows of the trained tokens are there, for ids of the model."""
    asked = adapter.config.trainable_token_indices or {}
    named = asked if isinstance(asked, Mapping) else {"": asked}
    for name, tokens in ((name, tokens) for name, tokens in named.items() if tokens):
        fit = [
            _has_tokens(base, key.removesuffix(_ROWS), tokens, rows)
            for key, rows in adapter.whole.items()
            if key.endswith(f"{name}{_ROWS}")
        ]
        if not (fit and all(fit)):
            raise UserError(
                f"{adapter.folder}: the rows that {WEIGHTS} has for trainable_token_indices are "
                f"not those of {CONFIG}, or not of this model's vocabulary; copy the whole adapter "
                "folder again, or load it into the model it was made for"
            )


def _has_tokens(base: nn.Module, layer: str, tokens: Sequence[int], rows: Tensor) -> bool:
    try:
        vocabulary, width = whole_shape(base.get_submodule(layer).weight)  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError):
        return False
    return max(tokens) < vocabulary and rows.shape == (len(tokens), width)


def _check_files(base: nn.Module, adapter: AdapterFolder, record: Record) -> None:
    check_finite(adapter)
    _check_config(base, adapter, record)
    _check_tokens(base, adapter)
    why = rank_mismatch(adapter, record)
    if why:
        raise UserError(
            f"{adapter.folder}: {why}: they are not of one adapter; load it with "
            "peft.PeftModel.from_pretrained, or copy the whole folder again"
        )
    for name, blocks in record.layers.items():
        for block in blocks:
            key = block.key(name)
            anchor = [record.anchors.get(f"{key}.{letter}") for letter in "AB"]
            spectral = record.is_folded and not STARTS[block.init].zero
            if spectral is not all(tensor is not None for tensor in anchor):
                raise UserError(
                    f"{adapter.folder}: the adapter and its anchors are not of the same modules, "
                    f"see {key}; copy the whole adapter folder again"
                )
    for key, held in record.anchors.items():
        sketch = record.sketches.get(key)
        if sketch is not None and sketch.moved(Sketch.of(held)) > 1e-6:
            raise UserError(
                f"{adapter.folder}: the anchor of {key} does not belong to this adapter; copy the "
                "files from one folder"
            )
    why = marker_mismatch(adapter, record)
    if why:
        logger.warning(
            "%s: %s: something trained it that does not know of anchors. Its function is as it was "
            "trained; it is no longer at its start where its differences are zero",
            adapter.folder,
            why,
        )


def _check_foldable(
    model: nn.Module, base: nn.Module, adapter: AdapterFolder, record: Record
) -> None:
    if isinstance(model, PeftModel) and model.peft_config:
        raise UserError(
            f"{adapter.folder}: is folded (anchored=False), and would change the base weights "
            "under the adapters this model has; load it into a model of its own"
        )
    found = projections(base, record)
    for name, blocks in record.layers.items():
        update = adapter.updates[name]
        for block, part in zip(blocks, cut(update.A, update.B, blocks), strict=True):
            shapes = [record.anchors.get(f"{block.key(name)}.{letter}") for letter in "AB"]
            if any(
                anchor is not None and anchor.shape != matrix.shape
                for anchor, matrix in zip(shapes, (part.A, part.B), strict=True)
            ):
                raise UserError(
                    f"{adapter.folder}: the anchor of {block.key(name)} does not belong to this "
                    "adapter; copy the files from one folder"
                )
    folding.check_weights(base, [p for key, p in found.items() if f"{key}.A" in record.anchors])
    folding.check_not_folded(found, record, adapter.folder)


__all__ = ["load_adapter"]
