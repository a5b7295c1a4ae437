"""Tables and figures of the paper as runs: ``recipes.toml`` at a scale of ``scales.toml``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ailora.errors import UserError, instead
from ailora.lab.experiments.grid import Grid
from ailora.lab.settings import RunConfig
from ailora.lab.training.published import published

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Scale = Literal["smoke", "small", "paper"]
_Table = Mapping[str, Any]

_FOLDER = Path(__file__).parent
_RECIPES: _Table = tomllib.loads((_FOLDER / "recipes.toml").read_text(encoding="utf-8"))
_SCALES: _Table = tomllib.loads((_FOLDER / "scales.toml").read_text(encoding="utf-8"))

SCALES: tuple[Scale, ...] = get_args(Scale)
RECIPES = tuple(_RECIPES)
TOY = _FOLDER / "toy"  # a few rows of our own for tasks that have no embedded data


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
        notes: What the paper leaves open and what was chosen, one line each.
    """

    name: str
    title: str
    grids: tuple[Grid, ...]
    beside: str | None = None
    figure: str | None = None
    texts: RunConfig | None = None
    notes: tuple[str, ...] = ()


def make_recipe(
    name: str, scale: Scale, *, data: str | None = None, model: str | None = None
) -> Recipe:
    """The recipe of a table or figure.

    Args:
        name: One of `RECIPES`.
        scale: How much is done.
        data: Folder of the paper's tasks; by default what is embedded, or the hub.
        model: Instead of the scale's; at the paper's scale one that settings are published for.

    Raises:
        UserError: There is no such recipe (Figure 2 is a drawing of the method), or nothing is
            published for a task on the model.
    """
    made = _at_scale(_named(name), scale, data)
    models = (model,) if model else tuple(made["models"]) if scale == "paper" else ("demo",)
    if scale == "smoke" and data is None and "embedded" not in made:
        data = str(TOY)
    forget = None if "runs_of" in made else made.get("forget")
    return Recipe(
        name=name,
        title=made["title"],
        grids=tuple(
            _grid(made, part, scale, RunConfig(model=one, task=task, data=data))
            for one in models
            for task in made["tasks"]
            for part in made["grids"]
        ),
        beside=None if "figure" in made else name,
        figure=made.get("figure"),
        texts=RunConfig(model=models[0], task=forget, data=data) if forget else None,
        notes=(*made["notes"], *_notes(made, scale, models)),
    )


def check_scale(scale: str) -> Scale:
    """The scale of that name.

    Raises:
        UserError: There is none.
    """
    for known in SCALES:
        if scale == known:
            return known
    raise UserError(f"scale {scale!r} is not known; there are {', '.join(SCALES)}")


def _named(name: str) -> _Table:
    if name not in _RECIPES:
        raise UserError(f"no recipe is called {name!r}: {instead(name, RECIPES)}")
    found: _Table = _RECIPES[name]
    if "runs_of" not in found:
        return found
    other: _Table = _RECIPES[found["runs_of"]]
    return {**other, **found, "notes": [*found["notes"], *other["notes"]]}


def _at_scale(recipe: _Table, scale: Scale, data: str | None) -> _Table:
    """The recipe with what it says of the scale laid over the rest."""
    own = recipe.get(scale, {})
    if scale == "smoke" and data is None:
        own = {**own, **recipe.get("embedded", {})}
    return {**recipe, **own}


def _grid(recipe: _Table, part: _Table, scale: Scale, base: RunConfig) -> Grid:
    """Methods on one task: every seed and rate of the scale."""
    amount = _amount(recipe, scale)
    rates, seeds, settings = _published(base) if scale == "paper" else _chosen(base, amount)
    rates = amount["rates"].get(part["methods"][0], rates)
    settings = {**settings, **recipe.get("settings", {}), "lr": rates[0]}
    return Grid(
        common=RunConfig(model=base.model, task=base.task, data=base.data, **settings),
        axes={
            **part.get("axes", {}),
            "seed": tuple(range(seeds)),
            "lr": tuple(rates),
            "method": tuple(part["methods"]),
        },
    )


def _amount(recipe: _Table, scale: Scale) -> _Table:
    """What ``scales.toml`` says of the scale: at the small one a figure is less than a table."""
    name = "small_figures" if scale == "small" and "figure" in recipe else scale
    found: _Table = _SCALES[name]
    return found


def _published(run: RunConfig) -> tuple[Sequence[float], int, dict[str, Any]]:
    """Rates, number of seeds and other settings of the paper for a task on a model."""
    found = published(run.task, run.model)
    # No alpha is the rank, as is published. Said so, the scale stays 1 at other ranks too, and
    # tables and figures that have a run in common share it.
    return found.rates, found.seeds, {**found.settings, "lora_alpha": None}


def _chosen(run: RunConfig, amount: _Table) -> tuple[Sequence[float], int, dict[str, Any]]:
    """The same as chosen here for the kind of task."""
    settings = dict(amount[_SCALES["kinds"].get(run.task, "classification")])
    return settings.pop("rates"), settings.pop("seeds"), settings


def _notes(recipe: _Table, scale: Scale, models: Iterable[str]) -> tuple[str, ...]:
    """Notes on the methods' rates and on the scale's settings, each once."""
    methods = {method for part in recipe["grids"] for method in part["methods"]}
    notes = {note: None for method, note in _SCALES["rate_notes"].items() if method in methods}
    if scale != "paper":
        more = (*_SCALES[scale]["notes"], *_amount(recipe, scale)["notes"])
        return tuple(notes | dict.fromkeys(more))
    for model in models:
        for task in recipe["tasks"]:
            found = published(task, model)
            notes |= dict.fromkeys(found.notes)
            if found.unverified:
                names = ", ".join(sorted(found.unverified))
                notes[f"{task} on {model}: not verified are {names} (from memory)"] = None
    return tuple(notes)
