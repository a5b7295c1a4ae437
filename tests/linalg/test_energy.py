"""`decompose_share`: the fewest triplets that keep a share of the energy, by SciPy's own SVD."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from ailora.errors import UserError
from ailora.linalg import decompose_share
from tests.linalg.spectra import spectra, with_spectrum

SHARES = (0.3, 0.81, 0.953, 0.9991)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("shape", [(20, 20), (90, 200), (200, 90)], ids=str)
@pytest.mark.parametrize("kind", spectra(8))
def test_the_rank_is_the_smallest_that_keeps_the_share(
    kind: str, shape: tuple[int, int], share: float
) -> None:
    W = with_spectrum(spectra(min(shape))[kind], *shape)
    found = decompose_share(W, share)
    energy = scipy.linalg.svd(W.numpy(), compute_uv=False, lapack_driver="gesvd") ** 2
    kept = np.cumsum(energy) / energy.sum()
    assert kept[found.rank - 1] >= share - 1e-12
    assert found.rank == 1 or kept[found.rank - 2] < share + 1e-12
    assert found.S.numpy() == pytest.approx(np.sqrt(energy[: found.rank]), abs=1e-7 * energy[0])
    off = torch.linalg.norm(W - (found.U * found.S) @ found.Vt) ** 2
    assert float(off) == pytest.approx(energy[found.rank :].sum(), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "method"), [("power decay", "krylov"), ("fast decay", "gram"), ("even", "dense")]
)
def test_a_large_weight_needs_no_full_svd_where_few_triplets_are_enough(
    kind: str, method: str
) -> None:
    S = spectra(1100)[kind]
    W = with_spectrum(S, 1100, 1100)
    found = decompose_share(W, 0.9)
    wanted = int((S.square().cumsum(0) < 0.9 * S.square().sum()).sum()) + 1
    assert found.rank == wanted
    assert found.check.method == method


@pytest.mark.parametrize("scale", [1e-200, 1e150])
def test_extreme_scales_have_the_same_rank(scale: float) -> None:
    W = with_spectrum(spectra(80)["power decay"], 80, 90)
    assert decompose_share(scale * W, 0.9).rank == decompose_share(W, 0.9).rank


def test_zero_has_one_triplet() -> None:
    assert decompose_share(torch.zeros(5, 7), 0.9).S.tolist() == [0.0]


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.5, True, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="share="):
        decompose_share(torch.eye(3), share)


def test_a_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UserError, match="1 NaN or Inf"):
        decompose_share(torch.tensor([[1.0, float("inf")]]), 0.9)
