"""Runs, settings and times in words, as the commands about many runs say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ailora.lab.experiments.wording import metric_label, number_words, setting_words, value_words

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.lab.experiments.grid import Grid
    from ailora.lab.experiments.store import Failure


def run_words(config: Mapping[str, Any], names: Sequence[str]) -> str:
    """A run by its method, what else differs (``names``), rate and seed."""
    others = "".join(f"  {name} {value_words(config[name])}" for name in names if name != "method")
    method, rate = setting_words(config, "method"), number_words(config["lr"])
    return f"{method:<9}{others}  lr {rate:<7} seed {config['seed']}"


def result_words(result: dict[str, Any] | Failure) -> str:
    """How a run ended: its test score, or the reason that it has none."""
    if not isinstance(result, dict):
        return f"failed ({result.kind}): {result.reason}"
    metric = result["data"]["metric"]
    return f"test {metric_label(result['data'])} {result['metrics']['test'][metric]:.4f}"


def plan_table(title: str, grids: Sequence[Grid], caption: str) -> Table:
    """One line per grid: its model and task, what is varied, and the number of runs."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", caption=caption, caption_justify="left")
    for column in ("model", "task", "varied"):
        table.add_column(column, overflow="fold")
    table.add_column("runs", justify="right")
    for grid in grids:
        axes = {name: ", ".join(map(value_words, values)) for name, values in grid.axes.items()}
        varied = "\n".join(f"{name}: {values}" for name, values in axes.items()) or "nothing"
        model, task = axes.get("model", grid.common.model), axes.get("task", grid.common.task)
        table.add_row(*map(Text, (model, task, varied, str(sum(1 for _ in grid.runs())))))
    return table
