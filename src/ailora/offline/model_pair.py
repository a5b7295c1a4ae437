"""Two checkpoints of one architecture, the second fine-tuned from the first, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ailora.checkpoints import Checkpoint, Structure, open_checkpoint, read_structure
from ailora.checkpoints.checkpoint import START_FOLDER
from ailora.checkpoints.header import FLOATS, Entry
from ailora.checkpoints.structure import build_model
from ailora.errors import UserError
from ailora.files import parse_json, read_text

_BLOCK = 1 << 21  # values per block: 16 MB in fp64

# Fields of config.json that do not change what a model of the given weights computes.
_OF_NO_MATTER = (
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"),
    *("use_cache", "id2label", "label2id", "num_labels", "problem_type", "vocab_size"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "finetuning_task"),
    *("output_hidden_states", "output_attentions", "return_dict", "_attn_implementation"),
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """How far a tensor moved.

    Attributes:
        size: ||tuned - base||_F; None where the shapes differ or BASE does not have it.
        relative: The same as a share of ||base||_F; None for a base of zeros, and without `size`.
    """

    size: float | None
    relative: float | None


@dataclass(frozen=True)
class ModelPair:
    """A base and a tuned model of one class; values are read when asked for.

    Attributes:
        base: The base model's checkpoint as a model of the tuned one's class.
        tuned: The tuned model's.
        names: Parameters and stored buffers of that class that the tuned checkpoint holds, tied
            ones under each of their names.
        absent: Those of them that the base model's own class does not have, such as a new head.
        resized: Input and output embeddings with another number of rows than in BASE.
        unread: Tensors of the tuned checkpoint that are no parameters as they are stored, such as
            experts that transformers stacks.
    """

    base: Structure
    tuned: Structure
    names: tuple[str, ...] = field(repr=False)
    absent: frozenset[str] = field(repr=False)
    resized: frozenset[str] = field(repr=False)
    unread: tuple[str, ...] = field(repr=False)

    @property
    def model(self) -> Any:
        """The tuned model on the meta device."""
        return self.tuned.model

    @cached_property
    def _tensors(self) -> tuple[dict[str, str], dict[str, str]]:
        return sources(self.base), sources(self.tuned)

    def entry(self, name: str) -> Entry:
        """Where TUNED holds a parameter, or a tensor of `unread`."""
        return self.tuned.checkpoint.entry(self._tensors[1].get(name, name))

    def values(self, name: str) -> tuple[Tensor, Tensor]:
        """A parameter of both, as stored, mapped from the files."""
        base, tuned = self._tensors
        return (
            self.base.checkpoint.tensor(base.get(name, name)),
            self.tuned.checkpoint.tensor(tuned.get(name, name)),
        )

    def tuned_value(self, name: str) -> Tensor:
        """A parameter of the tuned model. Raises a UserError if it is not finite."""
        value = self.tuned.checkpoint.tensor(self._tensors[1][name])
        _check_finite(value, self.tuned.checkpoint, self._tensors[1][name])
        return value

    def is_comparable(self, name: str) -> bool:
        """Whether both have it, in one shape."""
        if name in self.unread:
            return name in self.base.checkpoint.where
        return name not in self.absent and name not in self.resized

    def is_same(self, name: str) -> bool:
        """Whether a tensor did not change, but for being stored in fewer digits."""
        base, tuned = self.values(name)
        same = torch.equal(base.to(tuned.dtype), tuned)
        if same:  # of NaN it is never true, of infinity it may be
            _check_finite(tuned, self.tuned.checkpoint, self._tensors[1].get(name, name))
        return same

    def difference(self, name: str) -> Tensor:
        """W_tuned - W_base (m, n) of y = W x, float64.

        Raises:
            UserError: either holds NaN or infinity.
        """
        base, tuned = self.values(name)
        dW = tuned.to(torch.float64, copy=True).sub_(base)
        if not torch.isfinite(dW.sum()):  # the sum of finite differences cannot overflow
            self._refuse_infinite(name)
        return dW.T if self.tuned.is_transposed(name.rpartition(".")[0]) else dW

    def change(self, name: str) -> Change | None:
        """How far a tensor moved, in blocks; None if it did not.

        Raises:
            UserError: either holds NaN or infinity.
        """
        if not self.is_comparable(name):
            return Change(size=None, relative=None)
        if self.is_same(name):
            return None
        moved = size = 0.0
        for old, new in zip(*(_blocks(value) for value in self.values(name)), strict=True):
            moved += float((new - old).square().sum())
            size += float(old.square().sum())
        if not moved + size < float("inf"):
            self._refuse_infinite(name)
        relative = math.sqrt(moved / size) if size else None
        return Change(size=math.sqrt(moved), relative=relative)

    def base_norm(self, name: str) -> float:
        """||W_base||_F."""
        squares = [float(block.square().sum()) for block in _blocks(self.values(name)[0])]
        return math.sqrt(sum(squares))

    def differing_settings(self) -> list[str]:
        """Fields of config.json that differ and may change what the model computes."""
        base, tuned = (one.model.config.to_dict() for one in (self.base, self.tuned))  # type: ignore[union-attr,operator]
        names = dict.fromkeys((*base, *tuned))
        return [
            f"{name} ({base.get(name)!r}, tuned {tuned.get(name)!r})"
            for name in names
            if name not in _OF_NO_MATTER and base.get(name) != tuned.get(name)
        ]

    def _refuse_infinite(self, name: str) -> None:
        for structure, tensors in zip((self.base, self.tuned), self._tensors, strict=True):
            tensor = tensors.get(name, name)
            _check_finite(structure.checkpoint.tensor(tensor), structure.checkpoint, tensor)


def _check_finite(value: Tensor, checkpoint: Checkpoint, name: str) -> None:
    if value.is_floating_point() and not all(torch.isfinite(b).all() for b in _blocks(value)):
        raise UserError(
            f"{checkpoint.folder}: {name!r} holds NaN or infinity; copy the checkpoint again, or "
            "take one from before training diverged"
        )


def _blocks(value: Tensor) -> Iterator[Tensor]:
    flat = value.reshape(-1)
    for start in range(0, flat.numel(), _BLOCK):
        yield flat[start : start + _BLOCK].double()


def read_pair(base: str | Path, tuned: str | Path) -> ModelPair:
    """Open two checkpoints and see that they are of one architecture.

    Args:
        base: Folder or hub name of the model that training began from.
        tuned: Folder or hub name of the fine-tuned model, whose class decides the names.

    Raises:
        UserError: no such model, no safetensors, quantised weights; one and the same folder; other
            architectures, shapes or parameters; a tensor that is missing.
    """
    checkpoints = [open_checkpoint(base), open_checkpoint(tuned)]
    _check_models(*checkpoints)
    after = read_structure(checkpoints[1])
    own = build_model(checkpoints[0].folder)
    labels = getattr(after.model.config, "num_labels", None)
    before = read_structure(checkpoints[0], None, labels, kind=type(after.model))
    _check_same_parameters(before, after)
    absent = _absent(before, own)
    _check_complete(after, frozenset())
    _check_complete(before, absent)
    names = tuple(sources(after))
    return ModelPair(
        base=before,
        tuned=after,
        names=names,
        absent=frozenset(name for name in names if name in absent),
        resized=_resized(before, after, absent),
        unread=tuple(sorted(set(checkpoints[1].where) - set(after.stored.values()))),
    )


def is_linear(module: nn.Module) -> bool:
    """Whether PEFT's LoRA adapts a module as a matrix: y = W x + b, W 2-D."""
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False  # inside of nn.MultiheadAttention, which PEFT adapts as a whole
    return isinstance(module, nn.Linear | Conv1D)


