"""What training did to the weights: how far each of them moved, and in how many directions.

Run it:  python examples/analyse_run.py
The same on the command line:
    ailora train --limit 1000 --eval-limit 300 --epochs 1
    ailora analyze runs/RUN
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ailora.lab.analysis.layers import LayerRow, flat, layer_rows
from ailora.lab.analysis.runs import read_run
from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train

MEASURES = {"relative": "||dW|| / ||W||", "effective_rank": "effective rank of dW"}


def by_layer(rows: Sequence[LayerRow]) -> pd.DataFrame:
    """One line per layer, one column per measure and role."""
    table = pd.DataFrame([flat(row) for row in rows])
    return table.pivot_table(index="layer", columns="role", values=["norm", *MEASURES])


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw each measure over the layers, a line for each role."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, (measure, title) in zip(figure.subplots(1, 2), MEASURES.items(), strict=True):
        table[measure].plot(ax=axes, title=title, marker="o")
        axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=150)


def main(model: str, task: str, out: Path) -> None:
    """Train a short run, print what it did to the weights, and save a figure of it."""
    config = RunConfig(model=model, task=task, limit=1000, eval_limit=300, epochs=1)
    data = load_task(config.task, **config.task_options())
    result = train(config, data, out)
    run = read_run(out / config.run_id(data.name, data.fingerprint))
    table = by_layer(layer_rows(run.changes, with_intruders=False))
    print(f"{run.method} on {run.task}: {result['metrics']['test']}")
    print(table.to_string(float_format="{:.4f}".format))
    draw(table, out / "what_moved.png")
    print(f"figure: {out / 'what_moved.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="an encoder: a folder or a hub name")
    parser.add_argument("--task", default="movies", help="or a table with text and label")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs")
    main(**vars(parser.parse_args()))
