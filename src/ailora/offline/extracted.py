"""An extracted adapter: what is known of each layer, what is stored whole, and its files."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ailora.adapters import peft_insides
from ailora.adapters.folder import A_KEY, B_KEY
from ailora.adapters.record import PREFIX, WEIGHTS, sort_names
from ailora.checkpoints.header import FLOATS
from ailora.checkpoints.resumable import Work
from ailora.checkpoints.structure import task_type_of
from ailora.checkpoints.writer import write_tensors
from ailora.errors import UserError, nearest
from ailora.files import write_atomic
from ailora.offline.model_pair import ModelPair, is_linear
from ailora.offline.plain_lora import padded, plain_fields, write_config
from ailora.offline.started_weights import HEADS

PLAN = "ailora_extract.json"
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """One layer of an extracted adapter.

    Attributes:
        module: Its name in the model.
        rank: Rank of its update; the file pads all to the largest.
        size: ||dW||_F, dW = W_tuned - W_base.
        relative: ||dW||_F / ||W_base||_F; None if that is zero.
        frobenius: ||dW - B A||_F / ||dW||_F, with B and A as stored.
        spectral: ||dW - B A||_2 / ||dW||_2, from the first singular value cut off; None where the
            solver did not come by it.
    """

    module: str
    rank: int
    size: float
    relative: float | None
    frobenius: float
    spectral: float | None


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A tensor that changed and that no low-rank update of a linear layer holds.

    Attributes:
        tensor: The parameter's name.
        size: How far it moved, Frobenius; None where BASE has it in another shape or not at all.
        relative: The same as a share of the base's norm; None if that is zero or not known.
        stored: Whether the adapter stores it in full.
    """

    tensor: str
    size: float | None
    relative: float | None
    stored: bool


@dataclass(frozen=True, kw_only=True)
class ExtractReport:
    """What `extract_adapter` wrote.

    Attributes:
        folder: Folder of the adapter.
        base: The model that it is for.
        rank: Rank of all its modules.
        modules: One row per adapted layer.
        others: One row per tensor that changed otherwise, stored in full or left out.
        unchanged: Number of linear layers that did not change and are left out.
    """

    folder: Path
    base: str
    rank: int
    modules: tuple[Extracted, ...]
    others: tuple[Moved, ...]
    unchanged: int

    @property
    def frobenius(self) -> float:
        """What was lost of all dW together, as `Extracted.frobenius` of one."""
        lost = sum((one.frobenius * one.size) ** 2 for one in self.modules)
        return math.sqrt(lost / sum(one.size**2 for one in self.modules))


class StoredWhole:
    """The modules that the adapter stores in full: a head, what BASE lacks, what was asked for.

    Attributes:
        names: PEFT's ``modules_to_save``.
        parameters: Everything in the modules that these select.
        biases: Biases of linear layers, which are no module.
    """

    def __init__(self, pair: ModelPair, asked: Sequence[str]) -> None:
        self.pair, self.wants_all = pair, ALL in asked
        self.task_type = task_type_of(pair.model)
        if self.task_type is None and pair.model.base_model is pair.model:
            self.task_type = "FEATURE_EXTRACTION"
        heads = HEADS.get(self.task_type or "", ())
        self.names = [name for name in heads if self._selected([name])]
        self.biases: list[str] = []
        for name in asked:
            if name != ALL:
                self._check_name(name)
                self.names.append(name)
        self._add({name.rpartition(".")[0] for name in pair.absent} - self._inside() - {""})

    @property
    def parameters(self) -> list[str]:
        """Names of the tensors."""
        inside = self._inside()
        return [name for name in self.pair.names if name.rpartition(".")[0] in inside]

    def holds(self, module: str) -> bool:
        """Whether a module is stored in full."""
        return module in self._inside()

    def take(self, changed: Collection[str]) -> None:
        """With ``"all"``, add the owners of tensors that changed; else leave everything."""
        if not self.wants_all:
            return
        owners = {name: name.rpartition(".")[0] for name in changed if name in self.pair.names}
        biases = [name for name, owner in owners.items() if self._is_bias(name, owner)]
        modules = {owner for name, owner in owners.items() if owner and name not in biases}
        self._add(modules - self._inside())
        self.biases = [name for name in biases if not self.holds(owners[name])]

    def _is_bias(self, name: str, owner: str) -> bool:
        return name.endswith(".bias") and is_linear(self.pair.model.get_submodule(owner))

    def _add(self, modules: Collection[str]) -> None:
        last = sorted({module.rpartition(".")[2] for module in modules})
        exact = self._selected(last) == set(modules)
        self.names += last if exact else sorted(modules)

    def _selected(self, names: Sequence[str]) -> set[str]:
        """By PEFT's own rule, which takes "norm" for the end of "layernorm"."""
        modules = self.pair.model.named_modules(remove_duplicate=False)
        return {key for key, _ in modules if key and any(key.endswith(name) for name in names)}

    def _inside(self) -> set[str]:
        selected = tuple(f"{name}." for name in self._selected(self.names))
        modules = self.pair.model.named_modules(remove_duplicate=False)
        return {key for key, _ in modules if f"{key}.".startswith(selected)} if selected else set()

    def _check_name(self, name: str) -> None:
        if not name or not self._selected([name]):
            last = {key.rpartition(".")[2] for key, _ in self.pair.model.named_modules()}
            raise UserError(
                f"modules_to_save {name!r}: selects no module of {type(self.pair.model).__name__}; "
                f"{nearest(name, last) or 'give the end of a module name, or all'}"
            )