def sources(structure: Structure) -> dict[str, str]:
    """Names of the stored tensors by parameter; tied parameters have the one that is stored."""
    found: dict[str, str] = {}
    groups: dict[int, list[str]] = {}
    for name, parameter in structure.model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    for names in groups.values():
        held = next((name for name in names if name in structure.stored), None)
        if held is not None:
            found |= dict.fromkeys(names, structure.stored[held])
    buffers = dict(structure.model.named_buffers(remove_duplicate=False))
    return found | {name: structure.stored[name] for name in buffers if name in structure.stored}


def _check_models(base: Checkpoint, tuned: Checkpoint) -> None:
    if base.folder.resolve() == tuned.folder.resolve():
        raise UserError(f"{base.folder}: is given as BASE and as TUNED; give two models")
    for checkpoint in (base, tuned):
        if (checkpoint.folder / START_FOLDER).exists():
            raise UserError(
                f"{checkpoint.folder}: is a residual model that ailora init wrote; give the "
                "original (and of what was trained on it, the merged model)"
            )
    kinds = [_model_type(checkpoint) for checkpoint in (base, tuned)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{base.name} is a {kinds[0]} model and {tuned.name} a {kinds[1]} model; give two of "
            "one architecture"
        )


def _model_type(checkpoint: Checkpoint) -> object:
    try:
        content = parse_json(read_text(checkpoint.folder / "config.json"))
        return content.get("model_type")
    except (OSError, ValueError, AttributeError):
        return None  # `read_structure` says why


