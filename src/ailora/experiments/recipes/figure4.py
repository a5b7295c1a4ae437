"""Figure 4: subspaces that W^Q shares with full fine-tuning, and what is forgotten."""

from __future__ import annotations

from ailora.experiments.recipes.base import (
    FOUR,
    ROBERTA_LARGE,
    Recipe,
    Scale,
    glue_tasks,
    model_for,
)
from ailora.experiments.recipes.figures import grid, notes
from ailora.experiments.recipes.rates import NOTES


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Four methods and full fine-tuning on CoLA."""
    chosen, tasks = (
        model_for(scale, model, ROBERTA_LARGE),
        glue_tasks(scale, ["cola"], data, small=["sst2"]),
    )
    return Recipe(
        name="figure4",
        title="W^Q's subspace beside full fine-tuning's, and forgetting",
        grids=tuple(
            one
            for task in tasks
            for one in (
                grid(scale, task, methods=FOUR, model=chosen, data=data),
                grid(scale, task, methods=["full"], model=chosen, data=data),
            )
        ),
        figure="function",
        notes=(
            "(a): the paper does not name the task; here CoLA, which (b) names.",
            "(b): forgetting is measured on SST-2 sentences, as the paper does, against the base "
            "model's predictions; how an encoder predicts tokens there the paper leaves open.",
            NOTES[0],
            *notes(scale, tasks, chosen),
        ),
    )
