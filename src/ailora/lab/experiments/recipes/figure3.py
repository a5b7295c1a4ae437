"""Figure 3: training loss and accuracy along the epochs, RTE."""

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

_EPOCHS = {"smoke": 2, "small": 6, "paper": 20}


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Four methods on RTE for 20 epochs (fewer at the small scale), evaluated after each."""
    chosen, tasks = (
        model_for(scale, model, ROBERTA_LARGE),
        glue_tasks(scale, ["rte"], data, small=["sst2"]),
    )
    return Recipe(
        name="figure3",
        title="Convergence of LoRA, PiSSA, MiLoRA and AILoRA",
        grids=tuple(
            grid(scale, task, methods=FOUR, model=chosen, data=data, epochs=_EPOCHS[scale])
            for task in tasks
        ),
        figure="convergence",
        notes=(
            "The paper draws test accuracy; here the curve is of the selection split, since curves "
            "are looked at to choose.",
            "It says neither how many seeds nor which rates; both are those of Table 1, whose runs "
            "on RTE these are at the paper's scale.",
            *notes(scale, tasks, chosen),
        ),
    )
