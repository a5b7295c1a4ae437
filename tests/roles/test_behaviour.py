"""A module's role is judged by what it does to attention, not by how it is called.

With p = softmax(q k^T) and the head outputs p v that the output projection reads:

* a change of one position's *query* changes that position's row of p and no other;
* a change of one position's *key* changes other rows of p;
* p times what *v* wrote is, number for number, what *o* read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ailora.roles import Projection, find_projections
from tests.families import FAMILIES, HEADS, inputs_for

ROWS, LENGTH, POSITION = 3, 7, 2


def _model(family: str) -> nn.Module:
    model = FAMILIES[family]().double()
    model.set_attn_implementation("eager")  # the other kernels do not return probabilities
    return model


def _probabilities(model: nn.Module, family: str, at: Projection) -> Tensor:
    """Attention probabilities (batch, heads, queries, keys) of the projection's own layer."""
    with torch.no_grad():
        output = model(
            **inputs_for(family, model, rows=ROWS, length=LENGTH), output_attentions=True
        )
    if not model.config.is_encoder_decoder:
        per_layer = output.attentions
    elif at.attention == "cross":
        per_layer = output.cross_attentions
    else:
        per_layer = getattr(output, f"{at.stack}_attentions")
    if not per_layer:
        pytest.skip("this transformers (5.16) returns no attention probabilities of T5")
    return per_layer[at.layer or 0]


def _nudge(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
    # DeBERTa's query and key projections also run on the table of relative positions.
    if output.shape[:2] != (ROWS, LENGTH):
        return None
    noise = torch.linspace(-1, 1, output.shape[-1], dtype=output.dtype)
    changed = output.clone()
    changed[:, POSITION] += noise
    return changed


def _changed_rows(model: nn.Module, family: str, projection: Projection) -> list[bool]:
    """For each query position, whether nudging the projection's output there changes its row."""
    before = _probabilities(model, family, projection)
    handle = projection.module.register_forward_hook(_nudge)
    after = _probabilities(model, family, projection)
    handle.remove()
    return ((after - before).abs().amax(dim=(0, 1, 3)) > 1e-9).tolist()


def _assert_acts_as_query(model: nn.Module, family: str, projection: Projection) -> None:
    expected = [position == POSITION for position in range(LENGTH)]
    assert _changed_rows(model, family, projection) == expected


def _assert_acts_as_key(model: nn.Module, family: str, projection: Projection) -> None:
    assert all(_changed_rows(model, family, projection)[POSITION + 1 :])


def _assert_leaves_probabilities_alone(
    model: nn.Module, family: str, projection: Projection
) -> None:
    assert not any(_changed_rows(model, family, projection))


ACTS_AS: dict[str, Callable[[nn.Module, str, Projection], None]] = {
    "q": _assert_acts_as_query,
    "k": _assert_acts_as_key,
    "v": _assert_leaves_probabilities_alone,
    "o": _assert_leaves_probabilities_alone,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_only_q_and_k_decide_who_attends_to_whom(family: str) -> None:
    model = _model(family)
    for projection in find_projections(model):
        ACTS_AS[projection.role](model, family, projection)


@pytest.mark.parametrize(("role", "other"), [("q", "k"), ("k", "q"), ("v", "k"), ("q", "v")])
def test_the_check_above_fails_for_a_module_in_another_role(role: str, other: str) -> None:
    model = _model("bert")
    projection = next(p for p in find_projections(model) if p.role == role)
    with pytest.raises(AssertionError):
        ACTS_AS[other](model, "bert", projection)


def _heads_of(values: Tensor) -> Tensor:
    """(batch, keys, kv_heads * d) -> (batch, HEADS, keys, d), key/value heads repeated."""
    size = values.shape[-1] // HEADS if values.shape[-1] == 32 else values.shape[-1] // 2
    heads = values.unflatten(-1, (-1, size)).transpose(1, 2)
    return heads.repeat_interleave(HEADS // heads.shape[1], dim=1)


def _read_and_expected(
    model: nn.Module, family: str, value: Projection, out: Projection
) -> tuple[Tensor, Tensor]:
    """What ``out`` reads, and the probabilities times what ``value`` writes."""
    wrote: list[Tensor] = []
    read: list[Tensor] = []
    handles = [
        value.module.register_forward_hook(lambda _m, _i, output: wrote.append(output)),
        out.module.register_forward_pre_hook(lambda _m, inputs: read.append(inputs[0])),
    ]
    p = _probabilities(model, family, value)
    for handle in handles:
        handle.remove()
    # Shared layers run several times; the probabilities are the first run's.
    return read[0], (p @ _heads_of(wrote[0])).transpose(1, 2).flatten(2)


def _pairs(model: nn.Module) -> list[tuple[Projection, Projection]]:
    places: dict[tuple[Any, ...], dict[str, Projection]] = {}
    for p in find_projections(model, ["v", "o"]):
        places.setdefault((p.stack, p.layer, p.attention), {})[p.role] = p
    return [(found["v"], found["o"]) for found in places.values()]


@pytest.mark.parametrize("family", FAMILIES)
def test_o_reads_the_attention_probabilities_times_what_v_wrote(family: str) -> None:
    model = _model(family)
    pairs = _pairs(model)
    assert pairs
    for value, out in pairs:
        read, expected = _read_and_expected(model, family, value, out)
        torch.testing.assert_close(read.reshape(expected.shape), expected)


def test_that_product_is_not_what_o_reads_if_k_is_taken_for_v() -> None:
    model = _model("bert")
    key = next(p for p in find_projections(model, ["k"]))
    read, expected = _read_and_expected(model, "bert", key, _pairs(model)[0][1])
    assert not torch.allclose(read, expected)
