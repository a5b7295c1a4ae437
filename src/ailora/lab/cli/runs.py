"""``ailora runs``: what a folder of runs holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailora.lab.experiments.store import Store, Stored

_STATES = ("finished", "running", "failed", "interrupted", "unknown")
_PRUNED = ("failed", "interrupted", "unknown")
_NUMBERS = {"show": 1, "compare": 2}


def runs(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="Folder of runs: --out of train or sweep.")
    ],
    action: Annotated[
        str, typer.Argument(metavar="[list|show|compare|prune]", help="What to do.")
    ] = "list",
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="One run to show, two to compare; a part will do."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only runs with this setting, as key=value; may be given again."),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(help="Only finished, running, failed, interrupted or unknown ones."),
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
    from ailora.lab.cli.run_tables import compare_runs, list_runs, show_run
    from ailora.lab.experiments import Store

    if not store.is_dir():
        raise UserError(f"{store}: no such folder; give one that train, sweep or compare made")
    if state is not None and state not in _STATES:
        raise UserError(f"--state {state!r}: must be {', '.join(_STATES)}")
    given = ids or []
    if len(given) != _NUMBERS.get(action, 0):
        raise UserError(f"{action} takes {_NUMBERS.get(action, 0)} names of runs, not {len(given)}")
    found = _chosen(Store(store).runs(), where or [], state)
    if action == "list":
        list_runs(found, as_json)
    elif action == "show":
        show_run(_named(given[0], found), as_json)
    elif action == "compare":
        compare_runs(_named(given[0], found), _named(given[1], found), as_json)
    elif action == "prune":
        _prune(Store(store), found, yes, dry_run)
    else:
        raise UserError(f"{action!r} is none of list, show, compare, prune")


def _chosen(found: Sequence[Stored], where: Sequence[str], state: str | None) -> list[Stored]:
    from ailora.lab.experiments.grid import SETTINGS, check_name

    pairs = []
    for condition in where:
        name, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where {condition!r}: write it as key=value, such as method=ailora")
        check_name(name.partition(".")[0], SETTINGS, "--where ")
        pairs.append((name, value))
    return [
        run
        for run in found
        if state in (None, run.state) and all(_has(run.config, *pair) for pair in pairs)
    ]


def _has(config: Mapping[str, Any], name: str, value: str) -> bool:
    """Whether a setting, ``generation.num_beams`` among them, is what was typed."""
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


def _prune(store: Store, found: Sequence[Stored], yes: bool, dry_run: bool) -> None:
    from ailora.cli.console import console

    doomed = [run for run in found if run.state in _PRUNED]
    for run in doomed:
        console.print(f"{run.run_id}  {run.state}", highlight=False, markup=False, soft_wrap=True)
    if not doomed or dry_run:
        console.print(f"{len(doomed)} runs would be deleted", highlight=False)
        return
    if not yes and not typer.confirm(f"Delete these {len(doomed)} runs?"):
        raise typer.Exit(1)
    for run in doomed:
        store.remove(run.run_id)
    console.print(f"{len(doomed)} runs deleted", highlight=False)
