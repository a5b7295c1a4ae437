"""What given runs hold, as the parts of a report: texts and tables, before any page."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ailora.lab.experiments.best_rates import at_best_rates
from ailora.lab.experiments.store import State, Stored
from ailora.lab.experiments.sweep import Agenda
from ailora.lab.experiments.sweep_file import sweep_file_text
from ailora.lab.experiments.wording import duration, number_words, setting_words, value_words
from ailora.lab.methods.variants import note_of, order_of, variant_of
from ailora.lab.report.comparison import (
    Comparison,
    Run,
    listed,
    method_of,
    name_of,
    score_of,
)
from ailora.lab.report.published import TABLES, paper_table
from ailora.lab.report.score_lines import Setting, conclusions, lines_of, settings_of
from ailora.lab.report.score_table import ScoreTable, laid_out, score_table
from ailora.lab.report.text_tables import Rows

FAILED_HEADER = ["run", "state", "method", "lr", "seed", "why"]
RUN_HEADER = ["run", "model", "task", "setting", "lr", "seed", "selection", "test", "seconds"]
_NEEDED = (
    *("config", "data", "metrics", "majority", "history", "parameters", "seconds"),
    *("step0_deviation", "updates", "environment"),
)
DONE_HEADER = [
    "model",
    "task",
    "methods",
    "ranks",
    "rates",
    "seeds",
    "epochs",
    "rows per step",
    "rows",
]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The methods of one model and task that share all other settings.

    Attributes:
        name: Name of its folder of figures and of links to it: short, letters and digits alone.
        title: Its task, model and the settings that differ from other parts.
        comparison: Comparison of its runs.
    """

    name: str
    title: str
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class StoreReport:
    """The parts of a report, as texts and tables.

    Attributes:
        title: Title of the report.
        states: Number of runs in each state.
        ahead: How many more runs the last sweep is to do, and for how long; empty without any.
        done: What was run, one row per model and task.
        scores: Tables of scores, one per model.
        conclusions: Sentences on what the scores allow to be said.
        parts: Comparisons, one per model, task and variant.
        methods: What each method starts from or trains, by its label.
        published: Tables of the paper that the runs have a score in, with both.
        unfinished: Runs that failed, are running, were cut off, or have a damaged result.
        runs: Every finished run; those at a rate that was not chosen are marked.
        results: Contents of their result.json, by model, task, method, rank, rate and seed.
        plan: The sweep file that does them again, and tries those that failed.
    """

    title: str
    states: Mapping[State, int]
    ahead: str
    done: Rows
    scores: Sequence[ScoreTable]
    conclusions: Sequence[str]
    parts: Sequence[Part]
    methods: Mapping[str, str]
    published: Sequence[ScoreTable]
    unfinished: Rows
    runs: Rows
    results: Sequence[Run]
    plan: str

    @property
    def counted(self) -> str:
        """How many runs there are, in words."""
        return ", ".join(filter(None, (states_words(self.states), self.ahead))) or "no runs"


def states_words(states: Mapping[State, int]) -> str:
    """``3 finished, 1 running``; empty without runs."""
    return ", ".join(f"{states[one]} {one}" for one in get_args(State) if states.get(one))


def store_report(
    stored: Sequence[Stored], title: str = "", *, agenda: Agenda | None = None
) -> StoreReport:
    """Make the report of runs, in whatever state they are.

    Args:
        stored: The runs, from `ailora.lab.experiments.Store`.
        title: Title of the report; by default the methods' labels.
        agenda: What a sweep that may still be going on is to do.
    """
    results = {
        run.run_id: run.result
        for run in sorted(stored, key=_place)
        if run.result is not None and not _lacking(run.result)
    }
    runs = list(results.values())
    models = list(dict.fromkeys(run["config"]["model"] for run in runs))
    methods = _methods(runs)
    return StoreReport(
        title=title or listed(methods),
        states=Counter(run.state for run in stored),
        ahead=_ahead(agenda, stored),
        done=_done(runs),
        scores=[_scores(model, runs) for model in models],
        conclusions=conclusions(lines_of(None, runs)),
        parts=_parts(runs, [run for run in stored if run.failure is not None]),
        methods=methods,
        published=_published(runs),
        unfinished=[_unfinished(run) for run in stored if run.run_id not in results],
        runs=_runs(results),
        results=runs,
        plan=sweep_file_text(_again(stored, results)),
    )


def _again(stored: Sequence[Stored], results: Mapping[str, Run]) -> list[Mapping[str, Any]]:
    """Settings of the finished runs and of the failed ones, which belong to the same question."""
    chosen = (run for run in sorted(stored, key=_place) if run.run_id in results or run.failure)
    return [run.config for run in chosen]


def _place(run: Stored) -> tuple[Any, ...]:
    """Sort key of runs: neighbours differ in little, and of equal rates the lowest comes first."""
    config = run.config
    names = (str(config.get(name, "")) for name in ("model", "task"))
    numbers = (float(config.get(name) or 0) for name in ("rank", "lr", "seed"))
    return *names, order_of(variant_of(config)), *numbers, run.run_id


