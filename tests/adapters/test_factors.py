"""The anchored pair against the folded form W x + s (B A - B0 A0) x, written out in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ailora.adapters.factors.anchored import AnchoredA, AnchoredB

M, N, R, S = 7, 9, 3, 1.5


@pytest.fixture
def start() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W, A0, B0 and a batch x."""
    shapes = ((M, N), (R, N), (M, R), (11, N))
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]


def train_both(
    W: Tensor, A0: Tensor, B0: Tensor, x: Tensor, steps: int
) -> tuple[AnchoredA, AnchoredB, Tensor, Tensor, list[Tensor]]:
    """SGD on both forms; the largest gradient differences before each step."""
    anchored_A, anchored_B = AnchoredA(A0), AnchoredB(B0)
    A, B = A0.clone().requires_grad_(), B0.clone().requires_grad_()
    residual, target = W - S * B0 @ A0, torch.randn(11, M, dtype=torch.float64)
    differences = []
    for _ in range(steps + 1):
        parameters = [anchored_A.delta, anchored_B.delta, A, B]
        ours = x @ W.T + S * anchored_B(anchored_A(x))
        folded = x @ residual.T + S * x @ A.T @ B.T
        grads = torch.autograd.grad(
            ((ours - target) ** 2).mean() + ((folded - target) ** 2).mean(), parameters
        )
        differences.append(
            torch.stack([(grads[0] - grads[2]).abs().max(), (grads[1] - grads[3]).abs().max()])
        )
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter -= 0.02 * grad
    return anchored_A, anchored_B, A, B, differences


def test_gradients_equal_those_of_the_folded_form_at_the_start_and_on_the_way(start) -> None:
    *_, differences = train_both(*start, steps=20)
    assert torch.stack(differences).max() < 1e-13


def test_training_moves_the_same_factors_as_in_the_folded_form(start) -> None:
    _, A0, B0, _ = start
    anchored_A, anchored_B, A, B, _ = train_both(*start, steps=20)
    assert (A - A0).norm() > 0.1
    torch.testing.assert_close(A0 + anchored_A.delta, A, rtol=0, atol=1e-13)
    torch.testing.assert_close(B0 + anchored_B.delta, B, rtol=0, atol=1e-13)
    update = anchored_B.weight @ anchored_A.weight
    torch.testing.assert_close(update, B @ A - B0 @ A0, rtol=0, atol=1e-13)


def test_the_weights_are_the_four_halves_of_the_plain_lora(start) -> None:
    _, A0, B0, _ = start
    A, B = AnchoredA(A0), AnchoredB(B0)
    delta_A, delta_B = torch.randn_like(A0), torch.randn_like(B0)
    A.set_delta(delta_A)
    B.set_delta(delta_B)
    assert torch.equal(A.weight, torch.cat([A0 + delta_A, delta_A]))
    assert torch.equal(B.weight, torch.cat([delta_B, B0], dim=1))


def test_an_untrained_pair_adds_exactly_zero(start) -> None:
    _, A0, B0, x = start
    assert torch.equal(AnchoredB(B0)(AnchoredA(A0)(x)), torch.zeros(len(x), M, dtype=torch.float64))


def test_only_the_difference_is_a_parameter(start) -> None:
    _, A0, B0, _ = start
    for factor, anchor in ((AnchoredA(A0), A0), (AnchoredB(B0), B0)):
        assert [(name, p.shape) for name, p in factor.named_parameters()] == [
            ("delta", anchor.shape)
        ]
        assert not factor.anchor.requires_grad


def test_the_anchor_is_a_copy(start) -> None:
    _, A0, _, _ = start
    factor, before = AnchoredA(A0), A0.clone()
    A0.zero_()
    assert torch.equal(factor.anchor, before)


