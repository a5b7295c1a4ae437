"""Table 5: which projections to adapt within one budget, RoBERTa-large."""

from __future__ import annotations

from collections.abc import Sequence

from ailora.lab.experiments.grid import Grid
from ailora.lab.experiments.recipes.base import (
    ROBERTA_LARGE,
    Recipe,
    Scale,
    glue_tasks,
    grid,
    model_for,
    scale_notes,
)
from ailora.roles import RoleName

_TASKS = ("cola", "mrpc", "rte", "stsb")
_AILORA: Sequence[dict[RoleName, int]] = ({"q": 8, "v": 8},)
_LORA: Sequence[dict[RoleName, int]] = (
    {"q": 16},
    {"k": 16},
    {"v": 16},
    {"o": 16},
    {"q": 8, "k": 8},
    {"k": 8, "v": 8},
    {"q": 4, "k": 4, "v": 4, "o": 4},
)


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """AILoRA on q and v, and LoRA's start on everything else, at 0.79 million parameters."""
    chosen, tasks = model_for(scale, model, ROBERTA_LARGE), glue_tasks(scale, _TASKS, data)

    def ranks(task: str, method: str, settings: Sequence[dict[RoleName, int]]) -> Grid:
        axes = {"ranks": settings}
        return grid(scale, task, methods=[method], model=chosen, data=data, axes=axes)

    return Recipe(
        name="table5",
        title="Ranks by projection within one budget",
        grids=tuple(
            ranks(task, method, settings)
            for task in tasks
            for method, settings in (("ailora", _AILORA), ("lora", _LORA))
        ),
        beside="table5",
        notes=(
            "As in the paper, q with v starts as AILoRA does and all else as LoRA, so the table "
            "has no plain LoRA on q and v.",
            "The paper says neither how many seeds nor which rates; both are those of Table 1.",
            "Alpha is each role's own rank: the scale is 1 in every row.",
            *scale_notes(scale, tasks, [chosen]),
        ),
    )
