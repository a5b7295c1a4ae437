"""Counts against formulas written down here, from the models' sizes."""

from __future__ import annotations

import pytest

from ailora.lab.methods import count
from tests.lab.methods.models import CASES, adapted, fresh, life

R, VERA, B = 4, 16, 8  # rank, VeRA's rank, bottleneck: those of the tests' models

# Sums over the adapted q and v of (outputs + inputs), (outputs) and their number; layers; width.
SIZES = {
    "minilm": {"in_out": 12 * 2 * 384, "out": 12 * 384, "in": 12 * 384, "n": 12, "layers": 6},
    # q 32 x 32, v 16 x 32 (two of four heads), two layers
    "llama": {"in_out": 2 * (64 + 48), "out": 2 * 48, "in": 2 * 64, "n": 4, "layers": 2},
    # two encoder layers, two decoder layers with self- and cross-attention
    "bart": {"in_out": 12 * 64, "out": 12 * 32, "in": 12 * 32, "n": 12, "layers": 4},
}
WIDTH = {"minilm": 384, "llama": 32, "bart": 32}
HEAD = {"minilm": 384 * 2 + 2, "llama": 0, "bart": 0}


def expected(family: str, name: str) -> int | None:
    size, width = SIZES[family], WIDTH[family]
    lora = R * size["in_out"]
    special = {
        "dora": lora + size["out"],
        "vera": VERA * size["n"] + size["out"],
        "mica": R * size["in"],
        "houlsby": 2 * size["layers"] * (2 * B * width + B + width),
        "full": sum(p.numel() for p in fresh(family).parameters()) - HEAD[family],
        "eva": None,  # ranks move between layers of unequal shape: see below
        "bitfit": None,  # see below
    }
    return special.get(name, lora)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_counts_are_those_of_the_formula(family: str, name: str) -> None:
    counts = life(family, name).counts
    wanted = expected(family, name)
    assert counts.head == HEAD[family]
    assert wanted is None or counts.adapter == wanted
    assert counts.trainable == counts.adapter + counts.head
    assert counts.all >= counts.trainable


def test_evas_ranks_add_up_to_those_of_lora_where_layers_are_alike() -> None:
    for family in ("minilm", "bart"):
        assert life(family, "eva").counts.adapter == life(family, "lora").counts.adapter


def test_bitfit_counts_every_bias_of_the_encoder() -> None:
    # a layer: q, k, v, o and the feed-forward's output 384 each, its inside 1536, two norms; the
    # embeddings' norm; the pooler
    assert life("minilm", "bitfit").counts.adapter == 6 * (5 * 384 + 1536 + 2 * 384) + 384 + 384
    # six biases of attention or feed-forward and two norms (encoder), ten and three (decoder), of
    # 32, but for the feed-forward's inside, 48; the embeddings' norms
    bart = 2 * (5 * 32 + 48 + 2 * 32) + 2 * (9 * 32 + 48 + 3 * 32) + 2 * 32
    assert life("bart", "bitfit").counts.adapter == bart


def test_the_head_that_peft_keeps_a_copy_of_counts_once() -> None:
    base = sum(p.numel() for p in fresh("minilm").parameters())
    counts = life("minilm", "lora").counts
    assert counts.all == base + counts.adapter


def test_ranks_by_role_add_up() -> None:
    model = adapted("minilm", "ailora", ranks={"q": 2, "k": 1, "o": 3})
    assert count(model).adapter == 6 * (2 + 1 + 3) * 2 * 384


def test_a_head_of_any_size_is_told_from_the_adapter() -> None:
    assert count(adapted("minilm", "lora", rank=1)).head == HEAD["minilm"]
