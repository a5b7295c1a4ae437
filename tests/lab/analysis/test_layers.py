"""Intruders: planted ones are found, an unperturbed weight has none, PEFT counts the same."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from peft.tuners.lora.intruders import reduce_intruder_dimension

from ailora.errors import UserError
from ailora.lab.analysis.changes import adapter_changes
from ailora.lab.analysis.layers import intruders, nearest_cosines
from tests.lab.analysis.models import LAYER, adapted, of, planted
from tests.linalg.spectra import orthonormal, with_spectrum


def test_an_unperturbed_weight_has_none_and_a_rescaled_one_neither() -> None:
    W = with_spectrum(torch.linspace(3, 1, 20, dtype=torch.float64), 20, 30)
    for after in (W, 1.7 * W):
        cosines = nearest_cosines(W, after, 5)
        assert cosines.shape == (5,)
        assert float(cosines.min()) > 1 - 1e-9
    assert {row.count for row in intruders(planted(torch.zeros(32, 32)))} == {0}


def test_a_large_direction_between_all_of_ws_is_an_intruder_and_a_small_one_is_not() -> None:
    W = with_spectrum(torch.linspace(3, 1, 20, dtype=torch.float64), 20, 20)
    U = torch.linalg.svd(W).U
    between = U.sum(dim=1, keepdim=True) / 20**0.5  # cosine 20^-1/2 with each
    right = orthonormal(20, 1, 7).T
    planted_at_once = nearest_cosines(W, W + 50 * between @ right, 5)
    assert float(planted_at_once[0]) == pytest.approx(20**-0.5, abs=0.05)
    assert (planted_at_once[0] < 0.5) and (
        nearest_cosines(W, W + 1e-3 * between @ right, 5) > 0.9
    ).all()


def test_rows_count_what_is_below_the_threshold() -> None:
    rows = planted(20 * orthonormal(32, 1, 3) @ orthonormal(32, 1, 4).T)
    row = of(intruders(rows, k=3, epsilon=0.7))
    assert len(row.cosines) == 3
    assert row.count >= 1
    assert row.count == sum(cosine < 0.7 for cosine in row.cosines)
    others = [one for one in intruders(rows, k=3, epsilon=0.7) if one is not row]
    assert sum(one.count > 0 for one in others) == 1


def test_peft_counts_the_same() -> None:
    _, model = adapted("lora", steps=60)
    rows = {row.name: row.count for row in intruders(adapter_changes(model))}
    said: list[str] = []
    reduce_intruder_dimension(copy.deepcopy(model), logging_sink=said.append)
    counted = {}
    for line in said:
        match = re.search(r"bert\.(encoder\S+?):? *: (No i|I)ntruders:? ?(\d*)", line)
        if match:
            counted[match[1]] = int(match[3] or 0)
    assert counted == rows
    assert sum(rows.values()) > 0


@pytest.mark.parametrize(("k", "epsilon"), [(0, 0.5), (3, 0.0), (3, 1.5)])
def test_senseless_settings_are_refused(k: int, epsilon: float) -> None:
    with pytest.raises(UserError, match="intruders: k="):
        intruders(planted(torch.zeros(32, 32), LAYER.format(0, "key")), k=k, epsilon=epsilon)
