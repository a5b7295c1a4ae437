"""Table 6: four methods on summarisation, BART-large."""

from __future__ import annotations

from ailora.lab.experiments.recipes.base import (
    BART_LARGE,
    FOUR,
    Recipe,
    Scale,
    data_for,
    grid,
    model_for,
    scale_notes,
)

_TASKS = ("xsum", "cnn_dailymail")


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """XSum and CNN/DailyMail, four methods, each at its own best of the paper's three rates."""
    chosen, folder = model_for(scale, model, BART_LARGE), data_for(scale, data)
    tasks = _TASKS if scale == "paper" else _TASKS[:1]
    return Recipe(
        name="table6",
        title="LoRA, PiSSA, MiLoRA and AILoRA on summarisation",
        grids=tuple(grid(scale, task, methods=FOUR, model=chosen, data=folder) for task in tasks),
        beside="table6",
        notes=(
            "The paper does not say how many seeds, nor which split it scores; here five, and the "
            "test split.",
            "The rate is chosen by ROUGE-1 on the selection split.",
            "Below the paper's scale the model is the embedded decoder, since no encoder-decoder "
            "comes without a model hub, and CNN/DailyMail is left out.",
            *scale_notes(scale, tasks, [chosen]),
        ),
    )