def _ahead(agenda: Agenda | None, stored: Sequence[Stored]) -> str:
    """How many runs nobody has begun; and while one is at work, the time for all."""
    if agenda is None:
        return ""
    ended = [run.run_id for run in stored if run.state in ("finished", "failed")]
    new = agenda.left([run.run_id for run in stored])
    seconds = agenda.seconds_left(ended)
    running = any(run.state == "running" for run in stored)
    left = f"about {duration(seconds)} left" if running and seconds else ""
    return ", ".join(filter(None, (f"{new} not begun" if new else "", left)))


def _done(runs: Sequence[Run]) -> Rows:
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run["config"]["model"], run["config"]["task"]), []).append(run)
    return [[*key, *_varied(own)] for key, own in grouped.items()]


def _varied(runs: Sequence[Run]) -> list[str]:
    configs = [run["config"] for run in runs]
    methods = sorted(map(variant_of, configs), key=order_of)
    names = ("rank", "lr", "seed", "epochs", "batch_size")
    values = [sorted({config[name] for config in configs}) for name in names]
    columns = [listed(map(name_of, dict.fromkeys(methods)))]
    columns += [", ".join(map(value_words, own)) for own in values]
    split = ("train", "selection", "test")
    rows = dict.fromkeys(" + ".join(str(run["data"][part]) for part in split) for run in runs)
    return [*columns, ", ".join(rows)]


def _scores(model: str, runs: Sequence[Run]) -> ScoreTable:
    own = [run for run in runs if run["config"]["model"] == model]
    return score_table(f"Test scores of {model}", None, own)


def _parts(runs: Sequence[Run], failed: Sequence[Stored]) -> list[Part]:
    grouped: dict[tuple[str, str, Setting], list[Run]] = {}
    for run, setting in zip(runs, settings_of(runs), strict=True):
        config = run["config"]
        key = (config["task"], config["model"], setting._replace(method=""))
        grouped.setdefault(key, []).append(run)
    titles = {
        key: ", ".join(filter(None, (f"{key[0]} with {key[1]}", key[2].variant))) for key in grouped
    }
    return [
        Part(name=_name(titles[key]), title=titles[key], comparison=_comparison(own, failed))
        for key, own in grouped.items()
    ]


def _name(title: str) -> str:
    """A name without the characters of paths; the hash keeps names apart."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")[-40:]
    return f"{plain}-{hashlib.sha256(title.encode()).hexdigest()[:6]}"


def _comparison(runs: Sequence[Run], failed: Sequence[Stored]) -> Comparison:
    """The runs at each method's best rate, and those that would have stood beside them."""
    failures = [run for run in failed if _belongs(run.config, runs[0]["config"])]
    rates = {run["config"]["lr"] for run in runs} | {run.config["lr"] for run in failures}
    tried = {(method_of(run), run["config"]["lr"]) for run in runs}
    tried |= {(variant_of(run.config), run.config["lr"]) for run in failures}
    several = len(tried) > len({method for method, _ in tried})
    return Comparison(
        runs=at_best_rates(runs),
        failed=[
            {"config": run.config, "error": run.failure.reason}
            for run in failures
            if run.failure is not None
        ],
        searched=runs if several else (),
        chosen="selected" if several else "fixed",
        rates=sorted(rates),
    )


def _belongs(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    names = ("model", "task", "rank", "ranks", "epochs")
    return all(config.get(name) == other.get(name) for name in names)


def _methods(runs: Sequence[Run]) -> dict[str, str]:
    """Notes on methods by label, in one fixed order; a method that is not known has none."""
    return {name_of(name): note_of(name) for name in sorted(map(method_of, runs), key=order_of)}


def _published(runs: Sequence[Run]) -> list[ScoreTable]:
    """Tables with a line that has both a published and a measured score."""
    found = []
    for table in map(paper_table, TABLES):
        tasks = {column.task for column in table.columns}
        own = [run for run in runs if run["config"]["task"] in tasks]
        lines = lines_of(table, own)
        if any(line.published and line.measured for line in lines):
            measured = {line.column for line in lines if line.measured}
            shown = [line for line in lines if line.column in measured]
            found.append(laid_out(f"{table.source}: {table.title}", shown))
    return found


def _lacking(run: Run) -> str:
    """What is missing in a result.json that another version or another program wrote."""
    return ", ".join(name for name in _NEEDED if name not in run)


def _unfinished(run: Stored) -> list[str]:
    why = run.failure.reason if run.failure else run.damage or str(run.owner or "")
    if run.result is not None:
        why = f"its result.json lacks {_lacking(run.result)}"
    config = run.config
    settings = [setting_words(config, name) for name in ("method", "lr", "seed")]
    return [run.run_id, run.state, *settings, why]


def _runs(results: Mapping[str, Run]) -> Rows:
    runs = list(results.values())
    chosen = set(map(id, at_best_rates(runs)))
    rows = []
    for (run_id, run), setting in zip(results.items(), settings_of(runs), strict=True):
        config = run["config"]
        mark = "" if id(run) in chosen else " (not chosen)"
        rows.append(
            [
                *(run_id, config["model"], config["task"], setting.label),
                *(f"{number_words(config['lr'])}{mark}", str(config["seed"])),
                *(f"{score_of(run, 'selection'):.4f}", f"{score_of(run):.4f}"),
                f"{sum(run['seconds'].values()):.0f}",
            ]
        )
    return rows
