"""``ailora runs``: what a folder of runs holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ailora.lab.experiments.store import Store, Stored

_STATES = ("finished", "running", "failed", "interrupted", "damaged", "unknown")
_PRUNED = ("failed", "interrupted", "unknown")
_NUMBERS = {"show": 1, "compare": 2}


def runs(
    store: Annotated[
        Path,
        typer.Argument(metavar="STORE", help="Folder of runs: --out of train, sweep, compare."),
    ],
    action: Annotated[
        str, typer.Argument(metavar="[list|show|compare|prune]", help="What to do.")
    ] = "list",
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID]...", help="One run to show or two to compare; a part of each will do."
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only runs with this setting, as key=value; may be given again."),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(help="Only finished, running, failed, interrupted, damaged or unknown ones."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Prune without asking.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print what prune would delete.")] = False,
) -> None:
    """List the runs of a folder, show or compare some, or delete those that came to nothing.

    prune deletes failed, interrupted and unknown runs, or those of one --state of these.

    Examples: `ailora runs sweep` · `ailora runs sweep --where method=ailora --state failed` ·
    `ailora runs sweep show 3fa9c1` · `ailora runs sweep compare 3fa9c1 88ab02` ·
    `ailora runs sweep prune --dry-run`
    """
    from ailora.lab.experiments import Store
    from ailora.lab.experiments.store import uncollected

    if not store.is_dir():
        raise UserError(f"{store}: no such folder; give one that train, sweep or compare made")
    if state is not None and state not in _STATES:
        raise UserError(f"--state {state!r}: must be {', '.join(_STATES)}")
    given = ids or []
    if len(given) != _NUMBERS.get(action, 0):
        raise UserError(f"{action} takes {_NUMBERS.get(action, 0)} names of runs, not {len(given)}")
    kept = Store.within(store)
    found = _chosen(kept.runs(), where or [], state)
    if action == "list":
        with uncollected():
            _list(found, as_json)
    elif action == "show":
        _show(_named(given[0], found), as_json)
    elif action == "compare":
        _compare(_named(given[0], found), _named(given[1], found), as_json)
    elif action == "prune":
        _prune(kept, found, yes, dry_run)
    else:
        raise UserError(f"{action!r} is none of list, show, compare, prune")


def _chosen(found: Sequence[Stored], where: Sequence[str], state: str | None) -> list[Stored]:
    from ailora.lab.settings import check_name

    pairs = []
    for condition in where:
        name, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where {condition!r}: write it as key=value, such as method=ailora")
        check_name(name.partition(".")[0], where="--where ")
        pairs.append((name, value))
    return [
        run
        for run in found
        if state in (None, run.state) and all(_has(run.config, *pair) for pair in pairs)
    ]


def _has(config: Mapping[str, Any], name: str, value: str) -> bool:
    """Whether a setting, such as ``ranks.q``, has the value that was typed."""
    found: Any = config
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    if isinstance(found, int | float) and not isinstance(found, bool):
        try:
            return float(value) == found
        except ValueError:
            return False
    return str(found).lower() == value.lower()


def _named(part: str, found: Sequence[Stored]) -> Stored:
    """The one run whose name has this part."""
    fits = [run for run in found if run.run_id == part] or [
        run for run in found if part in run.run_id
    ]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise UserError(f"{part!r} is a part of {len(fits)} names; give more of it")
    raise UserError(f"no run is called {part!r}; 'ailora runs STORE' lists them")


def _list(found: Sequence[Stored], as_json: bool) -> None:
    """One line per run, and how many there are in each state."""
    from ailora.cli.console import console, show

    if as_json:
        _print_json([_as_json(run) for run in found])
        return
    varied = _varied(found)
    table = _run_table(found, varied)
    show(table, whole=("run", "state", "score"), drop=(*varied, "seed", "lr"))
    states: Counter[str] = Counter(run.state for run in found)
    counted = ", ".join(f"{states[state]} {state}" for state in _STATES if states[state])
    console.print(counted or "no runs", highlight=False)


def _run_table(found: Sequence[Stored], varied: Sequence[str]) -> Table:
    from rich.table import Table

    from ailora.cli.console import literal
    from ailora.lab.cli.words import result_words
    from ailora.lab.experiments.wording import setting_words

    reasons = any(map(_reason, found))
    table = Table()
    for column in ("run", "state", *varied, "lr", "seed", "score", *["reason"] * reasons):
        table.add_column(column, overflow="fold")
    for run in found:
        settings = [setting_words(run.config, name) for name in (*varied, "lr", "seed")]
        score = result_words(run.result) if run.result else ""
        ended = (score, *[_reason(run)] * reasons)
        table.add_row(*map(literal, (run.run_id, run.state, *settings, *ended)))
    return table


def _varied(found: Sequence[Stored]) -> list[str]:
    from ailora.lab.experiments.best_rates import varied

    return varied([run.config for run in found if run.config])


def _reason(run: Stored) -> str:
    """Why a run has no score, or who is working on it."""
    from ailora.lab.cli.words import result_words

    return result_words(run.failure) if run.failure else run.damage or str(run.owner or "")


def _as_json(run: Stored) -> dict[str, Any]:
    """A run without its curve, for JSON."""
    return {
        "id": run.run_id,
        "state": run.state,
        "config": dict(run.config),
        "metrics": run.result["metrics"] if run.result else None,
        "failure": {"kind": run.failure.kind, "reason": run.failure.reason}
        if run.failure
        else None,
        "damage": run.damage or None,
        "owner": str(run.owner) if run.owner else None,
    }


def _show(run: Stored, as_json: bool) -> None:
    """A run's settings, its scores or why it has none."""
    from ailora.cli.console import say
    from ailora.lab.cli.words import result_words
    from ailora.lab.experiments.wording import metric_label, value_words

    if as_json:
        _print_json(_as_json(run) | {"result": run.result})
        return
    lines = [f"{run.run_id}  {run.state}  {run.owner or ''}".rstrip()]
    lines += [
        f"  {name}: {value_words(value)}" for name, value in run.config.items() if value is not None
    ]
    for split, scores in (run.result["metrics"] if run.result else {}).items():
        data = run.result["data"] if run.result else {}
        words = "  ".join(
            f"{metric_label(data, metric)} {score:.4f}" for metric, score in scores.items()
        )
        lines.append(f"  {split}: {words}")
    if run.damage:
        lines.append(f"  {run.damage}")
    if run.failure is not None:
        lines += [f"  {result_words(run.failure)}", run.failure.details]
    for line in lines:
        say(line)


