"""Figure 1: W^Q and W^V before and after fine-tuning, and how far they move."""

from __future__ import annotations

from ailora.lab.experiments.recipes.base import (
    ROBERTA_LARGE,
    Recipe,
    Scale,
    glue_tasks,
    model_for,
)
from ailora.lab.experiments.recipes.figures import grid, notes
from ailora.lab.experiments.recipes.rates import NOTES

_TASKS = ("cola", "sst2")
_SMALL = ("stsb", "sst2")


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Full fine-tuning on CoLA (t-SNE, norms) and SST-2 (norms), and LoRA beside it."""
    chosen, tasks = (
        model_for(scale, model, ROBERTA_LARGE),
        glue_tasks(scale, _TASKS, data, small=_SMALL),
    )
    return Recipe(
        name="figure1",
        title="W^Q and W^V before and after full fine-tuning: t-SNE, and norms of the change",
        grids=tuple(
            grid(
                scale,
                task,
                methods=[method],
                model=chosen,
                data=data,
            )
            for task in tasks
            for method in ("full", "lora")
        ),
        figure="weights",
        notes=(
            "The paper does not say how it fine-tunes here; full fine-tuning moves W^Q and W^V "
            "without a rank or a start that would decide how far.",
            "LoRA, at one rate for every role, is not in the paper's figure.",
            NOTES[0],
            *notes(scale, tasks, chosen),
        ),
    )
