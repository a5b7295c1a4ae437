"""Spectra against SciPy, and ranks against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from ailora.errors import UserError
from ailora.roles.spectra import effective_rank, spectra, stable_rank
from tests.families import FAMILIES
from tests.lab.analysis.models import LAYER, of


def test_ranks_of_known_spectra() -> None:
    flat = torch.full((12,), 0.3, dtype=torch.float64)
    one = torch.tensor([5.0, 0.0, 0.0], dtype=torch.float64)
    assert effective_rank(flat) == pytest.approx(12, rel=1e-12)
    assert stable_rank(flat) == pytest.approx(12, rel=1e-12)
    assert effective_rank(one) == stable_rank(one) == 1
    assert effective_rank(one * 0) == stable_rank(one * 0) == 0
    two = torch.tensor([3.0, 1.0], dtype=torch.float64)
    by_hand = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_rank(two) == pytest.approx(by_hand, rel=1e-12)
    assert stable_rank(two) == pytest.approx(10 / 9, rel=1e-12)


def test_values_are_scipys_and_the_parts_are_the_ends() -> None:
    model = FAMILIES["llama"]()
    rows = spectra(model, rank=3)
    assert len(rows) == 8
    for row in rows:
        weight = model.get_submodule(f"model.{row.name}").weight.detach().double().numpy()
        values = scipy.linalg.svdvals(weight)
        np.testing.assert_allclose(row.values, values, rtol=1e-10)
        kept = {"q": values[:3], "v": values[-3:]}.get(row.role)
        if kept is None:
            assert row.part is None
            assert row.energy_share is None
            assert not row.chosen
        else:
            share = (kept**2).sum() / np.linalg.norm(weight) ** 2
            assert row.energy_share == pytest.approx(share, rel=1e-9)
            np.testing.assert_allclose([row.values[i] for i in row.chosen], kept, rtol=1e-10)
        assert row.median == row.values[len(values) // 2]


def test_rows_say_what_kind_of_attention_they_are_of() -> None:
    kinds = {(row.stack, row.attention) for row in spectra(FAMILIES["t5"]())}
    assert kinds == {("encoder", "self"), ("decoder", "self"), ("decoder", "cross")}


def test_large_weights_go_through_the_gram_matrix_and_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = spectra(FAMILIES["llama"]())
    monkeypatch.setattr("ailora.roles.spectra._DENSE_UP_TO", 4)
    for row, other in zip(spectra(FAMILIES["llama"]()), exact, strict=True):
        assert row.values != other.values
        np.testing.assert_allclose(row.values, other.values, rtol=1e-7)


def test_a_broken_weight_is_named() -> None:
    model = FAMILIES["bert"]()
    with torch.no_grad():
        model.get_submodule(LAYER.format(1, "key")).weight[0, :3] = float("nan")
    with pytest.raises(UserError, match=r"layer.1.attention.self.key \(k\): .*3 NaN"):
        spectra(model)


def test_a_part_above_the_weights_size_is_refused() -> None:
    with pytest.raises(UserError, match="rank=33"):
        spectra(FAMILIES["bert"](), rank=33)


def test_planting_a_large_direction_moves_the_effective_rank_down() -> None:
    model = FAMILIES["bert"]()
    before = of(spectra(model)).effective_rank
    with torch.no_grad():
        model.get_submodule(LAYER.format(0, "query")).weight.add_(torch.ones(32, 32))
    assert of(spectra(model)).effective_rank < 0.8 * before
