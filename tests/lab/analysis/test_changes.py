"""dW of each method, against the weights of the merged model."""

from __future__ import annotations

import copy

import pytest
import torch

from ailora.errors import UserError
from ailora.lab.analysis.changes import (
    FactoredChange,
    adapter_changes,
    changes_between,
    product_subspaces,
)
from ailora.lab.analysis.layers import weight_norms
from ailora.lab.methods import merge
from tests.adapters.models import tiny
from tests.lab.analysis.models import LAYER, adapted, of, planted
from tests.linalg.spectra import orthonormal

METHODS = ["lora", "ailora", "pissa", "rslora", "orthogonal", "dora", "vera"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("base_form", ["anchored", "folded"])
def test_every_methods_change_is_that_of_the_merged_weight(name: str, base_form: str) -> None:
    base, model = adapted(name, anchored=base_form == "anchored")
    changes = adapter_changes(model)
    assert len(changes) == 4
    found = {change.place.name: (change.weight(), change.matrix()) for change in changes}
    norms = {row.name: row for row in weight_norms(changes)}
    merged = merge(copy.deepcopy(model))
    for key, (W, dW) in found.items():
        before = base.get_submodule(f"bert.{key}").weight.detach()
        after = merged.get_submodule(f"bert.{key}").weight.detach()
        exact = after - before
        assert torch.linalg.norm(exact) > 1e-4
        torch.testing.assert_close(W, before, rtol=0, atol=1e-12)
        torch.testing.assert_close(dW, exact, rtol=0, atol=1e-12)
        assert norms[key].norm == pytest.approx(float(torch.linalg.norm(exact)), rel=1e-8)
        share = float(torch.linalg.norm(exact) / torch.linalg.norm(before))
        assert norms[key].relative == pytest.approx(share, rel=1e-8)


def test_the_product_of_doras_factors_is_not_its_change() -> None:
    """The negative control: why DoRA is measured by merging."""
    _, model = adapted("dora")
    layer = model.get_base_model().get_submodule(LAYER.format(0, "query"))
    product = layer.get_delta_weight("default")
    (change,) = [
        c for c in adapter_changes(model) if c.place.name.endswith("0.attention.self.query")
    ]
    assert torch.linalg.norm(product - change.matrix()) > 0.05 * change.norm()


def test_measuring_changes_no_weight_of_the_model() -> None:
    for name in ("ailora", "vera", "dora"):
        _, model = adapted(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        weight_norms(adapter_changes(model))
        after = model.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_singular_values_and_vectors_from_factors_are_those_of_the_matrix() -> None:
    _, model = adapted("ailora")
    for change in adapter_changes(model):
        assert isinstance(change, FactoredChange)
        U, S, Vt = torch.linalg.svd(change.matrix())
        torch.testing.assert_close(change.values(), S[:4], rtol=1e-8, atol=1e-14)
        leading = change.leading(2)
        assert leading is not None
        torch.testing.assert_close(
            leading.U @ leading.U.T, U[:, :2] @ U[:, :2].T, atol=1e-7, rtol=0
        )
        torch.testing.assert_close(leading.V @ leading.V.T, Vt[:2].T @ Vt[:2], atol=1e-7, rtol=0)
        assert change.leading(5) is None


def test_a_planted_change_is_found_where_it_is_and_nowhere_else() -> None:
    change = 0.7 * orthonormal(32, 1, 0) @ orthonormal(32, 1, 1).T
    rows = weight_norms(planted(change))
    assert of(rows).norm == pytest.approx(0.7, rel=1e-12)
    assert sum(row.norm > 0 for row in rows) == 1
    assert {row.role for row in rows} == {"q", "k", "v", "o"}
    assert {row.layer for row in rows} == {0, 1}


def test_models_with_other_heads_are_compared_by_their_bodies() -> None:
    headed = tiny()
    rows = weight_norms(changes_between(headed.bert, headed))
    assert len(rows) == 8
    assert {row.norm for row in rows} == {row.relative for row in rows} == {0.0}


def test_models_of_unlike_size_are_refused() -> None:
    with pytest.raises(UserError, match="same projections"):
        changes_between(tiny(), tiny(family="llama"))


def test_a_product_of_lower_rank_has_no_such_subspaces() -> None:
    B = orthonormal(9, 2, 0)
    assert product_subspaces(B, torch.zeros(2, 7, dtype=torch.float64), 1) is None
    assert product_subspaces(B, torch.ones(2, 7, dtype=torch.float64), 2) is None
    assert product_subspaces(B, torch.ones(2, 7, dtype=torch.float64), 1) is not None
