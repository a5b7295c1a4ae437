"""Figure 7: the subspaces that W^V shares with full fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from ailora.lab.experiments.recipes import figure4
from ailora.lab.experiments.recipes.base import Recipe, Scale


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """The runs of Figure 4, looked at in W^V."""
    return replace(
        figure4.recipe(scale, data=data, model=model),
        name="figure7",
        title="W^V's subspace beside full fine-tuning's",
        figure="value_similarity",
        texts=None,
        notes=(
            "Its caption and heading are of W^V, its text says W^Q; taken as W^V.",
            *figure4.recipe(scale, data=data, model=model).notes,
        ),
    )
