"""The table of projections that ``inspect`` returns."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from ailora.errors import UserError
from ailora.roles import find_projections, inspect
from tests.families import FAMILIES

ROWS_OF_BERT = 2 * 6
ROWS_OF_LLAMA = 2 * 7


def test_each_projection_has_a_row_in_the_models_order() -> None:
    model = FAMILIES["bart"]()
    found = find_projections(model, ["q", "k", "v", "o", "up", "down"])
    rows = inspect(model).rows
    fields = ("name", "role", "layer", "attention", "stack", "shape", "dtype", "rows")
    assert [[getattr(row, f) for f in fields] for row in rows] == [
        [getattr(p, f) for f in fields] for p in found
    ]
    assert all(row.sigma_max is None and row.sigma_min is None for row in rows)


@pytest.mark.parametrize("family", ["llama", "roberta"])
def test_singular_values_are_those_of_numpy_in_double_precision(family: str) -> None:
    model = FAMILIES[family]()
    for row in inspect(model, spectra=True).rows:
        weight = model.get_submodule(row.name).weight.detach().double().numpy()
        values = np.linalg.svd(weight, compute_uv=False)
        assert row.sigma_max == pytest.approx(values[0], rel=1e-12)
        assert row.sigma_min == pytest.approx(values[-1], rel=1e-9)


def test_a_16_bit_weight_is_measured_without_rounding_further() -> None:
    model = FAMILIES["llama"]().to(torch.bfloat16)
    row = inspect(model, spectra=True).rows[0]
    weight = model.get_submodule(row.name).weight.detach().double().numpy()
    assert row.sigma_min == pytest.approx(np.linalg.svd(weight, compute_uv=False)[-1], rel=1e-9)


def test_a_large_weight_goes_through_decompose_and_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ailora.roles.inspection._DENSE_UP_TO", 8)
    model = FAMILIES["llama"]()
    rows = inspect(model, spectra=True).rows
    for row in rows:
        weight = model.get_submodule(row.name).weight.detach().double().numpy()
        values = np.linalg.svd(weight, compute_uv=False)
        assert row.sigma_max == pytest.approx(values[0], rel=1e-7)
        assert row.sigma_min == pytest.approx(values[-1], rel=1e-7)


def test_text_is_an_aligned_table_with_spectra_only_on_request() -> None:
    model = FAMILIES["llama"]()
    lines = str(inspect(model)).splitlines()
    assert len(lines) == 1 + ROWS_OF_LLAMA
    assert lines[0].split() == ["name", "role", "shape", "dtype"]
    assert lines[2] == "model.layers.0.self_attn.k_proj  k     16 x 32  float32"
    assert {(row.sigma_max, row.sigma_min) for row in inspect(model).rows} == {(None, None)}
    with_spectra = inspect(model, spectra=True)
    header, first, *_ = str(with_spectra).splitlines()
    assert header.split("  ")[-2:] == ["largest sv", "smallest sv"]
    assert first.split()[-2] == f"{with_spectra.rows[0].sigma_max:.4g}"
    assert header.index("role") == first.index(" q ") + 1


def test_rich_shows_the_same_cells() -> None:
    inspection = inspect(FAMILIES["albert"](), spectra=True)
    console = Console(file=io.StringIO(), width=200)
    console.print(inspection)
    shown = console.file.getvalue()
    assert inspection.table().row_count == len(inspection.rows)
    for line in str(inspection).splitlines():
        assert all(cell in shown for cell in line.split())


def test_inspecting_changes_no_weight() -> None:
    model = FAMILIES["mpnet"]()
    before = {name: p.clone() for name, p in model.named_parameters()}
    inspect(model, spectra=True)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_weight_with_nan_is_named_and_its_broken_values_counted() -> None:
    model = FAMILIES["bert"]()
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.key.weight[0, :3] = float("nan")
    assert len(inspect(model).rows) == ROWS_OF_BERT
    with pytest.raises(UserError, match=r"'bert.encoder.layer.1.attention.self.key' has 3 weights"):
        inspect(model, spectra=True)


def test_a_model_without_values_can_be_listed_but_not_measured() -> None:
    model = FAMILIES["bert"]().to("meta")
    assert len(inspect(model).rows) == ROWS_OF_BERT
    with pytest.raises(UserError, match="meta device"):
        inspect(model, spectra=True)


def test_a_model_of_unknown_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="no architecture known here"):
        inspect(nn.Sequential(nn.Linear(2, 2)))


def test_modules_named_by_hand_make_an_unknown_model_inspectable() -> None:
    model = nn.ModuleDict({"ask": nn.Linear(8, 6), "tell": nn.Linear(8, 4)})
    rows = inspect(model, modules={"q": ["ask"], "v": ["tell"]}, spectra=True).rows
    assert [(row.name, row.role, row.shape) for row in rows] == [
        ("ask", "q", (6, 8)),
        ("tell", "v", (4, 8)),
    ]