def test_the_state_dict_has_the_stock_name_and_shape_alone(start) -> None:
    _, A0, B0, _ = start
    pair = nn.ModuleDict({"A": AnchoredA(A0), "B": AnchoredB(B0)})
    shapes = {name: tuple(value.shape) for name, value in pair.state_dict().items()}
    assert shapes == {"A.weight": (2 * R, N), "B.weight": (M, 2 * R)}
    assert not any(value.requires_grad for value in pair.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loading_its_own_state_dict_restores_every_bit(start, dtype: torch.dtype) -> None:
    _, A0, B0, _ = (tensor.to(dtype) for tensor in start)
    trained = nn.ModuleDict({"A": AnchoredA(A0), "B": AnchoredB(B0)})
    for factor in trained.values():
        factor.set_delta(torch.randn_like(factor.delta) * 0.37)
    fresh = nn.ModuleDict({"A": AnchoredA(A0), "B": AnchoredB(B0)})
    fresh.load_state_dict(trained.state_dict())
    for name in "AB":
        assert torch.equal(fresh[name].anchor, trained[name].anchor)
        assert torch.equal(fresh[name].delta, trained[name].delta)


def test_a_foreign_matrix_brings_its_own_anchor(start) -> None:
    _, A0, B0, _ = start
    A, B = AnchoredA(torch.randn_like(A0)), AnchoredB(torch.randn_like(B0))
    delta_A, delta_B = torch.randn_like(A0), torch.randn_like(B0)
    A.restore(torch.cat([A0 + delta_A, delta_A]))
    B.restore(torch.cat([delta_B, B0], dim=1))
    torch.testing.assert_close(A.anchor, A0, rtol=0, atol=1e-15)
    assert torch.equal(A.delta, delta_A)
    assert torch.equal(B.anchor, B0)
    assert torch.equal(B.delta, delta_B)


def test_loading_happens_in_place_so_that_an_optimiser_keeps_its_parameter(start) -> None:
    _, A0, _, _ = start
    factor = AnchoredA(A0)
    parameter, where = factor.delta, factor.delta.data_ptr()
    factor.load_state_dict({"weight": torch.randn(2 * R, N, dtype=torch.float64)})
    assert factor.delta is parameter
    assert factor.delta.data_ptr() == where


def test_a_matrix_of_another_rank_is_refused_by_name(start) -> None:
    _, A0, _, _ = start
    with pytest.raises(RuntimeError, match=r"size mismatch for weight: the file has \(3, 9\)"):
        AnchoredA(A0).load_state_dict({"weight": A0})


def test_a_missing_matrix_is_reported(start) -> None:
    _, A0, _, _ = start
    assert AnchoredA(A0).load_state_dict({}, strict=False).missing_keys == ["weight"]


def test_a_stock_weight_cannot_be_put_over_the_property(start) -> None:
    _, A0, _, _ = start
    with pytest.raises((KeyError, AttributeError)):
        AnchoredA(A0).weight = nn.Parameter(A0)


def test_16_bit_casts_of_the_file_keep_a_small_update(start) -> None:
    """[A; A0], [B, -B0] would say the same and lose much of it: the negative control."""
    _, A0, B0, _ = start
    delta_A, delta_B = 1e-3 * torch.randn_like(A0), 1e-3 * torch.randn_like(B0)
    A, B = AnchoredA(A0), AnchoredB(B0)
    A.set_delta(delta_A)
    B.set_delta(delta_B)
    exact = (B.weight @ A.weight).detach()
    naive = (torch.cat([B0 + delta_B, -B0], dim=1), torch.cat([A0 + delta_A, A0]))

    def lost(b: Tensor, a: Tensor) -> float:
        cast = b.detach().bfloat16().double() @ a.detach().bfloat16().double()
        return float((cast - exact).norm() / exact.norm())

    assert lost(B.weight, A.weight) < 0.01
    assert lost(*naive) > 0.2


def test_mixed_dtypes_neither_crash_nor_move_the_start(start) -> None:
    """TRL casts the trainable parameters of quantised models to bf16, and no buffers."""
    _, A0, B0, x = (tensor.float() for tensor in start)
    A, B = AnchoredA(A0), AnchoredB(B0)
    for factor in (A, B):
        factor.delta.data = factor.delta.data.bfloat16()
    assert A.weight.dtype == B.weight.dtype == torch.float32
    assert torch.equal(B(A(x)), torch.zeros(len(x), M))
