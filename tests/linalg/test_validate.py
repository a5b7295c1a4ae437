"""Every refusal names the argument and its value, in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ailora.errors import UserError
from ailora.linalg import decompose


def _spoilt(*values: float) -> torch.Tensor:
    W = torch.ones(6, 4)
    W.view(-1)[: len(values)] = torch.tensor(values)
    return W


GOOD = torch.ones(6, 4)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("weight", "arguments", "said"),
    [
        (torch.ones(3), {}, "weight has shape (3,), not 2 dimensions"),
        (torch.ones(2, 3, 4), {}, "weight has shape (2, 3, 4), not 2 dimensions"),
        ([[1.0]], {}, "weight is a list, not a torch.Tensor"),
        (torch.ones(6, 4, dtype=torch.int8), {}, "weight has dtype torch.int8"),
        (torch.ones(6, 4, dtype=torch.complex64), {}, "weight has dtype torch.complex64"),
        (torch.ones(0, 4), {}, "weight is empty, shape (0, 4)"),
        (torch.ones(6, 4, device="meta"), {}, "is on the meta device and holds no values"),
        (torch.ones(6, 4).to_sparse(), {}, "weight has layout torch.sparse_coo"),
        (_spoilt(NAN), {}, "weight has 1 NaN or Inf of 24 entries"),
        (_spoilt(NAN, INF, -INF), {}, "weight has 3 NaN or Inf of 24 entries"),
        (_spoilt(INF).bfloat16(), {}, "weight has 1 NaN or Inf of 24 entries"),
        (GOOD, {"rank": 0}, "rank=0 is out of range for a weight of shape (6, 4); choose 1 to 4"),
        (GOOD, {"rank": -1}, "rank=-1 is out of range"),
        (GOOD, {"rank": 5}, "rank=5 is out of range for a weight of shape (6, 4); choose 1 to 4"),
        (GOOD, {"rank": 2.0}, "rank=2.0 is not an integer"),
        (GOOD, {"rank": True}, "rank=True is not an integer"),
        (GOOD, {"part": "middle"}, "part='middle' is unknown; use 'principal' or 'minor'"),
        (GOOD, {"seed": "x"}, "seed='x' is not an integer"),
        (GOOD, {"tol": 0.0}, "tol=0.0 is not between 0 and 1"),
        (GOOD, {"tol": NAN}, "tol=nan is not between 0 and 1"),
    ],
)
def test_bad_input_is_named(weight: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        decompose(weight, **{"rank": 2, "part": "principal", **arguments})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_part_may_be_given_by_position() -> None:
    assert decompose(GOOD, 1, "minor").part == "minor"
