"""Writes docs/architectures.md: ``python -m tools.architectures``, from the project's folder."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import transformers
from tests.architectures import HEADS_OF, build
from tests.roles.survey import (
    UNTRIED,
    Verdict,
    buildable,
    feed_forward,
    feed_forward_notes,
    fused_layout,
    notes,
    refusal,
    verify,
    verify_feed_forward,
    why_not_built,
)
from tests.towers import TOWERS, build_tower

from ailora.errors import UserError
from ailora.files import write_atomic
from ailora.roles import ATTENTION_ROLES, FEED_FORWARD_ROLES, Projection, find_projections
from ailora.roles.walk import walk

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
_INTRODUCTION = """# Architectures

What `find_projections` (and so all of ailora) makes of every causal, masked, sequence-to-sequence
and classification architecture of transformers {version}, each built from a tiny random config.
Of {total} model types {supported} have their attention supported and {dense} their dense
feed-forward blocks; of {refused} the attention is refused with one line that says why, and
{unbuilt} could not be built here.

Nothing but fused layouts and the remarks on the right is tied to a name: blocks are recognised by
how their parts are called and fit one another, so an architecture that is not in this list works
if it is spelled like one that is.

* **heads**: those with which a model could be built: causal, masked, seq2seq, classification.
* **attention**: q k v o with the number of modules in the tiny model; "cross" where there is
  cross-attention as well.
* **feed-forward**: gate up down with the number of modules, of dense blocks. A gated block computes
  down(act(gate x) * up x); one without a gate is down(act(up x)), so its first matrix is `up`.
  Routers have no roles, and experts none here; an expert that every token passes (shared) counts as
  dense. "experts are left out": unless `target_parameters` or `target_modules` selects them, see
  [PEFT, Trainer, TRL](start/peft.md#other-roles-layers-ranks-and-starts).
  "none": the model has no dense block that is made of linear layers.
* **fused**: the layer that holds several roles, and their order from its first row to its last;
  "4 x (q k v)" repeats for each head or group. "(rest)" is what plays no role, such as a gate on
  the output.
  In multi-head latent attention (`kv_b_proj`) k is the part of the keys without position, and what
  makes the latents (`q_a_proj`, `kv_a_proj_with_mqa`) plays no role.
* **verified**, of attention: every output channel of q, k and v was nudged at one position (of wide
  layers, some all over them), and what then changed in the attention probabilities and in what o
  reads told its role. "output": no softmax over the whole sequence is to be seen, so keys are not
  told from values. "n of m": the other blocks did not run on text of one length.
* **verified**, of feed-forward blocks: channels all over gate and up were nudged up and down, and
  what then changed in what down reads told whether they pass the activation function or are
  multiplied with what did.

This page is made by `make architectures`; a test compares each line with what the library does.

| model type | heads | attention | verified | feed-forward | verified | fused | remarks |
|---|---|---|---|---|---|---|---|
"""


def line(model_type: str) -> str:
    """The row of the table for one model type."""
    heads = buildable(model_type)
    if not heads:
        why = why_not_built(model_type, HEADS_OF[model_type][0])
        return _row(model_type, "", "not built", "", "", "", "", why)
    model = build(model_type, heads[0])
    attention, found, remarks = _attention(model_type, heads[0], model)
    dense, more, further = _feed_forward(model)
    layouts = ", ".join(filter(None, (fused_layout(found), fused_layout(more))))
    remarks = "; ".join([*remarks, *further])
    return _row(model_type, ", ".join(heads), *attention, *dense, layouts, remarks)


_TOWERS = """
## Images and sound

Models of one kind of input are adapted whole, and towers of larger ones with `parts=["vision"]`,
which without it have their language part adapted. `tests/roles/test_parts.py` nudges the channels
of each of these as above, cross-attention's too. Three that read text and have layouts of their own
are here as well.

| model | part | attention | feed-forward | fused |
|---|---|---|---|---|
"""


def tower_line(name: str) -> str:
    """The row of the second table for one model or tower."""
    model = build_tower(name)
    found, dense = find_projections(model), feed_forward(model)
    attention = _counts(found, ATTENTION_ROLES)
    attention += ", cross" if any(p.attention == "cross" for p in found) else ""
    (part,) = {str(place.part) for place in walk(model)}
    roles = _counts(dense, FEED_FORWARD_ROLES)
    return _row(type(model).__name__, part, attention, roles, fused_layout(found))


def tower_section() -> str:
    """The second table, with what is above it."""
    return _TOWERS + "\n".join(map(tower_line, TOWERS)) + "\n"


Cells = tuple[str, str]
"""The roles, and how they were verified."""


def _attention(
    model_type: str, head: str, model: transformers.PreTrainedModel
) -> tuple[Cells, list[Projection], list[str]]:
    refused = refusal(model_type, head)
    if refused:
        return ("refused", ""), [], [_reason(refused)]
    found = find_projections(model)
    roles = _counts(found, ATTENTION_ROLES)
    roles += ", cross" if any(p.attention == "cross" for p in found) else ""
    if model_type in UNTRIED:
        return (roles, "no"), found, [UNTRIED[model_type], *notes(model)]
    verified, remarks = _verified(verify(model))
    return (roles, verified), found, [*remarks, *notes(model)]


def _feed_forward(
    model: transformers.PreTrainedModel,
) -> tuple[Cells, list[Projection], list[str]]:
    try:
        found = feed_forward(model)
    except UserError as error:
        return ("refused", ""), [], [_reason(str(error))]
    if not found:
        return ("none", ""), [], feed_forward_notes(model)
    roles = _counts(found, FEED_FORWARD_ROLES)
    verified, remarks = _verified(verify_feed_forward(model))
    return (roles, verified), found, [*remarks, *feed_forward_notes(model)]


def _counts(found: list[Projection], roles: tuple[str, ...]) -> str:
    counts = Counter(p.role for p in found)
    return " ".join(f"{role} {counts[role]}" for role in roles if counts[role])


def page() -> str:
    """The whole page."""
    rows = [line(model_type) for model_type in HEADS_OF]
    columns = [row.split(" | ") for row in rows]
    refused, unbuilt = (
        sum(cells[2] == what for cells in columns) for what in ("refused", "not built")
    )
    introduction = _INTRODUCTION.format(
        version=transformers.__version__,
        total=len(rows),
        supported=len(rows) - refused - unbuilt,
        dense=sum("up" in cells[4] for cells in columns),
        refused=refused,
        unbuilt=unbuilt,
    )
    return introduction + "\n".join(rows) + "\n" + tower_section()


def _verified(verdict: Verdict) -> tuple[str, list[str]]:
    """What to say of how roles were verified, and remarks."""
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
