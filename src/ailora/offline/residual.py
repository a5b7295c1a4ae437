"""Adapters that were trained on a residual model, as adapters of the original model.

The residual model is W - s0 B0 A0, so what such an adapter (s, B, A) adds to the original W is

    dW = s B A - s0 B0 A0 = [s B - s0 B0, s0 B0] [A; A - A0]

a plain LoRA of twice the rank. In this form, of differences, a later cast to 16 bits loses little.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ailora.adapters.factors import joined
from ailora.adapters.folder import AdapterFolder, read_adapter
from ailora.adapters.marker import (
    marker_mismatch,
    needs_model,
    read_form,
    read_record,
)
from ailora.adapters.record import MARKER, Record
from ailora.checkpoints.checkpoint import START_FOLDER, model_folder, read_origin
from ailora.checkpoints.structure import build_model
from ailora.errors import UserError
from ailora.linalg import LowRank

logger = logging.getLogger(__name__)

# Largest cosine of a factor with the start's below which a new adapter is suspected. SmolLM2-135M:
# 0.03 for a new one, 1.00 for one that was trained on. No more than a warning, since a start of
# minor triplets alone is small and a long training may leave it far behind.
_UNRELATED = 0.2


def is_residual(adapter: AdapterFolder) -> bool:
    """Whether an adapter was trained on a residual model, as far as the files of both say."""
    return _start_in_base(adapter) is not None or read_form(adapter.folder) == "folded"


def original_name(adapter: AdapterFolder, start: Path | None) -> str | None:
    """The original model of an adapter of a residual one; None where nothing says it.

    Args:
        adapter: The adapter, as read from its folder.
        start: The adapter that training began from, where the user gave it.
    """
    # `ailora init` writes OUT/adapter and OUT/model/ailora_start; 0.1.0 named the original in the
    # latter only.
    in_model = start and start.absolute().parent / "model" / START_FOLDER
    for folder in (_start_in_base(adapter), start, in_model, adapter.folder):
        name = None if folder is None else read_origin(folder)
        if name is not None:
            return name
    lost = Path(adapter.base).is_absolute() and not Path(adapter.base).is_dir()
    return None if lost or read_form(adapter.folder) != "folded" else adapter.base


def of_original(
    adapter: AdapterFolder, start: Path | None = None, original: str | Path | None = None
) -> AdapterFolder:
    """What an adapter of a residual model adds to the original one.

    Args:
        adapter: Trained on a model that ``ailora init`` wrote, or with ``anchored=False``.
        start: Folder of the adapter that training began from; None looks for it in the residual
            model that the adapter's config names, then beside the adapter.
        original: The original model, without which files of version 0.1.0 may not be readable;
            None takes the one that the adapter's config names.

    Raises:
        UserError: the start is not found, is of another adapter, or is taken off already.
    """
    in_base = _start_in_base(adapter)
    if start is not None:
        began = read_adapter(start).updates
    elif in_base is not None:
        began = read_adapter(in_base).updates
    elif read_form(adapter.folder) == "folded":
        began = _folded_out(adapter, original)
    else:
        raise UserError(
            f"{adapter.folder}: nothing says that it was trained on a residual model: there is no "
            f"{MARKER} beside it and no {START_FOLDER} in its base {adapter.base!r}, so its start "
            "is not found. If it is a plain LoRA of the original, as after PEFT's conversion, "
            "leave out --folded-base; else give --start the adapter that ailora init wrote"
        )
    _check_same(adapter, began)
    _warn_if_new(adapter, began)
    updates = {
        name: _difference(update, began[name]) if name in began else update
        for name, update in adapter.updates.items()
    }
    return replace(adapter, updates=updates)


def warn_if_moved(adapter: AdapterFolder) -> None:
    """Say so if something trained the half of an anchored adapter that should not move."""
    if read_form(adapter.folder) != "anchored":
        return
    if needs_model(adapter.folder) and not (adapter.base and Path(adapter.base).is_dir()):
        return  # not worth a download
    try:
        why = marker_mismatch(adapter, _record(adapter, None))
    except UserError as error:
        logger.warning("%s (it is exported as the plain LoRA that its other files are)", error)
        return
    if why:
        logger.warning(
            "%s: %s: its trainer did not know of anchors. What is exported is what it trained; to "
            "train as ailora does, use ailora.load_adapter or the files of ailora init",
            adapter.folder,
            why,
        )


def _start_in_base(adapter: AdapterFolder) -> Path | None:
    """The start that lies in the adapter's base, if that is a residual model."""
    start = Path(adapter.base).expanduser() / START_FOLDER
    return start if adapter.base and start.is_dir() else None


