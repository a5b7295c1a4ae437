"""What was measured here beside what the paper reports: the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from ailora.errors import UserError
from ailora.report.comparison import Run, name_of, score_of
from ailora.report.published import Column, PaperTable, Row
from ailora.statistics import Paired, Spread, paired, spread

_PERCENT = 100.0


class Setting(NamedTuple):
    """What a line of a table is of.

    Attributes:
        method: Name of the method.
        ranks: Roles and their ranks, where those are what varies.
        rank: The one rank, where runs of several are in the table.
    """

    method: str
    ranks: tuple[tuple[str, int], ...] = ()
    rank: int | None = None

    @property
    def label(self) -> str:
        """As tables have it."""
        roles = ", ".join(f"{role} {rank}" for role, rank in self.ranks)
        one = None if self.rank is None else f"rank {self.rank}"
        return ": ".join(filter(None, (name_of(self.method), roles, one)))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One setting's scores on one model, in percent, over the seeds.

    Attributes:
        spread: Of its scores.
        rate: Learning rate of its runs.
        parameters: Trainable ones outside the head, in millions.
        paired: Against the baseline with the same seeds; None for the baseline itself and without.
    """

    spread: Spread
    rate: float
    parameters: float
    paired: Paired | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One setting in one column of the paper's table, or on one task that the paper has not.

    Attributes:
        column: The score.
        setting: The setting.
        published: In percent, by the paper's models.
        published_parameters: In millions, by the same.
        measured: By the models here.
    """

    column: Column
    setting: Setting
    published: Mapping[str, float]
    published_parameters: Mapping[str, float]
    measured: Mapping[str, Measured]


def lines_of(table: PaperTable | None, runs: Sequence[Run]) -> list[Line]:
    """Lines by column and setting, the paper's first and in its order.

    Of runs at several rates, each setting's best on its task is taken, by the mean score on the
    selection split.

    Args:
        table: What the paper reports; None for what it only draws.
        runs: Contents of finished runs' result.json.

    Raises:
        UserError: Two runs of one setting with one seed and rate.
    """
    kept = at_best_rates(runs)
    columns = [*(table.columns if table else ()), *_own_columns(table, kept)]
    settings = _settings(table, kept)
    against = baseline_of(settings)
    models = list(dict.fromkeys(str(run["config"]["model"]) for run in kept))
    found = {
        (column, model): _measured(column, settings, against, _on(kept, column.task, model))
        for column in columns
        for model in models
    }
    return [
        line
        for column in columns
        for setting in settings
        if (line := _line(table, column, setting, {m: found[column, m] for m in models}))
    ]


def baseline_of(settings: Sequence[Setting]) -> Setting | None:
    """What differences are to: plain LoRA, and in tables that have none AILoRA."""
    plain = [setting for setting in settings if setting == Setting("lora")]
    ours = [setting for setting in settings if setting.method == "ailora"]
    return next(iter((*plain, *ours)), None)


def at_best_rates(runs: Sequence[Run]) -> list[Run]:
    """The runs of each model, task and setting at its best rate, by the selection split.

    A rate that lacks seeds is not chosen over one that has them; the test split decides nothing.
    """
    groups: dict[Any, dict[float, list[Run]]] = {}
    for run in runs:
        config = run["config"]
        key = (config["model"], config["task"], _setting_of(run, with_rank=True))
        groups.setdefault(key, {}).setdefault(config["lr"], []).append(run)
    return [run for by_rate in groups.values() for run in max(by_rate.values(), key=_goodness)]


def _goodness(runs: Sequence[Run]) -> tuple[int, float]:
    return len(runs), fmean(score_of(run, "selection") for run in runs)


def _settings(table: PaperTable | None, runs: Sequence[Run]) -> list[Setting]:
    """The paper's in its order, then ours; ranks are named where one method has several."""
    ranks: dict[str, set[int]] = {}
    for run in runs:
        if not run["config"]["ranks"]:
            ranks.setdefault(run["config"]["method"], set()).add(run["config"]["rank"])
    several = any(len(found) > 1 for found in ranks.values())
    own = [_setting_of(run, with_rank=several) for run in runs]
    return list(dict.fromkeys([*map(_setting_of_row, table.rows if table else ()), *own]))


def _setting_of(run: Run, *, with_rank: bool) -> Setting:
    config = run["config"]
    ranks = tuple((config["ranks"] or {}).items())
    return Setting(config["method"], ranks, config["rank"] if with_rank and not ranks else None)


def _setting_of_row(row: Row) -> Setting:
    return Setting(row.method, tuple((row.ranks or {}).items()))


def _own_columns(table: PaperTable | None, runs: Sequence[Run]) -> list[Column]:
    """Tasks that the paper's table has not, each by its headline metric."""
    known = {column.task for column in table.columns} if table else set()
    found = {run["config"]["task"]: run["data"]["metric"] for run in runs}
    return [
        Column(label=task, task=task, metric=metric)
        for task, metric in found.items()
        if task not in known
    ]


def _on(runs: Sequence[Run], task: str, model: str) -> list[Run]:
    return [run for run in runs if (run["config"]["task"], run["config"]["model"]) == (task, model)]


def _measured(
    column: Column, settings: Sequence[Setting], against: Setting | None, runs: Sequence[Run]
) -> dict[Setting, Measured]:
    scores: dict[Setting, dict[int, float]] = {}
    first: dict[Setting, Run] = {}
    for run in runs:
        setting, seed = _named(run, settings), run["config"]["seed"]
        if seed in scores.setdefault(setting, {}):
            raise UserError(
                f"{setting.label} on {column.task} has seed {seed} twice at one rate, with other "
                "settings that differ; keep the runs of one recipe in a folder of their own"
            )
        scores[setting][seed] = _score(run, column)
        first.setdefault(setting, run)
    labelled = {setting.label: own for setting, own in scores.items()}
    pairs = paired(labelled, against.label) if against in scores and against else {}
    return {
        setting: Measured(
            spread=spread(own, what=f"{setting.label} on {column.label}"),
            rate=float(first[setting]["config"]["lr"]),
            parameters=first[setting]["parameters"]["adapter"] / 1e6,
            paired=pairs.get(setting.label),
        )
        for setting, own in scores.items()
    }


def _named(run: Run, settings: Sequence[Setting]) -> Setting:
    plain = _setting_of(run, with_rank=False)
    return plain if plain in settings else _setting_of(run, with_rank=True)


def _score(run: Run, column: Column) -> float:
    found = run["metrics"]["test"]
    if column.group is not None:
        found = run["by_group"]["test"][column.group]
    return _PERCENT * float(found[column.metric])


def _line(
    table: PaperTable | None,
    column: Column,
    setting: Setting,
    measured: Mapping[str, Mapping[Setting, Measured]],
) -> Line | None:
    rows = [row for row in (table.rows if table else ()) if _setting_of_row(row) == setting]
    place = table.columns.index(column) if table and column in table.columns else None
    line = Line(
        column=column,
        setting=setting,
        published={row.model: row.scores[place] for row in rows if place is not None},
        published_parameters={row.model: row.parameters for row in rows if row.parameters},
        measured={model: found[setting] for model, found in measured.items() if setting in found},
    )
    return line if line.published or line.measured else None
