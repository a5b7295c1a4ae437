"""Modules that an adapter stores whole (heads, embeddings), in the checkpoint it is merged into.

PEFT trains a copy of each module in ``modules_to_save`` and saves that copy. Two things follow that
a low-rank update never meets. Of embeddings tied to the output layer only one may have been
replaced: such a checkpoint is written untied. And a task's head may be in the adapter alone, since
the pre-trained model has none: then the checkpoint becomes one of the task's class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ailora.adapters.folder import AdapterFolder
from ailora.checkpoints import Checkpoint, Structure, read_structure
from ailora.errors import UserError
from ailora.versions import is_transformers_4


@dataclass(frozen=True, kw_only=True)
class WholeModules:
    """What changes in a checkpoint besides low-rank updates.

    Attributes:
        replaced: New values of stored tensors, by their name in the checkpoint.
        added: Tensors that the checkpoint does not have yet, by name.
        config: Fields of config.json that change.
    """

    replaced: Mapping[str, Tensor] = field(repr=False)
    added: Mapping[str, Tensor] = field(repr=False)
    config: Mapping[str, Any]


def fitting_structure(checkpoint: Checkpoint, adapter: AdapterFolder) -> Structure:
    """The model of the class whose modules the adapter has.

    Raises:
        UserError: the checkpoint's model has no such modules.
    """
    whole = _by_parameter(adapter)
    for task in dict.fromkeys((adapter.config.task_type, None, "FEATURE_EXTRACTION")):
        structure = read_structure(checkpoint, task)
        modules = dict(structure.model.named_modules())
        owners = {name.rpartition(".")[0] for name in whole}
        if modules.keys() >= adapter.updates.keys() | owners:
            labels = _labels(structure, whole)
            return structure if labels is None else read_structure(checkpoint, task, labels)
    raise UserError(
        f"{adapter.folder}: adapts {min(adapter.updates)}, which {checkpoint.name!r} does not "
        "have; name the model that it was made for"
    )


def place_whole_modules(structure: Structure, adapter: AdapterFolder) -> WholeModules:
    """Where the tensors go that an adapter stores whole.

    Raises:
        UserError: one does not fit the model, or its head needs others that are nowhere.
    """
    whole = _by_parameter(adapter)
    _check_shapes(structure, adapter, whole)
    replaced: dict[str, Tensor] = {}
    added: dict[str, Tensor] = {}
    untied, heads = False, False
    for names in _tied(structure):
        new = {name: whole[name] for name in names if name in whole}
        if not new:
            continue
        stored = [name for name in names if name in structure.stored]
        if _is_one_value(names, new):
            values = dict.fromkeys(stored or names[:1], next(iter(new.values())))
        else:
            values = dict.fromkeys(names, _stored_value(structure, names)) | new
            untied = True
        for name, value in values.items():
            if name in stored:
                replaced[structure.tensor_of(name)] = value
            else:
                added[name] = value
        heads = heads or not stored
    config: dict[str, Any] = {}
    if heads:
        _check_complete(structure, whole)
        config |= _class_fields(structure)
    if untied:
        config |= _untied_fields(structure)
    return WholeModules(replaced=replaced, added=added, config=config)


def _by_parameter(adapter: AdapterFolder) -> dict[str, Tensor]:
    """The tensors stored whole, by the parameter's name in a model without adapters."""
    return {key.replace(".base_layer.", "."): value for key, value in adapter.whole.items()}


def _labels(structure: Structure, whole: Mapping[str, Tensor]) -> int | None:
    """The number of labels of a head that only the adapter has, if config.json says another."""
    model: Any = structure.model
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, value in whole.items():
        if name in structure.stored or name not in parameters:
            continue
        (rows, *columns), (labels, *others) = parameters[name].shape, value.shape
        if columns == others and labels != rows == getattr(model.config, "num_labels", None):
            return int(labels)
    return None


def _check_shapes(
    structure: Structure, adapter: AdapterFolder, whole: Mapping[str, Tensor]
) -> None:
    parameters = dict(structure.model.named_parameters(remove_duplicate=False))
    for name, value in whole.items():
        shape = tuple(parameters[name].shape) if name in parameters else None
        if tuple(value.shape) != shape:
            has = "does not have it" if shape is None else f"has {shape}"
            raise UserError(
                f"{adapter.folder}: stores {name!r} with shape {tuple(value.shape)}, where the "
                f"model {has}; name its own model"
            )


def _tied(structure: Structure) -> list[list[str]]:
    """The names of each parameter of the model: several where modules share it."""
    names: dict[int, list[str]] = {}
    for name, parameter in structure.model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def _is_one_value(names: list[str], new: Mapping[str, Tensor]) -> bool:
    """Whether all modules that share a parameter have the same new value."""
    first = next(iter(new.values()))
    return len(new) == len(names) and all(torch.equal(first, value) for value in new.values())


def _stored_value(structure: Structure, names: list[str]) -> Tensor:
    """The checkpoint's value of a parameter with these names."""
    name = next((name for name in names if name in structure.stored), names[0])
    return structure.checkpoint.tensor(structure.tensor_of(name))


def _check_complete(structure: Structure, whole: Mapping[str, Tensor]) -> None:
    there = structure.stored.keys() | structure.converted | whole.keys()
    missing = [names[0] for names in _tied(structure) if not there & set(names)]
    if missing:
        modules = dict.fromkeys(name.rpartition(".")[0] for name in missing)
        raise UserError(
            f"{structure.checkpoint.folder}: {type(structure.model).__name__} also needs "
            f"{', '.join(modules)}, which neither this model's files nor the adapter hold: "
            "transformers drew random values when the adapter was trained, and PEFT does not save "
            f"them. Train again with modules_to_save={list(modules)}, "
            "or on a model that was saved with its head, and merge into that"
        )


def _class_fields(structure: Structure) -> dict[str, Any]:
    """Fields of config.json that make ``from_pretrained`` build the model with its new head."""
    config: Any = structure.model.config
    labels = {"id2label": config.id2label, "label2id": config.label2id}
    return {"architectures": [type(structure.model).__name__], **labels}


def _untied_fields(structure: Structure) -> dict[str, Any]:
    """Fields of config.json that keep ``from_pretrained`` from tying the weights again.

    In encoder-decoders the field also decides how T5 scales its logits, so it stays there: what is
    stored with different values is not tied by ``from_pretrained`` of transformers 5 either way.
    """
    config: Any = structure.model.config
    if not getattr(config, "is_encoder_decoder", False):
        return {"tie_word_embeddings": False}
    if is_transformers_4():
        raise UserError(
            f"{structure.checkpoint.folder}: its embeddings and output layer would differ, and "
            "transformers 4 ties those of an encoder-decoder again when it loads them; merge and "
            "load with transformers>=5, or keep the adapter apart"
        )
    return {}
