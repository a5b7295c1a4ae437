"""Measurements of half an hour, kept case by case: what is there already is not measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from machine import machine
from matrices import weight
from safetensors.torch import load_file, save_file
from torch import Tensor

from ailora.files import write_json

Row = dict[str, Any]


class Record:
    """Rows below a few headings, in a JSON file if there is a path.

    Raises:
        SystemExit: The file is from another machine, or another way of measuring.
    """

    def __init__(self, path: Path | None, **about: Any) -> None:
        self._path = path
        self.content: dict[str, Any] = {"machine": machine(), **about}
        if path and path.exists():
            earlier = json.loads(path.read_text())
            other = [k for k, value in self.content.items() if earlier.get(k) != value]
            if other:
                raise SystemExit(f"{path}: {', '.join(other)} differ from now; move the file away")
            self.content = earlier

    def rows(self, heading: str, **case: Any) -> list[Row]:
        """Those of a case, such as shape="768x768", rank=8."""
        found: list[Row] = self.content.get(heading, [])
        return [row for row in found if all(row[k] == v for k, v in case.items())]

    def add(self, heading: str, rows: list[Row]) -> None:
        """Keep more rows."""
        self.content.setdefault(heading, []).extend(rows)
        if self._path:
            write_json(self._path, self.content)


def prepared(
    kind: str, shape: tuple[int, int], seed: int, folder: Path | None
) -> tuple[Tensor, Tensor]:
    """A float32 weight and its exact singular values, from `folder` if they are there.

    A wide weight is a tall one's transpose. The values (min(m, n),) are from the eigenvalues of the
    Gram matrix in float64, by LAPACK: right to 1e-10 for those above 1e-3 of the first. Both take
    longer than what is measured.
    """
    if shape[0] < shape[1]:
        W, exact = prepared(kind, shape[::-1], seed, folder)
        return W.T.contiguous(), exact
    path = folder / f"{kind}-{shape[0]}x{shape[1]}-{seed}.safetensors" if folder else None
    if path and path.exists():
        found = load_file(path)
        return found["weight"], found["exact"]
    W = weight(kind, shape, seed)
    exact = torch.linalg.eigvalsh(W.double().T @ W.double()).flip(0).clamp(min=0).sqrt()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"weight": W, "exact": exact}, path)
    return W, exact


def value_error(S: Tensor, exact: Tensor) -> float:
    """Largest relative error of singular values (r,)."""
    return float(((S.double() - exact) / exact).abs().max())
