"""Figure 6: AILoRA against its reverse."""

from __future__ import annotations

from ailora.lab.experiments.recipes.base import (
    ROBERTA_LARGE,
    Recipe,
    Scale,
    glue_tasks,
    model_for,
)
from ailora.lab.experiments.recipes.figures import grid, notes

_TASKS = ("cola", "mrpc", "rte", "stsb")
_SMALL = ("sst2", "stsb")
_METHODS = ("lora", "ailora", "reailora")


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Four sets of GLUE: AILoRA, reAILoRA, and LoRA to tell how large their difference is."""
    chosen, tasks = (
        model_for(scale, model, ROBERTA_LARGE),
        glue_tasks(scale, _TASKS, data, small=_SMALL),
    )
    return Recipe(
        name="figure6",
        title="AILoRA against reAILoRA",
        grids=tuple(grid(scale, task, methods=_METHODS, model=chosen, data=data) for task in tasks),
        figure="reverse",
        notes=(
            "The paper does not say which of reAILoRA's roles has twice the rate; here v, as in "
            "AILoRA.",
            "LoRA is not in the paper's figure.",
            *notes(scale, tasks, chosen),
        ),
    )
