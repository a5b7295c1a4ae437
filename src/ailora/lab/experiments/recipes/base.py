"""What a recipe is, and what several recipes share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ailora.errors import UserError
from ailora.lab.experiments.grid import Grid
from ailora.lab.experiments.recipes.budgets import budget
from ailora.lab.training import RunConfig
from ailora.lab.training.published import published

Scale = Literal["smoke", "small", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)

FOUR = ("lora", "pissa", "milora", "ailora")  # the methods that the paper compares throughout
ROBERTA_LARGE = "FacebookAI/roberta-large"
DEBERTA_V3_BASE = "microsoft/deberta-v3-base"
LLAMA_2_7B = "meta-llama/Llama-2-7b-hf"
BART_LARGE = "facebook/bart-large"
TOY = Path(__file__).parent / "toy"  # a few rows of our own for tasks that have no embedded data


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The runs behind one table or figure of the paper.

    Attributes:
        name: table1, figure3, ...
        title: What it shows, in one line.
        grids: The runs.
        beside: Name of the published table that the results stand beside; None for figures.
        figure: Name of the figure that is drawn from the runs; None for tables.
        texts: Task whose test texts forgetting is measured on; None where it is not.
        notes: What the paper leaves open and what was chosen, a line each.
    """

    name: str
    title: str
    grids: tuple[Grid, ...]
    beside: str | None = None
    figure: str | None = None
    texts: RunConfig | None = None
    notes: tuple[str, ...] = ()


def check_scale(scale: str) -> Scale:
    """The scale of that name.

    Raises:
        UserError: There is none.
    """
    for known in SCALES:
        if scale == known:
            return known
    raise UserError(f"scale {scale!r} is not known; there are {', '.join(SCALES)}")


def grid(
    scale: Scale,
    task: str,
    *,
    methods: Sequence[str],
    model: str,
    data: str | None,
    rates: Sequence[float] | None = None,
    seeds: int | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
    **changes: Any,
) -> Grid:
    """Methods on one task: every seed and rate of the scale.

    Args:
        scale: How much is done.
        task: Name of the task.
        methods: Names of methods.
        model: For the paper's scale one that settings are published for.
        data: Folder of the paper's tasks; None for the hub, or what is embedded.
        rates: Instead of the scale's.
        seeds: How many, instead of the scale's.
        axes: Further ones, by the name of a setting.
        changes: Settings instead of the scale's.
    """
    found = budget(scale, task, model)
    common = RunConfig(
        **{"model": model, "task": task, "data": data, **found.settings, **changes},
    )
    return Grid(
        common=replace(common, lr=(rates or found.rates)[0]),
        axes={
            **(axes or {}),
            "seed": tuple(range(seeds or found.seeds)),
            "lr": tuple(rates or found.rates),
            "method": tuple(methods),
        },
    )


def model_for(scale: Scale, given: str | None, of_paper: str) -> str:
    """The model given, else the paper's at its scale and the embedded one at the others."""
    return given or (of_paper if scale == "paper" else "demo")


def glue_tasks(
    scale: Scale, tasks: Sequence[str], data: str | None, *, small: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The tasks; for a smoke test the first, or without data the embedded one.

    Args:
        scale: How much is done.
        tasks: The paper's.
        data: Folder of the paper's tasks.
        small: At the small scale instead, where the embedded encoder learns none of the paper's.
    """
    if scale == "smoke":
        return tuple(tasks[:1]) if data else ("movies",)
    return tuple(small if small and scale == "small" else tasks)


def data_for(scale: Scale, data: str | None) -> str | None:
    """The folder given; for a smoke test without one the few rows that come with the package."""
    return str(TOY) if scale == "smoke" and data is None else data


def scale_notes(scale: Scale, tasks: Iterable[str], models: Iterable[str]) -> tuple[str, ...]:
    """What is to be known of a scale's settings, each line once."""
    if scale == "smoke":
        return ("smoke: a few rows and one seed; it shows that the path works and nothing else",)
    if scale == "small":
        return (
            "small: embedded models and a part of the rows; the published scores beside are of far "
            "larger models, so only the order of the methods can be compared",
            "small: the embedded encoder does not learn CoLA or RTE from so few rows; figures take "
            "SST-2 and STS-B instead",
        )
    notes: dict[str, None] = {}
    for model in models:
        for task in tasks:
            found = published(task, model)
            notes |= dict.fromkeys(found.notes)
            if found.unverified:
                names = ", ".join(sorted(found.unverified))
                notes[f"{task} on {model}: not verified are {names} (from memory)"] = None
    return tuple(notes)
