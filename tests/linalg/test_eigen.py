"""Some eigenpairs of a symmetric matrix, against LAPACK's own values and by their definition."""

from __future__ import annotations

import pytest
import torch
from scipy.linalg import lapack
from torch import Tensor

from ailora.linalg.eigen import FewerFoundError, eigh_range
from tests.linalg.spectra import orthonormal

N = 128


def _with(values: Tensor) -> Tensor:
    Q = orthonormal(N, N, seed=1)
    G = (Q * values) @ Q.T
    return (G + G.T) / 2


def _gaussian(n: int) -> Tensor:
    W = torch.randn(n, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return W.T @ W / n


MATRICES = {
    "gaussian": _gaussian(N),
    "graded to 1e-16": _with(torch.logspace(0, -16, N, dtype=torch.float64)),
    "every value twice": _with(torch.linspace(0, 1, N // 2).double().repeat_interleave(2)),
    "four values": _with(torch.arange(4.0).double().repeat(N // 4)),
    "rank 5": _with(torch.cat([torch.zeros(N - 5), torch.arange(1.0, 6.0)]).double()),
    "identity": torch.eye(N, dtype=torch.float64),
    "diagonal": torch.diag(torch.linspace(0, 1, N, dtype=torch.float64)),
    "two equal blocks": torch.block_diag(_gaussian(N // 2), _gaussian(N // 2)),
    "Wilkinson": torch.diag((torch.arange(N) - N // 2).abs().double())
    + torch.diag(torch.ones(N - 1).double(), 1)
    + torch.diag(torch.ones(N - 1).double(), -1),
}


@pytest.mark.parametrize("count", [1, 3, N // 3, N // 2])  # by bisection and by QR
@pytest.mark.parametrize("name", MATRICES)
def test_values_and_vectors_are_right_at_both_ends(name: str, count: int) -> None:
    G = MATRICES[name]
    expected = torch.linalg.eigvalsh(G)
    norm = max(float(expected.abs().max()), 1e-300)
    for first in (0, N - count):
        values, X, largest = eigh_range(G, first, count)
        assert largest == pytest.approx(float(expected[-1]), abs=1e-13 * norm)
        assert (values - expected[first : first + count]).abs().max() <= 1e-13 * norm
        assert (G @ X - X * values).abs().max() <= 1e-13 * norm
        assert (X.T @ X - torch.eye(count)).abs().max() <= 1e-12


@pytest.mark.parametrize("count", [1, 3, N // 3, N // 2])
@pytest.mark.parametrize("name", MATRICES)
def test_in_float32_they_are_right_to_its_digits(name: str, count: int) -> None:
    G = MATRICES[name].float()
    expected = torch.linalg.eigvalsh(G.double())
    norm = float(expected.abs().max())
    for first in (0, N - count):
        values, X, largest = eigh_range(G, first, count)
        assert values.dtype == torch.float64 and X.dtype == torch.float32
        assert largest == pytest.approx(float(expected[-1]), abs=1e-5 * norm)
        assert (values - expected[first : first + count]).abs().max() <= 1e-5 * norm
        assert (G.double() @ X.double() - X * values).abs().max() <= 1e-5 * norm
        assert (X.T @ X - torch.eye(count)).abs().max() <= 1e-5
    assert torch.equal(G, MATRICES[name].float())


def test_the_matrix_is_left_as_it_was() -> None:
    G = MATRICES["gaussian"].clone()
    eigh_range(G, 0, N // 2)
    assert torch.equal(G, MATRICES["gaussian"])


@pytest.mark.parametrize(
    ("routine", "answer", "reason"),
    [
        ("dstebz", (2, *[torch.zeros(N).int().numpy()] * 3, 1), "2 of 3 eigenvalues"),
        ("dstein", (torch.zeros(N, 3).numpy(), 1), "not all of 3 eigenvectors"),
    ],
)
def test_what_lapack_does_not_find_is_said(
    routine: str, answer: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lapack, routine, lambda *_: answer)
    with pytest.raises(FewerFoundError, match=reason):
        eigh_range(MATRICES["gaussian"], 0, 3)


def test_vectors_that_are_no_numbers_are_not_given() -> None:
    with pytest.raises(FewerFoundError, match="not all of 64 eigenvectors"):
        eigh_range(torch.zeros(N, N, dtype=torch.float64), 0, N // 2)
