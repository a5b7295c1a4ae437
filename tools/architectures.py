"""Writes docs/architectures.md: ``python -m tools.architectures``, from the project's folder."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import transformers
from tests.architectures import HEADS_OF, build
from tests.roles.survey import (
    UNTRIED,
    buildable,
    fused_layout,
    notes,
    refusal,
    verify,
    why_not_built,
)

from ailora.files import write_atomic
from ailora.roles import find_projections

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
_INTRODUCTION = """# Architectures

What `find_projections` (and so all of ailora) makes of every causal, masked, sequence-to-sequence
and classification architecture of transformers {version}, each built from a tiny random config.
Of {total} model types {supported} are supported, {refused} are refused with one line that says
why, and {unbuilt} could not be built here.

Nothing but fused layouts and the remarks on the right is tied to a name: attention is recognised
by how its parts are called and fit one another, so an architecture that is not in this list works
if it is spelled like one that is.

* **heads**: those with which a model could be built: causal, masked, seq2seq, classification.
* **roles**: q k v o with the number of modules in the tiny model; "cross" where there is
  cross-attention as well.
* **fused**: the layer that holds several roles, and their order from its first row to its last;
  "4 x (q k v)" repeats for each head or group. "(rest)" is what plays no role, such as a gate.
* **verified**: every output channel of q, k and v was nudged at one position (of wide layers, some
  all over them), and what then changed in the attention probabilities and in what o reads told its
  role. "output": no softmax over the whole sequence is to be seen, so keys are not told from
  values. "n of m": the other blocks did not run on text of one length.

This page is made by `make architectures`; a test compares each line with what the library does.

| model type | heads | roles | fused | verified | remarks |
|---|---|---|---|---|---|
"""


def line(model_type: str) -> str:
    """The row of the table for one model type."""
    heads = buildable(model_type)
    if not heads:
        why = why_not_built(model_type, HEADS_OF[model_type][0])
        return _row(model_type, "", "not built", "", "", why)
    refused = refusal(model_type, heads[0])
    if refused:
        return _row(model_type, ", ".join(heads), "refused", "", "", _reason(refused))
    model = build(model_type, heads[0])
    found = find_projections(model)
    counts = Counter(p.role for p in found)
    roles = " ".join(f"{role} {counts[role]}" for role in "qkvo")
    roles += ", cross" if any(p.attention == "cross" for p in found) else ""
    verified, remarks = _verified(model_type, model)
    remarks += notes(model)
    return _row(
        model_type, ", ".join(heads), roles, fused_layout(found), verified, "; ".join(remarks)
    )


def page() -> str:
    """The whole page."""
    rows = [line(model_type) for model_type in HEADS_OF]
    refused, unbuilt = (
        sum(f"| {what} |" in row for row in rows) for what in ("refused", "not built")
    )
    introduction = _INTRODUCTION.format(
        version=transformers.__version__,
        total=len(rows),
        supported=len(rows) - refused - unbuilt,
        refused=refused,
        unbuilt=unbuilt,
    )
    return introduction + "\n".join(rows) + "\n"


def _verified(model_type: str, model: transformers.PreTrainedModel) -> tuple[str, list[str]]:
    """What to say of how the roles were verified, and remarks."""
    if model_type in UNTRIED:
        return "no", [UNTRIED[model_type]]
    verdict = verify(model)
    problems = [*([verdict.error] if verdict.error else []), *verdict.wrong]
    if problems or not verdict.ran:
        return "no", problems[:1]
    how = "yes" if verdict.with_softmax else "output"
    part = "" if verdict.ran == verdict.blocks else f", {verdict.ran} of {verdict.blocks}"
    return how + part, []


def _reason(message: str) -> str:
    """The part of a refusal that says why, without the names to choose from."""
    reason = message.split("; its linear layers")[0].split("; if you know")[0]
    return reason.partition("cannot be used: ")[2] or reason


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    logging.disable()
    write_atomic(PAGE, page())