def _record(adapter: AdapterFolder, original: str | Path | None) -> Record:
    if not needs_model(adapter.folder):
        return read_record(adapter)
    name = original or adapter.base
    if not name:
        raise UserError(
            f"{adapter.folder}: was saved by ailora 0.1.0, whose files need their model to be "
            "read, and names none; give --base the original model"
        )
    return read_record(adapter, build_model(model_folder(name), adapter.config.task_type))


def _folded_out(adapter: AdapterFolder, original: str | Path | None) -> dict[str, LowRank]:
    """s0 B0 A0 of each layer, from the anchors beside a folded adapter."""
    record = _record(adapter, original)
    why = marker_mismatch(adapter, record)
    if why:
        raise UserError(
            f"{adapter.folder}: {why}, so its {MARKER} is of another adapter. If it is a plain "
            f"LoRA of the original, as after PEFT's conversion, delete {MARKER} there and leave "
            "out --folded-base"
        )
    found = {}
    for name, blocks in record.layers.items():
        # A plain LoRA start is zero and has no anchor.
        spectral = [block for block in blocks if f"{block.key(name)}.A" in record.anchors]
        if spectral:
            keys = [block.key(name) for block in spectral]
            parts = [(record.anchors[f"{key}.A"], record.anchors[f"{key}.B"]) for key in keys]
            A, B = joined(parts, spectral, adapter.updates[name].shape[0])
            found[name] = LowRank(A=A, B=B, scale=record.scaling[name])
    return found


def _check_same(adapter: AdapterFolder, began: Mapping[str, LowRank]) -> None:
    for name, update in began.items():
        trained = adapter.updates.get(name)
        if trained is None or trained.shape != update.shape:
            raise UserError(
                f"{adapter.folder}: the start adapts {name} with a weight of {update.shape}, the "
                f"adapter {trained.shape if trained else 'does not'}; give --start the adapter "
                "that its training began from"
            )
        # PEFT converts to [B, -B0] [A; A0].
        if trained.rank == 2 * update.rank and torch.equal(trained.A[update.rank :], update.A):
            raise UserError(
                f"{adapter.folder}: its start is taken off already, by PEFT's conversion "
                "(path_initial_model_for_weight_conversion), so it is a plain LoRA of the "
                "original; leave out --folded-base"
            )


def _warn_if_new(adapter: AdapterFolder, began: Mapping[str, LowRank]) -> None:
    """Say so if the trainer seems to have made an adapter of its own beside the start."""
    pairs = [(adapter.updates[name].A, update.A) for name, update in began.items()]
    alike = [_cosine(A, A0) for A, A0 in pairs if A.shape == A0.shape]
    if alike and max(alike) < _UNRELATED:
        logger.warning(
            "%s: no factor resembles the start's (largest cosine %.2f), as if its trainer had made "
            "a new adapter on the residual model instead of going on with the start: then what it "
            "trained is no model. Have it go on with the adapter that ailora init wrote",
            adapter.folder,
            max(alike),
        )


def _cosine(M: Tensor, N: Tensor) -> float:
    """Of the angle between two matrices of one shape; 1 where one of them is zero."""
    M, N = M.double().flatten(), N.double().flatten()
    size = M.norm() * N.norm()
    return float(M @ N / size) if size > 0 else 1.0


def _difference(trained: LowRank, start: LowRank) -> LowRank:
    (A, B), (A0, B0) = trained.exact(), start.exact()
    if A.shape != A0.shape:
        rows, columns = torch.cat([A, A0]), torch.cat([B, -B0], dim=1)
    else:
        rows, columns = torch.cat([A, A - A0]), torch.cat([B - B0, B0], dim=1)
    dtype = torch.promote_types(trained.A.dtype, torch.float32)
    return LowRank(A=rows.to(dtype), B=columns.to(dtype))
