"""Every line of docs/architectures.md is what the library does and the model's behaviour shows."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from tools.architectures import PAGE, line, tower_section
from transformers import PreTrainedModel

from ailora.roles import find_projections, inspect
from tests.architectures import HEADS_OF, build
from tests.roles import probe
from tests.roles.survey import UNTRIED, buildable, refusal, verify

TEXT = PAGE.read_text(encoding="utf-8")
LINES = {row.split(" | ")[0].removeprefix("| "): row for row in TEXT.splitlines() if "|" in row}
BIG = {"perceiver", "vibevoice_asr", "inkling2_text", "inkling2_loop_text"}
SUPPORTED = [name for name in HEADS_OF if " q " in LINES.get(name, "")]
# Layouts that the config of a type chooses, beside the one in the table.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon, one key head": ("falcon", {"multi_query": True, "new_decoder_architecture": False}),
    "falcon, all heads": (
        "falcon",
        {"multi_query": False, "new_decoder_architecture": False, "num_kv_heads": 4},
    ),
    "falcon, groups": ("falcon", {"new_decoder_architecture": True}),
    "gpt_bigcode, all heads": ("gpt_bigcode", {"multi_query": False}),
    "phi3, all heads": ("phi3", {"num_key_value_heads": 4}),
    "codegen, more heads": ("codegen", {"n_head": 8, "n_embd": 64, "rotary_dim": 8}),
    "persimmon, no norm": ("persimmon", {"qk_layernorm": False}),
}

same_transformers = pytest.mark.skipif(
    f"transformers {transformers.__version__}," not in TEXT,
    reason="the page is of another version of transformers",
)


@same_transformers
def test_the_page_has_a_line_for_every_architecture_of_transformers() -> None:
    assert set(HEADS_OF) <= set(LINES)
    assert len(SUPPORTED) > 200


@same_transformers
def test_the_second_table_is_what_the_library_does() -> None:
    assert TEXT.endswith(tower_section())


@same_transformers
def test_the_readme_counts_what_the_page_shows() -> None:
    cells = [LINES[name].split(" | ") for name in LINES if name in HEADS_OF]
    attention = [found[2] for found in cells]
    blocks = sum(" down " in f" {found[4]} " for found in cells)
    refused, unbuilt = attention.count("refused"), attention.count("not built")
    supported = sum(found.startswith("q ") for found in attention)
    assert supported + refused + unbuilt == len(cells)
    readme = " ".join((PAGE.parents[1] / "README.md").read_text(encoding="utf-8").split())
    assert f"of {len(cells)} model types {supported} have their attention supported" in readme
    assert f"and {blocks} their dense feed-forward blocks" in readme
    assert f"{refused} are refused" in readme and f"{unbuilt} could not be built" in readme


@same_transformers
@pytest.mark.parametrize(
    "model_type",
    [pytest.param(n, marks=pytest.mark.slow if n in BIG else ()) for n in HEADS_OF],
)
def test_each_line_of_the_page_is_what_the_library_does(model_type: str) -> None:
    if "was not found in your environment" in LINES[model_type]:  # it names the first that lacks
        assert " not built " in line(model_type)
        return
    assert line(model_type) == LINES[model_type]


@same_transformers
def test_every_supported_architecture_was_tried_but_for_a_few_that_say_why() -> None:
    untried = {name for name in SUPPORTED if LINES[name].split(" | ")[3] == "no"}
    assert untried == set(UNTRIED)


@same_transformers
def test_every_dense_feed_forward_block_was_tried() -> None:
    cells = {name: row.split(" | ") for name, row in LINES.items() if name in HEADS_OF}
    dense = {name: found[5] for name, found in cells.items() if " down " in f" {found[4]} "}
    assert len(dense) > 220
    assert {how for how in dense.values() if how != "yes"} == {"yes, 2 of 4"}  # CANINE
    assert {name for name, found in cells.items() if found[4] == "refused"} == {"rwkv"}


@same_transformers
@pytest.mark.slow
@pytest.mark.parametrize("model_type", SUPPORTED)
def test_no_head_makes_a_supported_architecture_unreadable(model_type: str) -> None:
    for head in buildable(model_type)[1:]:
        assert refusal(model_type, head) == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_layouts_that_depend_on_the_config_are_read_from_it(variant: str) -> None:
    model_type, changes = VARIANTS[variant]
    verdict = verify(build(model_type, "causal", **changes))
    assert (verdict.error, verdict.wrong) == ("", ())
    assert verdict.ran == verdict.blocks > 0


def _wrong_by(model: PreTrainedModel, claim: Any) -> bool:
    """Whether the probe contradicts the claim about the first block's channels."""
    probe.randomise(model)
    site = probe.sites(find_projections(model))[0]
    (seen,) = probe.observed(model, _ids(), site).values()
    return bool(seen != claim(next(iter(probe.claimed(site).values()))))


def _ids() -> dict[str, Any]:
    import torch

    return {"input_ids": torch.arange(5, 5 + probe.LENGTH)[None]}


@pytest.mark.parametrize("model_type", ["bloom", "gpt_neox", "codegen"])
def test_the_probe_contradicts_contiguous_rows_where_heads_alternate(model_type: str) -> None:
    def contiguous(claimed: list[str]) -> list[str]:
        return [role for role in "qkv" for _ in range(len(claimed) // 3)]

    assert _wrong_by(build(model_type), contiguous)
    assert not _wrong_by(build(model_type), lambda claimed: claimed)


def test_the_probe_contradicts_heads_that_alternate_where_rows_are_contiguous() -> None:
    def each_head(claimed: list[str]) -> list[str]:
        return [role for _ in range(4) for role in "qkv" for _ in range(len(claimed) // 12)]

    assert _wrong_by(build("gpt2"), each_head)
    assert not _wrong_by(build("gpt2"), lambda claimed: claimed)


def test_the_probe_contradicts_a_gate_taken_for_a_part_of_the_query() -> None:
    model = build("qwen3_next")
    probe.randomise(model)
    (site,) = probe.sites(find_projections(model))
    query = next(p for p in site.projections if p.role == "q")
    seen = probe.observed(model, _ids(), site)[id(query.module)]
    assert seen == (["q"] * 8 + ["-"] * 8) * 4


@pytest.mark.parametrize("model_type", ["gpt2", "bloom", "phi3", "qwen3_next", "bart", "zamba"])
def test_projections_are_found_without_weights(model_type: str) -> None:
    on_meta = find_projections(build(model_type, device="meta"))
    real = find_projections(build(model_type))
    assert [(p.key, p.rows, p.shape, p.layer) for p in on_meta] == [
        (p.key, p.rows, p.shape, p.layer) for p in real
    ]
    assert str(inspect(build(model_type, device="meta")))
