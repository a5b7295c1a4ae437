"""The anchored pair against the folded form W x + s (B A - B0 A0) x, written out in fp64."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from ailora.adapters.factors import Block, Factor, cut, joined

M, N, R, S = 7, 9, 3, 1.5
ANCHORED = Block(role="q", init="principal", rank=R, anchored=True)
PLAIN = Block(role="k", init="gaussian", rank=2, anchored=False)
Start = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture
def start() -> Start:
    """W, A0, B0 and a batch x."""
    shapes = ((M, N), (R, N), (M, R), (11, N))
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]


def pair(parts: list[tuple[Tensor, Tensor]], blocks: list[Block]) -> nn.ModuleDict:
    """lora_A and lora_B of a layer whose blocks start there."""
    A, B = joined(parts, blocks, M)
    stock_A = nn.Linear(N, A.shape[0], bias=False, dtype=A.dtype)
    stock_B = nn.Linear(B.shape[1], M, bias=False, dtype=B.dtype)
    return nn.ModuleDict(
        {"A": Factor.over(stock_A, A, blocks, "A"), "B": Factor.over(stock_B, B, blocks, "B")}
    )


def anchored(A0: Tensor, B0: Tensor) -> nn.ModuleDict:
    return pair([(A0, B0)], [ANCHORED])


def part(factors: nn.ModuleDict):
    (found,) = cut(factors["A"].weight.detach(), factors["B"].weight.detach(), [ANCHORED])
    return found


@torch.no_grad()
def move(factors: nn.ModuleDict, delta_A: Tensor, delta_B: Tensor) -> None:
    factors["A"].weight += delta_A.repeat(2, 1)
    factors["B"].weight[:, :R] += delta_B


def train_both(
    W: Tensor, A0: Tensor, B0: Tensor, x: Tensor, steps: int
) -> tuple[nn.ModuleDict, Tensor, Tensor, list[float]]:
    """SGD on both forms; the largest gradient difference before each step."""
    ours = anchored(A0, B0)
    A, B = A0.clone().requires_grad_(), B0.clone().requires_grad_()
    residual, target = W - S * B0 @ A0, torch.randn(11, M, dtype=torch.float64)
    differences = []
    optimizer = torch.optim.SGD([*ours.parameters(), A, B], lr=0.02)
    for _ in range(steps + 1):
        mine = x @ W.T + S * ours["B"](ours["A"](x))
        folded = x @ residual.T + S * x @ A.T @ B.T
        optimizer.zero_grad()
        (((mine - target) ** 2).mean() + ((folded - target) ** 2).mean()).backward()
        dA, dB = ours["A"].weight.grad, ours["B"].weight.grad
        differences += [
            float((dA[:R] - A.grad).abs().max()),
            float((dA[R:] - A.grad).abs().max()),
            float((dB[:, :R] - B.grad).abs().max()),
            float(dB[:, R:].abs().max()),
        ]
        optimizer.step()
    return ours, A.detach(), B.detach(), differences


def test_gradients_equal_those_of_the_folded_form_at_the_start_and_on_the_way(start: Start) -> None:
    *_, differences = train_both(*start, steps=20)
    assert max(differences) < 1e-13


def test_training_moves_the_same_factors_as_in_the_folded_form(start: Start) -> None:
    _, A0, B0, _ = start
    ours, A, B, _ = train_both(*start, steps=20)
    assert (A - A0).norm() > 0.1
    found = part(ours)
    torch.testing.assert_close(found.A, A, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.B, B, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.A0, A0, rtol=0, atol=1e-14)
    assert torch.equal(found.B0, B0)
    update = ours["B"].weight @ ours["A"].weight
    torch.testing.assert_close(update, B @ A - B0 @ A0, rtol=0, atol=1e-13)


def test_the_anchor_does_not_move_and_the_halves_of_a_move_alike(start: Start) -> None:
    _, A0, B0, x = start
    ours = anchored(A0, B0)
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        ours["B"](ours["A"](x)).square().mean().add(ours["B"](ours["A"](x)).sum()).backward()
        optimizer.step()
    assert torch.equal(ours["B"].weight[:, R:], B0)
    torch.testing.assert_close(ours["A"].weight[:R] - ours["A"].weight[R:], A0, rtol=0, atol=1e-14)
    assert ours["A"].weight[R:].abs().min() > 0.01


def test_the_weights_are_the_four_halves_of_the_plain_lora(start: Start) -> None:
    _, A0, B0, _ = start
    ours = anchored(A0, B0)
    delta_A, delta_B = torch.randn_like(A0), torch.randn_like(B0)
    move(ours, delta_A, delta_B)
    assert torch.equal(ours["A"].weight, torch.cat([A0 + delta_A, delta_A]))
    assert torch.equal(ours["B"].weight, torch.cat([delta_B, B0], dim=1))


def test_an_untrained_pair_adds_exactly_zero(start: Start) -> None:
    _, A0, B0, x = start
    ours = anchored(A0, B0)
    assert torch.equal(ours["B"](ours["A"](x)), torch.zeros(len(x), M, dtype=torch.float64))


def test_it_is_a_stock_linear_layer_with_the_stock_matrix_as_its_parameter(start: Start) -> None:
    _, A0, B0, _ = start
    ours = anchored(A0, B0)
    assert all(isinstance(factor, nn.Linear) for factor in ours.values())
    shapes = {name: tuple(value.shape) for name, value in ours.named_parameters()}
    assert shapes == {"A.weight": (2 * R, N), "B.weight": (M, 2 * R)}
    assert ours.state_dict().keys() == shapes.keys()
    assert not list(ours.buffers())


def test_the_start_is_a_copy(start: Start) -> None:
    _, A0, B0, _ = start
    ours, before = anchored(A0, B0), A0.clone()
    A0.zero_(), B0.zero_()
    assert torch.equal(part(ours).A0, before)
    assert part(ours).B0.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loading_its_own_state_dict_restores_every_bit_in_place(
    start: Start, dtype: torch.dtype
) -> None:
    _, A0, B0, _ = (tensor.to(dtype) for tensor in start)
    trained = anchored(A0, B0)
    move(trained, torch.randn_like(A0) * 0.37, torch.randn_like(B0) * 0.37)
    fresh = anchored(A0, B0)
    parameters = dict(fresh.named_parameters())
    fresh.load_state_dict(trained.state_dict())
    for name, parameter in fresh.named_parameters():
        assert parameter is parameters[name]  # which an optimiser may hold
        assert torch.equal(parameter, trained.get_parameter(name))


def test_a_foreign_matrix_brings_its_own_anchor(start: Start) -> None:
    _, A0, B0, _ = start
    ours = anchored(torch.randn_like(A0), torch.randn_like(B0))
    delta_A, delta_B = torch.randn_like(A0), torch.randn_like(B0)
    ours.load_state_dict(
        {
            "A.weight": torch.cat([A0 + delta_A, delta_A]),
            "B.weight": torch.cat([delta_B, B0], dim=1),
        }
    )
    found = part(ours)
    torch.testing.assert_close(found.A0, A0, rtol=0, atol=1e-15)
    torch.testing.assert_close(found.B - found.B0, delta_B, rtol=0, atol=1e-15)
    assert torch.equal(found.A, A0 + delta_A)
    assert torch.equal(found.B0, B0)


def test_a_matrix_of_another_rank_is_refused_by_name(start: Start) -> None:
    _, A0, B0, _ = start
    with pytest.raises(RuntimeError, match=r"size mismatch for A.weight"):
        anchored(A0, B0).load_state_dict({"A.weight": A0}, strict=False)


def test_a_missing_matrix_is_reported(start: Start) -> None:
    _, A0, B0, _ = start
    missing = anchored(A0, B0).load_state_dict({}, strict=False).missing_keys
    assert missing == ["A.weight", "B.weight"]


def test_frozen_factors_pass_the_gradient_on_and_get_none(start: Start) -> None:
    _, A0, B0, x = start
    ours = anchored(A0, B0).requires_grad_(False)
    move(ours, torch.randn_like(A0), torch.randn_like(B0))
    x = x.requires_grad_()
    ours["B"](ours["A"](x)).sum().backward()
    update = ours["B"].weight @ ours["A"].weight
    torch.testing.assert_close(x.grad, update.sum(0).expand_as(x), rtol=0, atol=1e-12)
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_the_input_gets_the_gradient_of_what_is_computed(start: Start) -> None:
    _, A0, B0, x = start
    ours = anchored(A0, B0)
    move(ours, torch.randn_like(A0), torch.randn_like(B0))
    x = x.requires_grad_()
    ours["B"](ours["A"](x)).sum().backward()
    update = (ours["B"].weight @ ours["A"].weight).detach()
    torch.testing.assert_close(x.grad, update.sum(0).expand_as(x), rtol=0, atol=1e-12)


def unpickled(pair: nn.ModuleDict) -> nn.ModuleDict:
    return pickle.loads(pickle.dumps(pair))  # noqa: S301


@pytest.mark.parametrize("twin_of", [copy.deepcopy, unpickled])
def test_copies_are_tied_in_themselves_and_apart_from_the_first(start: Start, twin_of) -> None:
    _, A0, B0, x = start
    ours = anchored(A0, B0)
    twin = twin_of(ours)
    (twin["B"](twin["A"](x))).sum().backward()
    upper, lower = twin["A"].weight.grad.chunk(2)
    assert torch.equal(upper, lower) and upper.any()
    assert not twin["B"].weight.grad[:, R:].any()
    assert ours["A"].weight.grad is None
    with torch.no_grad():
        twin["A"].weight.add_(1)
    assert torch.equal(part(ours).A, A0)


def test_a_role_of_a_fused_layer_trains_its_own_rows_alone(start: Start) -> None:
    """Rows 0-2 are anchored, rows 5-6 plain; between them another role that nobody asked for."""
    _, A0, B0, x = start
    first = Block(role="q", init="principal", rank=R, anchored=True, rows=((0, 3),))
    last = Block(role="v", init="gaussian", rank=2, anchored=False, rows=((5, 7),))
    A1, B1 = torch.randn(2, N).double(), torch.randn(2, 2).double()
    ours = pair([(A0, B0[:3]), (A1, B1)], [first, last])
    with torch.no_grad():
        ours["B"].weight[:, :R][:3] += torch.randn(3, R)
    y = ours["B"](ours["A"](x))
    assert not y[:, 3:5].any()
    (y * torch.randn_like(y)).sum().backward()
    got = ours["B"].weight.grad
    assert got[:3, :R].abs().min() > 0
    assert got[5:, 2 * R :].abs().min() > 0
    got[:3, :R] = got[5:, 2 * R :] = 0
    assert not got.any()
    upper, lower = ours["A"].weight.grad[: 2 * R].chunk(2)
    assert torch.equal(upper, lower) and upper.any()
    q, v = cut(ours["A"].weight.detach(), ours["B"].weight.detach(), [first, last])
    assert torch.equal(q.A0, A0) and torch.equal(q.B0, B0[:3]) and q.B.shape == (3, R)
    assert torch.equal(v.A, A1) and torch.equal(v.B, B1) and v.A0 is v.B0 is None


def test_plain_factors_train_in_full(start: Start) -> None:
    _, _, _, x = start
    A, B = torch.randn(2, N).double(), torch.randn(M, 2).double()
    ours = pair([(A, B)], [PLAIN])
    (ours["B"](ours["A"](x)) * torch.randn(11, M)).sum().backward()
    assert ours["A"].weight.grad.abs().min() > 0
    assert ours["B"].weight.grad.abs().min() > 0


def test_16_bit_casts_of_the_file_keep_a_small_update(start: Start) -> None:
    """[A; A0], [B, -B0] would say the same and lose much of it: the negative control."""
    _, A0, B0, _ = start
    delta_A, delta_B = 1e-3 * torch.randn_like(A0), 1e-3 * torch.randn_like(B0)
    ours = anchored(A0, B0)
    move(ours, delta_A, delta_B)
    A, B = ours["A"].weight, ours["B"].weight
    exact = (B @ A).detach()
    naive = (torch.cat([B0 + delta_B, -B0], dim=1), torch.cat([A0 + delta_A, A0]))

    def lost(b: Tensor, a: Tensor) -> float:
        cast = b.detach().bfloat16().double() @ a.detach().bfloat16().double()
        return float((cast - exact).norm() / exact.norm())

    assert lost(B, A) < 0.01
    assert lost(*naive) > 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_of_the_parameters_does_not_move_the_start(start: Start, dtype: torch.dtype) -> None:
    """TRL casts the trainable parameters of quantised models to bf16."""
    _, A0, B0, x = (tensor.float() for tensor in start)
    ours = anchored(A0, B0)
    for parameter in ours.parameters():
        parameter.data = parameter.data.to(dtype)
    assert torch.equal(ours["B"](ours["A"](x.to(dtype))), torch.zeros(len(x), M, dtype=dtype))


def test_autocast_trains_through_them(start: Start) -> None:
    _, A0, B0, x = (tensor.float() for tensor in start)
    ours = anchored(A0, B0)
    with torch.autocast("cpu", torch.bfloat16):
        ours["B"](ours["A"](x)).float().sum().backward()
    upper, lower = ours["A"].weight.grad.chunk(2)
    assert torch.equal(upper, lower) and upper.any()
    assert ours["A"].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("rows", [None, ((0, 2), (4, 6))])
def test_torch_func_has_the_gradients_of_each_row(start: Start, rows: object) -> None:
    _, A0, B0, x = start
    block = Block(role="q", init="principal", rank=R, anchored=True, rows=rows)  # type: ignore[arg-type]
    factors = pair([(A0, B0 if rows is None else B0[:4])], [block])
    move(factors, 0.1 * A0, torch.zeros_like(B0))

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        a = torch.func.functional_call(factors["A"], {"weight": weights["A"]}, (row,))
        b = torch.func.functional_call(factors["B"], {"weight": weights["B"]}, (a,))
        return b.square().sum()

    weights = {side: factors[side].weight.detach() for side in "AB"}
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for number, row in enumerate(x):
        factors.zero_grad()
        factors["B"](factors["A"](row)).square().sum().backward()
        for side in "AB":
            torch.testing.assert_close(found[side][number], factors[side].weight.grad)
    assert found["A"].any() and found["B"].any()
