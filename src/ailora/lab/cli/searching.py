"""What ``ailora sweep --search`` shows: the plan, the runs as they end, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ailora.cli.console import console
from ailora.cli.narrow import Fitted
from ailora.lab.cli.words import result_words, run_words
from ailora.lab.experiments.best_rates import varied
from ailora.lab.experiments.jobs import Ended, Event
from ailora.lab.experiments.search import Found, Search, search_runs, settings_of
from ailora.lab.experiments.store import Store
from ailora.lab.experiments.sweep import Engine
from ailora.lab.experiments.wording import counted, metric_label, value_words
from ailora.lab.settings import RunConfig


def plan_words(runs: Sequence[RunConfig], search: Search, trials: int) -> str:
    """How many runs the search may come to, and where its points come from."""
    settings = settings_of(runs, search)
    most = trials * sum(len(seeds) for _, seeds in settings)
    return (
        f"{counted(trials, 'trial')} for each of {counted(len(settings), 'setting')}, of "
        f"{', '.join(search.space)}: at most {counted(most, 'run')}, fewer where trials are pruned"
    )


def searched(
    runs: Sequence[RunConfig], search: Search, trials: int, store: Store, engine: Engine
) -> list[Found]:
    """Search, and say each run as it ends; in a terminal a bar counts the trials."""
    names = [*varied([asdict(run) for run in runs]), *(n for n in search.space if n != "lr")]
    said: set[str] = set()

    def tell(event: Event) -> None:
        if isinstance(event, Ended) and not event.before and event.job.run_id not in said:
            said.add(event.job.run_id)
            words = f"{run_words(asdict(event.job.config), names)}  {result_words(event.result)}"
            console.print(words, highlight=False, markup=False, soft_wrap=True)

    columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task("trials", total=None)
        return search_runs(
            runs,
            search,
            trials,
            store,
            engine,
            on_event=tell,
            on_round=lambda ended, all_: bar.update(shown, completed=ended, total=all_),
        )


def found_shown(found: Sequence[Found], search: Search) -> Fitted:
    """One line per setting: the best point, its scores, and how its trials ended."""
    names = varied([asdict(one.config) for one in found])
    space = [name for name in search.space if name not in names]
    table = Table(title="best points", title_justify="left", caption_justify="left")
    table.caption = "chosen by the selection scores; test scores chose nothing"
    for name in (*names, *space):
        table.add_column(name, overflow="fold")
    for name in ("seeds", "metric", "selection", "test", "trials"):
        table.add_column(name, justify="left" if name in ("metric", "trials") else "right")
    for one in found:
        settings = [value_words(getattr(one.config, name)) for name in names]
        point = [value_words((one.best or {}).get(name, "-")) for name in space]
        tried = ", ".join(f"{number} {state}" for state, number in one.tried.items()) or "none"
        table.add_row(*map(Text, (*settings, *point, *_scores(one), tried)))
    return Fitted(table, whole=(*names, *space, "test"), drop=("trials", "seeds", "metric"))


def _scores(found: Found) -> tuple[str, ...]:
    seeds = str(len(found.seeds))
    runs = found.runs
    if not runs:
        return seeds, "-", "-", "-"
    data = runs[0]["data"]
    means = (
        fmean(run["metrics"][split][data["metric"]] for run in runs)
        for split in ("selection", "test")
    )
    return (seeds, metric_label(data), *(f"{mean:.4f}" for mean in means))
