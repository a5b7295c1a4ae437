"""Adapters that were trained on a residual model, as adapters of the original.

The residual model is W - s0 B0 A0, so what such an adapter (s, B, A) adds to the original W is

    dW = s B A - s0 B0 A0 = [s B - s0 B0, s0 B0] [A; A - A0]

a plain LoRA of twice the rank. In this form, of differences, a later cast to 16 bits loses little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ailora.adapters.files.reading import SavedStart, read_start
from ailora.adapters.files.saved import MARKER
from ailora.adapters.starts.make import projections_of, stored_scaling
from ailora.checkpoints.source import START_FOLDER, model_folder, origin_of
from ailora.checkpoints.structure import build_model
from ailora.errors import UserError
from ailora.offline.stock import StockAdapter, Update, read_adapter
from ailora.roles import put_rows


def is_residual(adapter: StockAdapter) -> bool:
    """Whether the adapter is of a residual model, as far as its files and that model's say."""
    return (Path(adapter.base) / START_FOLDER).is_dir() or _folded_start(adapter) is not None


def original_name(adapter: StockAdapter) -> str:
    """The original model of an adapter that `is_residual`."""
    return origin_of(Path(adapter.base)) or adapter.base


def of_original(adapter: StockAdapter, start: Path | None = None) -> StockAdapter:
    """What an adapter of a residual model adds to the original one.

    Args:
        adapter: Trained on a model that ``ailora init`` wrote, or with ``base="folded"``.
        start: Folder of the adapter that training began from; None looks for it in the residual
            model that the adapter's config names, then beside the adapter.

    Raises:
        UserError: The start is not found, or is of another adapter.
    """
    folded = _folded_start(adapter)
    beside_model = Path(adapter.base) / START_FOLDER
    if start is not None:
        began = read_adapter(start).updates
    elif beside_model.is_dir():
        began = read_adapter(beside_model).updates
    elif folded is not None:
        began = _anchored_updates(adapter, folded)
    else:
        raise UserError(
            f"{adapter.folder}: its start is not found, neither in {adapter.base!r} nor beside "
            "it; give --start the adapter that ailora init wrote, or leave out --folded-base"
        )
    _check_same(adapter, began)
    updates = {
        name: _difference(update, began[name]) if name in began else update
        for name, update in adapter.updates.items()
    }
    return replace(adapter, updates=updates)


def _folded_start(adapter: StockAdapter) -> SavedStart | None:
    """Marker and anchors beside an adapter, if they are of a folded start."""
    path = adapter.folder / MARKER
    try:
        folded = json.loads(path.read_text(encoding="utf-8"))["config"]["base"] == "folded"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    saved = read_start(adapter.folder) if folded else None
    return saved if saved is not None and saved.anchors else None


def _anchored_updates(adapter: StockAdapter, saved: SavedStart) -> dict[str, Update]:
    """s0 B0 A0 of each layer, from the roles' anchors."""
    fused = saved.anchors.keys() - adapter.updates.keys()
    if fused:
        return _fused_updates(adapter, saved)
    return {
        name: Update(name=name, A=anchor["A"], B=anchor["B"], scale=adapter.updates[name].scale)
        for name, anchor in saved.anchors.items()
    }


def _fused_updates(adapter: StockAdapter, saved: SavedStart) -> dict[str, Update]:
    """The same where several roles lie in one layer: only the model knows which rows are whose."""
    model = build_model(model_folder(adapter.base), saved.config.task_type)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for projection in projections_of(model, saved.config):
        anchor = saved.anchors.get(projection.key)
        if anchor is None or projection.name not in adapter.updates:
            continue
        B = anchor["B"].double() * stored_scaling(saved.config, projection.role)
        if projection.rows is not None:
            B = put_rows(B, projection.rows, adapter.updates[projection.name].shape[0])
        parts.setdefault(projection.name, []).append((anchor["A"].double(), B))
    return {
        name: Update(
            name=name,
            A=torch.cat([A for A, _ in roles]),
            B=torch.cat([B for _, B in roles], dim=1),
        )
        for name, roles in parts.items()
    }


def _check_same(adapter: StockAdapter, began: Mapping[str, Update]) -> None:
    for name, update in began.items():
        trained = adapter.updates.get(name)
        if trained is None or trained.shape != update.shape:
            raise UserError(
                f"{adapter.folder}: the start adapts {name} with a weight of {update.shape}, the "
                f"adapter {trained.shape if trained else 'does not'}; give --start the adapter "
                "that its training began from"
            )


def _difference(trained: Update, start: Update) -> Update:
    (A, B), (A0, B0) = trained.exact(), start.exact()
    if A.shape != A0.shape:
        return _update(trained, torch.cat([A, A0]), torch.cat([B, -B0], dim=1))
    return _update(trained, torch.cat([A, A - A0]), torch.cat([B - B0, B0], dim=1))


def _update(like: Update, A: Tensor, B: Tensor) -> Update:
    kept: Any = torch.promote_types(like.A.dtype, torch.float32)
    return Update(name=like.name, A=A.to(kept), B=B.to(kept))