def write_files(report: ExtractReport, pair: ModelPair, whole: StoredWhole, work: Work) -> None:
    """The factors, padded to one rank, what is stored whole, the card, and the config last."""
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    adapted = [one.module for one in report.modules]
    factors = {}
    for layer in adapted:
        rows, columns = _shape(pair, layer)
        for key, side, shape in (
            (A_KEY, "A", (report.rank, columns)),
            (B_KEY, "B", (rows, report.rank)),
        ):
            shapes[PREFIX + layer + key] = (torch.float32, shape)
            factors[PREFIX + layer + key] = (layer, side)
    in_full = {_key(name, adapted): name for name in (*whole.parameters, *whole.biases)}
    for key, name in in_full.items():
        entry = pair.entry(name)
        shapes[key] = (FLOATS[entry.dtype], entry.shape)

    def make(key: str) -> Tensor:
        if key in in_full:
            return pair.tuned_value(in_full[key])
        layer, side = factors[key]
        record = work.record(layer)
        assert record is not None  # noqa: S101 - `_extract` wrote it
        return padded(record.tensors[side], report.rank, 0 if side == "A" else 1)

    write_tensors(report.folder / WEIGHTS, shapes, make)
    write_atomic(report.folder / "README.md", card(report, pair, whole.names))
    config = _config(report, pair, whole, adapted)
    sort_names(config)
    write_config(config, report.folder)


def _shape(pair: ModelPair, layer: str) -> tuple[int, int]:
    rows, columns = pair.entry(f"{layer}.weight").shape
    return (columns, rows) if pair.tuned.is_transposed(layer) else (rows, columns)


def _key(name: str, adapted: Collection[str]) -> str:
    """A tensor's name in the file: the bias of an adapted layer is that of its base layer."""
    owner, _, last = name.rpartition(".")
    return f"{PREFIX}{owner}.base_layer.{last}" if owner in adapted else PREFIX + name


def _config(
    report: ExtractReport, pair: ModelPair, whole: StoredWhole, adapted: Sequence[str]
) -> LoraConfig:
    layers = [pair.model.get_submodule(name) for name in adapted]
    config = LoraConfig(
        task_type=whole.task_type,
        target_modules=peft_insides.selecting(pair.model, adapted),
        modules_to_save=whole.names or None,
        bias="all" if whole.biases else "none",
        fan_in_fan_out=all(isinstance(layer, Conv1D) for layer in layers),
    )
    for key, value in plain_fields(report.rank, report.base).items():
        setattr(config, key, value)
    return config


def card(report: ExtractReport, pair: ModelPair, saved: Sequence[str]) -> str:
    """The README of an extracted adapter."""
    on_hub = "" if Path(report.base).is_absolute() else f"base_model: {report.base}\n"
    left_out = [one for one in report.others if not one.stored]
    lines = [
        f"---\n{on_hub}library_name: peft\ntags:\n- lora\n---",
        "# LoRA extracted from a fully fine-tuned model",
        f"Made by `ailora extract` from `{pair.tuned.checkpoint.name}`, for `{report.base}`: rank "
        f"{report.rank}, scale 1, {len(report.modules)} linear layers. Of their change (dW = tuned "
        f"- base) {report.frobenius:.2%} is lost, in the Frobenius norm; {PLAN} says it layer by "
        "layer.",
    ]
    if saved:
        lines.append(f"Stored in full: {', '.join(saved)}.")
    if left_out:
        names = ", ".join(f"`{one.tensor}`{how_far(one)}" for one in left_out[:8])
        more = f", and {len(left_out) - 8} more" if len(left_out) > 8 else ""
        lines.append(f"Changed in fine-tuning and not in this adapter: {names}{more}.")
    rows = [name for name in pair.resized if name in {one.tensor for one in report.others}]
    if rows and saved:
        sizes = ", ".join(f"`{name}` {pair.entry(name).shape[0]}" for name in sorted(rows))
        lines.append(
            f"Rows in the fine-tuned model: {sizes}. Give the base as many before loading: "
            "`model.resize_token_embeddings(rows)`, of a classifier `num_labels=rows`."
        )
    return "\n\n".join(lines) + "\n"


def how_far(one: Moved) -> str:
    """How far a tensor moved, in brackets; empty where that is not known."""
    return "" if one.relative is None else f" ({one.relative:.1e} of its norm)"
