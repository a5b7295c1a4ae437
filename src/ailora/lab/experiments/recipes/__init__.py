"""Recipes: the runs behind each table and figure of the paper, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Protocol

from ailora.errors import UserError
from ailora.lab.experiments.recipes import (
    figure1,
    figure3,
    figure4,
    figure5,
    figure6,
    figure7,
    figure8,
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
)
from ailora.lab.experiments.recipes.base import SCALES, Recipe, Scale, check_scale

__all__ = ["RECIPES", "SCALES", "Recipe", "Scale", "check_scale", "recipe_named"]


class Cook(Protocol):
    """What each module here has under the name ``recipe``."""

    def __call__(
        self, scale: Scale, *, data: str | None = None, model: str | None = None
    ) -> Recipe:
        """The recipe at a scale, on a folder of data and a model, where those are given."""
        ...


RECIPES: Mapping[str, Cook] = {
    "table1": table1.recipe,
    "table2": table2.recipe,
    "table3": table3.recipe,
    "table4": table4.recipe,
    "table5": table5.recipe,
    "table6": table6.recipe,
    "figure1": figure1.recipe,
    "figure3": figure3.recipe,
    "figure4": figure4.recipe,
    "figure5": figure5.recipe,
    "figure6": figure6.recipe,
    "figure7": figure7.recipe,
    "figure8": figure8.recipe,
}


def recipe_named(name: str) -> Cook:
    """The recipe of that name.

    Raises:
        UserError: There is none; Figure 2 is a drawing of the method.
    """
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no recipe is called {name!r}: {hint}there are {', '.join(RECIPES)}")
    return RECIPES[name]
