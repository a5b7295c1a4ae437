"""Figure 5: ranks from 1 to 32 on CoLA."""

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

_RANKS = {"smoke": (1, 4), "small": (1, 2, 4, 8, 16, 32), "paper": (1, 2, 4, 8, 16, 32)}
_EPOCHS = {"smoke": 1, "small": 3, "paper": 20}


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Four methods at six ranks: last training loss, and Matthews correlation."""
    chosen, tasks = (
        model_for(scale, model, ROBERTA_LARGE),
        glue_tasks(scale, ["cola"], data, small=["sst2"]),
    )
    return Recipe(
        name="figure5",
        title="LoRA, PiSSA, MiLoRA and AILoRA by rank",
        grids=tuple(
            grid(
                scale,
                task,
                methods=FOUR,
                model=chosen,
                data=data,
                axes={"rank": _RANKS[scale]},
                epochs=_EPOCHS[scale],
            )
            for task in tasks
        ),
        figure="ranks",
        notes=(
            "The paper does not name the ranks between 1 and 32; here powers of two.",
            "It states no alpha: here alpha is the rank, so that the scale is 1 at each.",
            "It says neither how many seeds nor which rates; both are those of Table 1.",
            *notes(scale, tasks, chosen),
        ),
    )