def _check_same_parameters(base: Structure, tuned: Structure) -> None:
    names = [
        dict.fromkeys(name for name, _ in one.model.named_parameters(remove_duplicate=False))
        for one in (base, tuned)
    ]
    for here, there, one, other in ((0, 1, base, tuned), (1, 0, tuned, base)):
        extra = next((name for name in names[here] if name not in names[there]), None)
        if extra is not None:
            raise UserError(
                f"{one.checkpoint.folder}: has {extra!r} and {other.checkpoint.folder} has not; "
                "give two models of one architecture and size"
            )


def _absent(base: Structure, own: nn.Module) -> frozenset[str]:
    """Parameters that the base model's own class does not have, nor its files."""

    def bare(name: str, model: Any) -> str:
        return name.removeprefix(f"{model.base_model_prefix}.")

    there = {bare(name, own) for name, _ in own.named_parameters(remove_duplicate=False)}
    held = sources(base)
    return frozenset(
        name
        for name, _ in base.model.named_parameters(remove_duplicate=False)
        if name not in held and name not in base.converted and bare(name, base.model) not in there
    )


def _check_complete(structure: Structure, absent: frozenset[str]) -> None:
    held = sources(structure)
    for name, _ in structure.model.named_parameters(remove_duplicate=False):
        if name not in held and name not in structure.converted and name not in absent:
            raise UserError(
                f"{structure.checkpoint.folder}: the tensor of {name!r} is missing; copy the "
                "checkpoint again"
            )


def _resized(base: Structure, tuned: Structure, absent: frozenset[str]) -> frozenset[str]:
    """Embeddings and heads with other rows. Raises a UserError where another shape differs."""
    old, new = sources(base), sources(tuned)
    may_differ = _with_rows_of_their_own(tuned.model)
    found = set()
    for name, parameter in tuned.model.named_parameters(remove_duplicate=False):
        if name not in new or name not in old or name in absent:
            continue
        before, after = base.checkpoint.entry(old[name]), tuned.checkpoint.entry(new[name])
        _check_stored(base, before)
        _check_stored(tuned, after)
        if after.shape != tuple(parameter.shape):
            raise UserError(
                f"{tuned.checkpoint.folder}: {after.name!r} is {after.shape}, where its "
                f"config.json says {tuple(parameter.shape)}; config and weights are not of one "
                "model"
            )
        if before.shape == after.shape:
            continue
        if name not in may_differ or before.shape[1:] != after.shape[1:]:
            raise UserError(
                f"{name} is {before.shape} in {base.checkpoint.folder} and {after.shape} in "
                f"{tuned.checkpoint.folder}; give two models of one architecture and size"
            )
        found.add(name)
    return frozenset(found)


def _with_rows_of_their_own(model: Any) -> set[str]:
    """Parameters with a row per token or per label, of which a tuned model may have more."""
    sides = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = {id(p) for side in sides if side is not None for p in side.parameters()}
    if model.base_model is not model:
        body = {id(p) for p in model.base_model.parameters()}
        rows |= {id(p) for p in model.parameters()} - body
    return {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in rows}


def _check_stored(structure: Structure, entry: Entry) -> None:
    if entry.dtype not in FLOATS:
        raise UserError(
            f"{structure.checkpoint.folder}: {entry.name!r} is stored as {entry.dtype}: quantised "
            "weights are not compared; give the model as it was before quantisation"
        )
