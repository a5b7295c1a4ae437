"""Table 4: AILoRA beside full fine-tuning and five other methods, RoBERTa-large."""

from __future__ import annotations

from ailora.lab.experiments.recipes.base import (
    ROBERTA_LARGE,
    Recipe,
    Scale,
    glue_tasks,
    grid,
    model_for,
    scale_notes,
)
from ailora.lab.experiments.recipes.rates import NOTES, rates_of

_TASKS = ("cola", "mrpc", "rte", "stsb")
_METHODS = ("full", "houlsby", "bitfit", "dora", "rslora", "vera", "ailora")


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Four sets of GLUE, seven methods; those that need other rates have their own grid."""
    chosen, tasks = model_for(scale, model, ROBERTA_LARGE), glue_tasks(scale, _TASKS, data)
    return Recipe(
        name="table4",
        title="AILoRA beside full fine-tuning, Adapter, BitFit, DoRA, rsLoRA and VeRA",
        grids=tuple(
            grid(
                scale,
                task,
                methods=[method],
                model=chosen,
                data=data,
                rates=rates_of(method, scale),
            )
            for task in tasks
            for method in _METHODS
        ),
        beside="table4",
        notes=(
            *NOTES,
            "rsLoRA's alpha is the rank, so its scale is the square root of the rank.",
            "VeRA's classifier learns at VeRA's own rate; its authors give it another one.",
            *scale_notes(scale, tasks, [chosen]),
        ),
    )
