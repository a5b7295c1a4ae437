"""Table 2: four methods on SQuAD v1.1 and v2.0, RoBERTa-large."""

from __future__ import annotations

from ailora.lab.experiments.recipes.base import (
    FOUR,
    ROBERTA_LARGE,
    Recipe,
    Scale,
    data_for,
    grid,
    model_for,
    scale_notes,
)

_TASKS = ("squad_v1", "squad_v2")


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Both versions, four methods, each at its own best of the paper's four rates."""
    chosen, folder = model_for(scale, model, ROBERTA_LARGE), data_for(scale, data)
    return Recipe(
        name="table2",
        title="LoRA, PiSSA, MiLoRA and AILoRA on SQuAD",
        grids=tuple(grid(scale, task, methods=FOUR, model=chosen, data=folder) for task in _TASKS),
        beside="table2",
        notes=(
            "The rate is chosen by F1; the paper does not say whether by F1 or exact match.",
            *scale_notes(scale, _TASKS, [chosen]),
        ),
    )
