"""Table 1: four methods on GLUE, RoBERTa-large and DeBERTa-v3-base."""

from __future__ import annotations

from ailora.lab.experiments.recipes.base import (
    DEBERTA_V3_BASE,
    FOUR,
    ROBERTA_LARGE,
    Recipe,
    Scale,
    grid,
    scale_notes,
)
from ailora.lab.tasks.classification.glue import GLUE

_SMOKE = ("movies", "movies-regression")


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Eight sets, four methods, each at its own best rate of a grid, on each model."""
    models = (ROBERTA_LARGE, DEBERTA_V3_BASE) if scale == "paper" else ("demo",)
    models = (model,) if model else models
    tasks = tuple(GLUE)
    if scale == "smoke":
        tasks = ("cola", "stsb") if data else _SMOKE
    return Recipe(
        name="table1",
        title="LoRA, PiSSA, MiLoRA and AILoRA on GLUE",
        grids=tuple(
            grid(scale, task, methods=FOUR, model=one, data=data)
            for one in models
            for task in tasks
        ),
        beside="table1",
        notes=(
            "The paper searches a grid of rates and does not say which, nor on which rows it "
            "chooses; here each method has its best mean over the seeds on held-out rows of train.",
            *scale_notes(scale, tasks, models),
        ),
    )
