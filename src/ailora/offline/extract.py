"""A LoRA from a fully fine-tuned model: W_tuned - W_base of each linear layer, truncated.

By Eckart, Young and Mirsky no update of that rank is closer. One layer is in memory at a time; what
is found of it is kept beside the results until all are done.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ailora.adapters import peft_insides
from ailora.adapters.config import check_rank
from ailora.adapters.folder import A_KEY, B_KEY
from ailora.adapters.record import PREFIX, WEIGHTS, sort_names
from ailora.checkpoints.checkpoint import as_recorded
from ailora.checkpoints.header import FLOATS
from ailora.checkpoints.resumable import Record, Row, Work, begin, fingerprint
from ailora.checkpoints.structure import task_type_of
from ailora.checkpoints.writer import OnProgress, write_tensors
from ailora.errors import UserError, nearest
from ailora.files import write_atomic
from ailora.linalg import Triplets, decompose, decompose_share
from ailora.offline.initialize import HEADS
from ailora.offline.model_pair import ModelPair, is_linear, read_pair
from ailora.offline.plain_lora import padded, plain_fields

logger = logging.getLogger(__name__)

PLAN = "ailora_extract.json"
ALL = "all"

# The error of the truncation is off by the square of this: 1e-10 of it at 2048 x 2048.
_TOL = 1e-6
_BLOCK = 1 << 21  # values per block: 16 MB in fp64


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


def extract_adapter(
    base: str | Path,
    tuned: str | Path,
    out: Path,
    *,
    rank: int | float,
    modules_to_save: Sequence[str] = (),
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Write what full fine-tuning changed as a plain LoRA adapter of the base model.

    Every linear layer that changed gets the best update of its rank, fp32 factors of scale 1.
    Norms, biases, embeddings and other tensors that changed are in ``others`` of the report; those
    the base model does not have, and the head of the task, are stored in full as PEFT does.
    An interrupted run goes on where it was when called again.

    Args:
        base: Folder or hub name of the model that fine-tuning began from.
        tuned: Folder or hub name of the fine-tuned model; its class gives names and task type.
        out: A new or empty folder, or that of the same call interrupted.
        rank: An integer: this rank, or the layer's own where that is smaller. A share between 0 and
            1: in each layer the smallest rank that keeps this share of ||dW||_F^2.
        modules_to_save: Modules to store in full, by the ends of their names as in PEFT
            (``"embed_tokens"``); ``"all"``: every tensor that changed and is no linear layer's
            weight, biases included (``bias="all"``, which PEFT writes into the base model).
        on_progress: Called with what is being done, how much of it is done, and of how much.

    Raises:
        UserError: the rank is none; the two models are one, of different architectures or shapes,
            quantised, incomplete, or hold NaN or infinity; no linear layer changed; the folder is
            not empty or cannot be written.
    """
    _check_rank(rank)
    pair = read_pair(base, tuned)
    whole = _Whole(pair, modules_to_save)
    plan = {
        "base": fingerprint(pair.base.checkpoint),
        "tuned": fingerprint(pair.tuned.checkpoint),
        "rank": rank,
        "modules_to_save": list(modules_to_save),
    }
    work = begin(out, PLAN, plan)
    rows: Sequence[Row] | None = work.report
    layers = _layers(pair, whole)
    name = as_recorded(pair.base.checkpoint.name)
    if rows is None:
        rows = _extract(pair, layers, whole, work, rank, on_progress or (lambda *_: None))
        report = _report(out, name, layers, rows)
        _write(report, pair, whole, work)
        work.finish(rows)
    report = _report(out, name, layers, rows)
    _warn(report, pair)
    return report


def _check_rank(rank: object) -> None:
    if isinstance(rank, float):
        if not 0 < rank < 1:
            raise UserError(
                f"rank={rank!r}: give an integer, or a share of the energy of dW between 0 and 1 "
                "such as 0.95"
            )
    else:
        check_rank("rank", rank)


def _report(out: Path, base: str, layers: Sequence[str], rows: Sequence[Row]) -> ExtractReport:
    modules = tuple(Extracted(**row) for row in rows if "module" in row)
    return ExtractReport(
        folder=out,
        base=base,
        rank=max(one.rank for one in modules),
        modules=modules,
        others=tuple(Moved(**row) for row in rows if "tensor" in row),
        unchanged=len(layers) - len(modules),
    )


# --- What an adapter stores whole ------------------------------------------------------------


class _Whole:
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


# --- One layer after another -----------------------------------------------------------------


def _layers(pair: ModelPair, whole: _Whole) -> list[str]:
    """Linear layers that can have an update: not whole, not resized, not tied to embeddings."""
    model = pair.model
    others = {
        id(module.weight)
        for module in model.modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter) and not is_linear(module)
    }
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if is_linear(module)
        and id(module.weight) not in others
        and f"{name}.weight" in pair.names
        and pair.is_comparable(f"{name}.weight")
        and not whole.holds(name)
    ]


