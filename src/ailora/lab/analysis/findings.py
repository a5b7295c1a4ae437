"""Sentences on what a table of layers or of spectra shows, and on how many weights it was seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from ailora.lab.analysis.layers import LayerRow
from ailora.lab.analysis.similarity import Similarity, random_level
from ailora.roles import RoleName
from ailora.roles.projection import ROLE_NAMES
from ailora.roles.spectra import Spectrum


def on_layers(rows: Sequence[LayerRow]) -> list[str]:
    """What the rows of one change show, a sentence or two for each thing measured."""
    if not rows:
        return ["No weight is changed (n = 0): the method adds layers of its own."]
    if not any(row.norm for row in rows):
        return [f"None of the {len(rows)} projections moved (n = {len(rows)})."]
    return [
        _norms(rows),
        *_starts(rows),
        *_similar("B A as trained, start included", [row.factors for row in rows]),
        *_similar("dW alone", [row.update for row in rows]),
        *_intruders(rows),
    ]


def on_spectra(found: Sequence[Spectrum]) -> list[str]:
    """Effective ranks by role, and what share of the energy the chosen parts have."""
    lines = []
    for role in _roles(found):
        own = [one for one in found if one.role == role]
        ranks = _range([one.effective_rank for one in own])
        line = f"{role}: effective rank {ranks} of {len(own[0].values)} (n = {len(own)} weights)"
        shares = [one.energy_share for one in own if one.energy_share is not None]
        if shares:
            line += f"; the {own[0].part} {own[0].rank} hold {_range(shares)} of its energy"
        lines.append(f"{line}.")
    return lines


def _norms(rows: Sequence[LayerRow]) -> str:
    parts = [
        f"{role} {_range([row.relative for row in rows if row.role == role])}"
        for role in _roles(rows)
    ]
    text = f"||dW|| / ||W||, median (least to most), n = {len(rows)}: {', '.join(parts)}"
    pairs = _pairs(rows)
    if pairs:
        larger = sum(q.relative > v.relative for q, v in pairs)
        text += f"; larger for q than for v in {larger} of {len(pairs)} layers"
    return f"{text}."


def _pairs(rows: Sequence[LayerRow]) -> list[tuple[LayerRow, LayerRow]]:
    """The q and v of each attention."""
    by_place = {(row.stack, row.attention, row.layer, row.role): row for row in rows}
    return [
        (row, by_place[row.stack, row.attention, row.layer, "v"])
        for row in rows
        if row.role == "q" and (row.stack, row.attention, row.layer, "v") in by_place
    ]


def _starts(rows: Sequence[LayerRow]) -> list[str]:
    parts = []
    for role in _roles(rows):
        starts = [row.start for row in rows if row.role == role and row.start]
        kept = [value for one in starts for value in (one.left, one.right) if value is not None]
        if kept:
            parts.append(f"{role} {_range(kept)}")
    return [f"Overlap of the factors with their start (1: unmoved): {', '.join(parts)}."] * bool(
        parts
    )


def _similar(what: str, found: Sequence[Similarity | None]) -> list[str]:
    known = [one for one in found if one is not None and one.left is not None]
    lines = []
    for role in _roles(known):
        own = [one for one in known if one.role == role]
        left = [one.left for one in own if one.left is not None]
        right = [one.right for one in own if one.right is not None]
        outputs, inputs = (
            random_level(round(one.rank / share), one.rank, one.rank)
            for one in own[:1]
            for share in (one.random_left, one.random_right)
        )
        above = sum(value > outputs.high for value in left) + sum(
            value > inputs.high for value in right
        )
        lines.append(
            f"Similarity to full fine-tuning's dW of {role}, {what}: left {_range(left)}, right "
            f"{_range(right)}; chance {outputs.mean:.3f} (95 % of draws {outputs.low:.3f} to "
            f"{outputs.high:.3f}), exceeded in {above} of {len(left) + len(right)}."
        )
    return lines


def _intruders(rows: Sequence[LayerRow]) -> list[str]:
    found = [row.intruders for row in rows if row.intruders]
    if not found:
        return []
    looked_at = sum(len(one.cosines) for one in found)
    return [
        f"Intruder dimensions (|cos| below {found[0].epsilon:g}): "
        f"{sum(one.count for one in found)} of the {looked_at} leading directions looked at."
    ]


def _roles(rows: Iterable[LayerRow | Similarity | Spectrum]) -> list[RoleName]:
    present = {row.role for row in rows}
    return [role for role in ROLE_NAMES if role in present]


def _range(values: Sequence[float]) -> str:
    """Median, and least to most where there are several."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
