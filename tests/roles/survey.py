"""What ``find_projections`` makes of one architecture, and whether its behaviour agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ailora.errors import UserError
from ailora.roles import FEED_FORWARD_ROLES, Projection, assign_roles, find_projections
from ailora.roles.architectures import UNDERSTOOD, known_class
from ailora.roles.feed_forward_names import UNDERSTOOD as UNDERSTOOD_FEED_FORWARD
from ailora.roles.feedforward import has_experts
from ailora.roles.walk import walk
from tests.architectures import HEADS_OF, build
from tests.roles import feed_forward_probe, probe

# What the probe sees otherwise than the table says, and why that is as it should be.
DIFFERENT = {("doge", "v", "k"): "the value also steers the attention mask"}
# Supported models that the probe cannot try, and why.
UNTRIED = {
    "blt": "needs patches of bytes, and a config that transformers does not fill in",
    "cpmant": "puts a prompt before the text, so no block runs on its length",
    "mra": "its attention is a CUDA kernel and gives zeros without",
    "voxtral_realtime": "does not run without sound",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the probe saw in a model.

    Attributes:
        blocks: Number of blocks.
        ran: Number of those that ran on text of one length, and were tried.
        with_softmax: Whether in all those the probabilities were seen, so that k and v differ; of
            feed-forward blocks always true.
        wrong: One line for each layer whose channels are not what they are said to be.
        error: Why the model does not run on text, if it does not.
    """

    blocks: int
    ran: int
    with_softmax: bool
    wrong: tuple[str, ...]
    error: str = ""


def buildable(model_type: str) -> tuple[str, ...]:
    """The heads with which a tiny model can be built, on the meta device."""
    return tuple(head for head in HEADS_OF[model_type] if not why_not_built(model_type, head))


def why_not_built(model_type: str, head: str) -> str:
    """The first line of the error that building raises, or nothing."""
    try:
        build(model_type, head, device="meta")
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return (
            f"{type(error).__name__}: {lines[-1] if 'Class validation' in lines[0] else lines[0]}"
        )
    return ""


def refusal(model_type: str, head: str) -> str:
    """What ``find_projections`` complains of, or nothing."""
    try:
        find_projections(build(model_type, head, device="meta"))
    except UserError as error:
        return str(error)
    return ""


def verify(model: PreTrainedModel) -> Verdict:
    """Tries every channel of every q, k and v of a model that takes text."""
    probe.randomise(model)
    wrong: list[str] = []
    ran, with_softmax = 0, True
    sites = probe.sites(find_projections(model))
    for site in sites:
        try:
            seen = probe.observed(model, _inputs(model), site)
        except LookupError:
            continue
        except (RuntimeError, ValueError, AttributeError, TypeError) as error:
            line = str(error).splitlines()[0]
            return Verdict(blocks=len(sites), ran=0, with_softmax=True, wrong=(), error=line)
        ran += 1
        with_softmax &= not any("kv" in kinds for kinds in seen.values())
        wrong += _differences(model.config.model_type, site, seen)
    return Verdict(blocks=len(sites), ran=ran, with_softmax=with_softmax, wrong=tuple(wrong))


def _differences(model_type: str, site: probe.Site, seen: dict[int, list[str]]) -> list[str]:
    names = {id(p.module): p.name for p in site.projections}
    lines = []
    for module, said in probe.claimed(site).items():
        pairs = {
            (a, b)
            for a, b in zip(said, seen[module], strict=True)
            if a != b and not (b == "kv" and a in "kv") and (model_type, a, b) not in DIFFERENT
        }
        lines += [f"{names[module]}: said to be {a}, acts as {b}" for a, b in sorted(pairs)]
    return lines


def feed_forward(model: PreTrainedModel) -> list[Projection]:
    """The projections of a model's dense feed-forward blocks, in its order; none if it has none.

    Raises:
        UserError: One cannot be read for certain.
    """
    names = [place.name for place in walk(model) if place.default]
    found = assign_roles(model, names, FEED_FORWARD_ROLES)
    return [projection for projection in found if projection.role != "*"]


def verify_feed_forward(model: PreTrainedModel) -> Verdict:
    """Tries channels of every matrix of a model's feed-forward blocks."""
    probe.randomise(model)
    wrong: list[str] = []
    ran = 0
    sites = feed_forward_probe.sites(feed_forward(model))
    for site in sites:
        try:
            seen = feed_forward_probe.observed(model, _inputs(model), site)
        except feed_forward_probe.NotRunError:
            continue
        ran += 1
        wrong += feed_forward_probe.contradictions(site, seen)
    return Verdict(blocks=len(sites), ran=ran, with_softmax=True, wrong=tuple(wrong))


def _inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (1, probe.LENGTH)
    names = ["input_ids", *(["decoder_input_ids"] if model.config.is_encoder_decoder else [])]
    return {name: torch.randint(5, 60, shape, generator=generator) for name in names}


def fused_layout(found: Sequence[Projection]) -> str:
    """How the rows of fused layers are ordered: ``c_attn: q k v``, ``qkv: 4 x (q k v)``."""
    fused = {p.name: [q for q in found if q.name == p.name] for p in found if p.rows}
    layouts = {}
    for name, parts in fused.items():
        blocks = sorted((start, p.role) for p in parts for start, _ in p.rows or ())
        repeats = len(blocks) // len(parts)
        order = " ".join(role for _, role in blocks[: len(parts)])
        if len(parts) == 1 and repeats > 1:
            order += " (rest)"
        text = f"{repeats} x ({order})" if repeats > 1 else order
        layouts[f"`{name.rpartition('.')[2]}`: {text}"] = None
    return ", ".join(layouts)


def notes(model: PreTrainedModel) -> list[str]:
    """What there is to know about the model's classes of attention."""
    classes = dict.fromkeys(type(module).__name__ for module in model.modules())
    return list(dict.fromkeys(UNDERSTOOD[name] for name in classes if name in UNDERSTOOD))


def feed_forward_notes(model: PreTrainedModel) -> list[str]:
    """What there is to know about the model's feed-forward blocks."""
    known = (known_class(module, UNDERSTOOD_FEED_FORWARD) for module in model.modules())
    found = list(dict.fromkeys(UNDERSTOOD_FEED_FORWARD[name] for name in known if name))
    return [*found, *(["experts are left out"] if has_experts(walk(model)) else [])]
