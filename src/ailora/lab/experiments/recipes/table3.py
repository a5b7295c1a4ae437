"""Table 3: four methods on arithmetic, LLaMA-2-7B."""

from __future__ import annotations

from ailora.lab.experiments.recipes.base import (
    FOUR,
    LLAMA_2_7B,
    Recipe,
    Scale,
    data_for,
    grid,
    model_for,
    scale_notes,
)

_TASKS = ("arithmetic",)
_TOKENS = {"smoke": 96, "small": 512, "paper": 512}


def recipe(scale: Scale, *, data: str | None = None, model: str | None = None) -> Recipe:
    """Trained on worked solutions, tested on five sets of problems."""
    chosen, folder = model_for(scale, model, LLAMA_2_7B), data_for(scale, data)
    return Recipe(
        name="table3",
        title="LoRA, PiSSA, MiLoRA and AILoRA on arithmetic",
        grids=tuple(
            grid(
                scale,
                task,
                methods=FOUR,
                model=chosen,
                data=folder,
                max_length=_TOKENS[scale],
            )
            for task in _TASKS
        ),
        beside="table3",
        notes=(
            "The paper trains on Math10K, which holds problems of three of its five tests; here "
            "training is on GSM8K and MAWPS, without problems of any test.",
            "LLM-Adapters cuts rows after 256 tokens, answers too; here solutions stay whole, and "
            "GSM8K's need up to 512.",
            *scale_notes(scale, _TASKS, [chosen]),
        ),
    )