def _compare(first: Stored, second: Stored, as_json: bool) -> None:
    """The settings and scores that differ between two runs."""
    from rich.table import Table
    from rich.text import Text

    from ailora.cli.console import show
    from ailora.lab.experiments.wording import value_words

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
        scored = name.startswith(("selection ", "test "))
        words = ("-" if v is None else f"{v:.4f}" if scored else value_words(v) for v in values)
        table.add_row(*map(Text, (name, *words)))
    show(table, whole=("",))


def _flat(run: Stored) -> dict[str, Any]:
    """Settings, state and scores under one name each."""
    from ailora.lab.experiments.wording import metric_label

    flat = dict(run.config) | {"state": run.state}
    for split, scores in (run.result["metrics"] if run.result else {}).items():
        data = run.result["data"] if run.result else {}
        flat |= {f"{split} {metric_label(data, metric)}": score for metric, score in scores.items()}
    return flat


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2))


def _prune(store: Store, found: Sequence[Stored], yes: bool, dry_run: bool) -> None:
    from ailora.cli.console import console, say
    from ailora.lab.experiments.wording import counted

    doomed = [run for run in found if run.state in _PRUNED]
    for run in doomed:
        say(f"{run.run_id}  {run.state}")
    if not doomed or dry_run:
        console.print(f"{counted(len(doomed), 'run')} would be deleted", highlight=False)
        return
    if not yes and not typer.confirm(f"Delete {counted(len(doomed), 'run')}?"):
        raise typer.Exit(1)
    for run in doomed:
        store.remove(run.run_id)
    console.print(f"{counted(len(doomed), 'run')} deleted", highlight=False)
