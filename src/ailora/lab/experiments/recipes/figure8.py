"""Figure 8: t-SNE of the trained low-rank matrices, CoLA."""

from __future__ import annotations

from ailora.lab.experiments.recipes.base import (
    FOUR,
    ROBERTA_LARGE,
    Recipe,
    Scale,
    glue_tasks,
    model_for,
)
from ailora.lab.experiments.recipes.figures import grid, notes


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Four methods on CoLA: A and B of every layer as points."""
    chosen, tasks = (
        model_for(scale, model, ROBERTA_LARGE),
        glue_tasks(scale, ["cola"], data, small=["sst2"]),
    )
    return Recipe(
        name="figure8",
        title="t-SNE of A and B after training",
        grids=tuple(grid(scale, task, methods=FOUR, model=chosen, data=data) for task in tasks),
        figure="factors",
        notes=(
            "t-SNE depends on its seed and perplexity, of which the paper states neither.",
            *notes(scale, tasks, chosen),
        ),
    )
