"""Recipes: the runs behind each table and figure of the paper, which ``recipes.toml`` lists."""

from ailora.lab.experiments.recipes.recipe import (
    RECIPES,
    SCALES,
    TOY,
    Recipe,
    Scale,
    check_scale,
    make_recipe,
)

__all__ = ["RECIPES", "SCALES", "TOY", "Recipe", "Scale", "check_scale", "make_recipe"]
