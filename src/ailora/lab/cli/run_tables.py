"""Runs of a folder, printed: a list, one of them, or two side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import typer
from rich.table import Table
from rich.text import Text

from ailora.cli.console import console
from ailora.lab.cli.words import result_words, value_words
from ailora.lab.experiments.standings import varied
from ailora.lab.experiments.store import State, Stored


def list_runs(found: Sequence[Stored], as_json: bool) -> None:
    """A line a run, and how many there are in each state."""
    if as_json:
        _print_json([_row(run) for run in found])
        return
    console.print(_table(found))
    states = Counter(run.state for run in found)
    counted = ", ".join(f"{states[state]} {state}" for state in get_args(State) if states[state])
    console.print(counted or "no runs", highlight=False)


def _table(found: Sequence[Stored]) -> Table:
    names = varied([run.config for run in found if run.config])
    table = Table()
    for column in ("run", "state", *names, "lr", "seed", "score or reason"):
        table.add_column(column, overflow="fold")
    for run in found:
        ended = run.result or run.failure
        words = result_words(ended) if ended else str(run.owner or "")
        settings = [value_words(run.config.get(name, "")) for name in (*names, "lr", "seed")]
        table.add_row(*map(Text, (run.run_id, run.state, *settings, words)))
    return table


def _row(run: Stored) -> dict[str, Any]:
    """A run without its curve."""
    return {
        "id": run.run_id,
        "state": run.state,
        "config": dict(run.config),
        "metrics": run.result["metrics"] if run.result else None,
        "failure": {"kind": run.failure.kind, "reason": run.failure.reason}
        if run.failure
        else None,
        "owner": str(run.owner) if run.owner else None,
    }


def show_run(run: Stored, as_json: bool) -> None:
    """A run's settings, its scores or why it has none."""
    if as_json:
        _print_json(_row(run) | {"result": run.result})
        return
    lines = [f"{run.run_id}  {run.state}  {run.owner or ''}".rstrip()]
    lines += [f"  {name}: {value}" for name, value in run.config.items() if value is not None]
    for split, scores in (run.result["metrics"] if run.result else {}).items():
        words = "  ".join(f"{metric} {score:.4f}" for metric, score in scores.items())
        lines.append(f"  {split}: {words}")
    if run.failure is not None:
        lines += [f"  {result_words(run.failure)}", run.failure.details]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def compare_runs(first: Stored, second: Stored, as_json: bool) -> None:
    """The settings and scores that differ between two runs."""
    sides = [_flat(run) for run in (first, second)]
    differing = {
        name: [side.get(name) for side in sides]
        for name in dict.fromkeys([*sides[0], *sides[1]])
        if sides[0].get(name) != sides[1].get(name)
    }
    if as_json:
        _print_json({"runs": [first.run_id, second.run_id], "differing": differing})
        return
    table = Table(title="what differs")
    for column in ("", first.run_id, second.run_id):
        table.add_column(column, overflow="fold")
    for name, values in differing.items():
        words = (f"{v:.4f}" if name.startswith(("selection ", "test ")) else str(v) for v in values)
        table.add_row(*map(Text, (name, *words)))
    console.print(table)


def _flat(run: Stored) -> dict[str, Any]:
    """Settings, state and scores under one name each."""
    flat = dict(run.config) | {"state": run.state}
    for split, scores in (run.result["metrics"] if run.result else {}).items():
        flat |= {f"{split} {metric}": score for metric, score in scores.items()}
    return flat


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2))
