"""Figure 4: subspaces that W^Q shares with full fine-tuning, and what is forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from ailora.lab.experiments.recipes.base import (
    FOUR,
    ROBERTA_LARGE,
    Recipe,
    Scale,
    glue_tasks,
    model_for,
)
from ailora.lab.experiments.recipes.figures import grid, notes
from ailora.lab.experiments.recipes.rates import NOTES
from ailora.lab.training import RunConfig


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
        texts=RunConfig(model=chosen, task=_texts(scale, tasks, data), data=data),
        notes=(
            "(a): the paper does not name the task; here CoLA, which (b) names.",
            "(b): forgetting is measured on sentences of SST-2, as the paper does (of CoLA after "
            "training on SST-2), against the base model's predictions; how an encoder predicts "
            "tokens there the paper leaves open.",
            NOTES[0],
            *notes(scale, tasks, chosen),
        ),
    )


def _texts(scale: Scale, tasks: Sequence[str], data: str | None) -> str:
    """SST-2, as in the paper, or a task that was not trained on; movies where nothing else is."""
    if scale == "smoke" and data is None:
        return "movies"
    return "cola" if "sst2" in tasks else "sst2"