def _extract(
    pair: ModelPair,
    layers: Sequence[str],
    whole: _Whole,
    work: Work,
    rank: int | float,
    on_progress: OnProgress,
) -> list[Row]:
    """The rows of the report; factors and rows of finished layers stay with the work."""
    weights = [f"{layer}.weight" for layer in layers]
    others = [name for name in (*pair.names, *pair.unread) if name not in set(weights)]
    sizes = {name: math.prod(pair.entry(name).shape) for name in (*weights, *others)}
    counted = _Counted(on_progress, sum(sizes.values()))
    rows: list[Row] = []
    for layer, weight in zip(layers, weights, strict=True):
        record = work.record(layer)
        if record is None:
            with _abandoned_if_wrong(work):
                record = _extract_layer(pair, layer, rank)
            work.add_record(layer, record)
        rows += record.rows
        counted(sizes[weight])
    with _abandoned_if_wrong(work):
        if not rows:
            raise UserError(
                f"{pair.tuned.checkpoint.folder}: no linear layer differs from those of "
                f"{pair.base.checkpoint.folder}; there is nothing to extract"
            )
        changed = {}
        for name in others:
            change = pair.change(name)
            if change is not None:
                changed[name] = change
            counted(sizes[name])
    whole.take(changed)
    stored = {*whole.parameters, *whole.biases}
    moved = [
        Moved(tensor=name, size=change.size, relative=change.relative, stored=name in stored)
        for name, change in changed.items()
    ]
    return [*rows, *map(asdict, moved)]


class _Counted:
    """Adds up values for a progress callback."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self.on_progress, self.done, self.total = on_progress, 0, total

    def __call__(self, count: int) -> None:
        self.done += count
        self.on_progress("extracting", self.done, self.total)


@contextmanager
def _abandoned_if_wrong(work: Work) -> Iterator[None]:
    """Leave no traces of a run whose input is wrong."""
    try:
        yield
    except UserError:
        work.abandon()
        raise


def _extract_layer(pair: ModelPair, layer: str, rank: int | float) -> Record:
    """The factors of one layer, and its row; neither if it did not change."""
    weight = f"{layer}.weight"
    if pair.is_same(weight):
        return Record(rows=(), tensors={})
    dW = pair.difference(weight)
    found = _truncated(dW, rank)
    root = found.S.sqrt()
    A = (root[:, None] * found.Vt).float().contiguous()
    B = (found.U * root).float().contiguous()
    size, base_size = float(torch.linalg.vector_norm(dW)), pair.base_norm(weight)
    row = Extracted(
        module=layer,
        rank=found.rank,
        size=size,
        relative=size / base_size if base_size else None,
        frobenius=_lost(dW, A, B) / size,
        spectral=_first_cut_off(found, min(dW.shape)),
    )
    return Record(rows=(asdict(row),), tensors={"A": A, "B": B})


def _truncated(dW: Tensor, rank: int | float) -> Triplets:
    if isinstance(rank, float):
        return decompose_share(dW, rank, tol=_TOL)
    return decompose(dW, min(rank, *dW.shape), "principal", tol=_TOL)


def _lost(dW: Tensor, A: Tensor, B: Tensor) -> float:
    """||dW - B A||_F, a block of rows at a time."""
    step, lost = max(1, _BLOCK // dW.shape[1]), 0.0
    wide = A.double()
    for start in range(0, dW.shape[0], step):
        rows = slice(start, start + step)
        lost += float((dW[rows] - B[rows].double() @ wide).square().sum())
    return math.sqrt(lost)


def _first_cut_off(found: Triplets, full: int) -> float | None:
    """The largest singular value left out, relative to the first of all; `Check.gap` says it."""
    if found.rank == full:
        return 0.0
    if found.check.gap is None:
        return None
    return max(0.0, float(found.S[-1] / found.S[0]) - found.check.gap)


# --- The adapter's files ---------------------------------------------------------------------


def _write(report: ExtractReport, pair: ModelPair, whole: _Whole, work: Work) -> None:
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
    config.save_pretrained(str(report.folder))


def _shape(pair: ModelPair, layer: str) -> tuple[int, int]:
    rows, columns = pair.entry(f"{layer}.weight").shape
    return (columns, rows) if pair.tuned.is_transposed(layer) else (rows, columns)


def _key(name: str, adapted: Collection[str]) -> str:
    """A tensor's name in the file: the bias of an adapted layer is that of its base layer."""
    owner, _, last = name.rpartition(".")
    return f"{PREFIX}{owner}.base_layer.{last}" if owner in adapted else PREFIX + name


def _config(
    report: ExtractReport, pair: ModelPair, whole: _Whole, adapted: Sequence[str]
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
        names = ", ".join(f"`{one.tensor}`{_how_far(one)}" for one in left_out[:8])
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


def _how_far(one: Moved) -> str:
    return "" if one.relative is None else f" ({one.relative:.1e} of its norm)"


def _warn(report: ExtractReport, pair: ModelPair) -> None:
    left_out = [one for one in report.others if not one.stored]
    if left_out:
        most = max(left_out, key=lambda one: math.inf if one.relative is None else one.relative)
        logger.warning(
            "%d tensors changed that are no linear layer's weight, and the adapter leaves them out "
            "(most: %s%s); --modules-to-save all stores them in full",
            len(left_out),
            most.tensor,
            _how_far(most) or ", of another shape than the base's",
        )
    settings = pair.differing_settings()
    if settings:
        logger.warning(
            "the two config.json differ in %s: an adapter carries weights alone, so set this on "
            "the base model too",
            "; ".join(settings),
        )
    layer = report.modules[0].module
    base, tuned = (value.dtype for value in pair.values(f"{layer}.weight"))
    if tuned.itemsize < base.itemsize:
        logger.warning(
            "the base model is stored as %s and the tuned one as %s: its rounding counts as change",
            *(str(dtype).removeprefix("torch.") for dtype in (base, tuned)),
        )


__all__ = ["ExtractReport", "Extracted", "Moved", "extract_adapter"]
