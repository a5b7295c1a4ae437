"""What was measured here beside what the paper reports: the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ailora.lab.experiments.choice import at_best_rates
from ailora.lab.report.comparison import Run, name_of, order_of
from ailora.lab.report.published import Column, PaperTable, Row
from ailora.lab.statistics import Paired, Spread, paired, spread

_PERCENT = 100.0


class Setting(NamedTuple):
    """What a line of a table is of.

    Attributes:
        method: Name of the method.
        ranks: Roles and their ranks, where those are what varies.
        rank: The one rank, where runs of several are in the table.
        others: Other settings that tell it from its like, by name.
    """

    method: str
    ranks: tuple[tuple[str, int], ...] = ()
    rank: int | None = None
    others: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """As tables have it."""
        return ": ".join(filter(None, (name_of(self.method), self.variant)))

    @property
    def variant(self) -> str:
        """What it is beside the method."""
        roles = ", ".join(f"{role} {rank}" for role, rank in self.ranks)
        one = "" if self.rank is None else f"rank {self.rank}"
        others = ", ".join(f"{name} {value}" for name, value in self.others)
        return ", ".join(filter(None, (roles, one, others)))


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
    """
    kept = at_best_rates(runs)
    columns = [*(table.columns if table else ()), *_own_columns(table, kept)]
    named = _displayed(table, kept)
    own = sorted((setting for _, setting in named), key=_order)
    settings = list(dict.fromkeys([*_published(table), *own]))
    against = baselines_of(settings)
    models = list(dict.fromkeys(str(run["config"]["model"]) for run in kept))
    found = {
        (column, model): _measured(column, against, _on(named, column.task, model))
        for column in columns
        for model in models
    }
    return [
        line
        for column in columns
        for setting in settings
        if (line := _line(table, column, setting, {m: found[column, m] for m in models}))
    ]


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """What each run is of, with its rank, and what else tells runs of a method and rank apart."""
    alike: dict[Any, list[Mapping[str, Any]]] = {}
    for config in (run["config"] for run in runs):
        alike.setdefault((*_where(config), _plain_setting(config)), []).append(config)
    extra: dict[tuple[str, str], dict[str, None]] = {}
    for configs in alike.values():
        names = [
            name
            for name in configs[0]
            if name not in ("lr", "seed")
            and any(one.get(name) != configs[0][name] for one in configs)
        ]
        extra.setdefault(_where(configs[0]), {}).update(dict.fromkeys(names))
    return [
        _plain_setting(run["config"])._replace(others=_others(run["config"], extra)) for run in runs
    ]


def baselines_of(settings: Sequence[Setting]) -> dict[Setting, Setting]:
    """What each setting's differences are to: LoRA of the same ranks and other settings.

    In tables where LoRA meets no other method, it is AILoRA, whatever its ranks.
    """
    paired_with = {
        setting: plain
        for setting in settings
        if setting.method != "lora" and (plain := setting._replace(method="lora")) in settings
    }
    ours = [setting for setting in settings if setting.method == "ailora"]
    if paired_with or not ours:
        return paired_with
    return {setting: ours[0] for setting in settings if setting != ours[0]}


def _where(config: Mapping[str, Any]) -> tuple[str, str]:
    return config["model"], config["task"]


def _plain_setting(config: Mapping[str, Any]) -> Setting:
    ranks = tuple((config["ranks"] or {}).items())
    return Setting(config["method"], ranks, None if ranks else config["rank"])


def _others(
    config: Mapping[str, Any], extra: Mapping[tuple[str, str], Iterable[str]]
) -> tuple[tuple[str, str], ...]:
    return tuple((name, _words(config.get(name))) for name in extra[_where(config)])


def _words(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _displayed(table: PaperTable | None, runs: Sequence[Run]) -> list[tuple[Run, Setting]]:
    """Runs with their settings; the rank is named where one method has several."""
    named = list(zip(runs, settings_of(runs), strict=True))
    ranks: dict[str, set[int | None]] = {}
    for _, setting in named:
        ranks.setdefault(setting.method, set()).add(setting.rank)
    if any(len(found - {None}) > 1 for found in ranks.values()):
        published = _published(table)
        return [(run, s if (p := _rankless(s)) not in published else p) for run, s in named]
    return [(run, _rankless(setting)) for run, setting in named]


def _order(setting: Setting) -> tuple[Any, ...]:
    return order_of(setting.method), setting.ranks, setting.rank or 0, setting.others


def _rankless(setting: Setting) -> Setting:
    return setting._replace(rank=None)


def _published(table: PaperTable | None) -> list[Setting]:
    """The paper's settings in its order."""
    rows = table.rows if table else ()
    return list(dict.fromkeys(Setting(row.method, _ranks(row)) for row in rows))


def _ranks(row: Row) -> tuple[tuple[str, int], ...]:
    return tuple((row.ranks or {}).items())


def _own_columns(table: PaperTable | None, runs: Sequence[Run]) -> list[Column]:
    """Tasks that the paper's table has not, each by its headline metric."""
    known = {column.task for column in table.columns} if table else set()
    found = {run["config"]["task"]: run["data"]["metric"] for run in runs}
    return [
        Column(label=task, task=task, metric=metric)
        for task, metric in found.items()
        if task not in known
    ]


def _on(named: Sequence[tuple[Run, Setting]], task: str, model: str) -> list[tuple[Run, Setting]]:
    return [(run, setting) for run, setting in named if _where(run["config"]) == (model, task)]


def _measured(
    column: Column, against: Mapping[Setting, Setting], named: Sequence[tuple[Run, Setting]]
) -> dict[Setting, Measured]:
    scores: dict[Setting, dict[int, float]] = {}
    first: dict[Setting, Run] = {}
    for run, setting in named:
        score = _score(run, column)
        if score is not None:
            scores.setdefault(setting, {})[run["config"]["seed"]] = score
            first.setdefault(setting, run)
    return {
        setting: Measured(
            spread=spread(own, what=f"{setting.label} on {column.label}"),
            rate=float(first[setting]["config"]["lr"]),
            parameters=first[setting]["parameters"]["adapter"] / 1e6,
            paired=_paired(setting, against.get(setting), scores),
        )
        for setting, own in scores.items()
    }


def _paired(
    setting: Setting, baseline: Setting | None, scores: Mapping[Setting, Mapping[int, float]]
) -> Paired | None:
    if baseline is None or baseline not in scores:
        return None
    both = {one.label: scores[one] for one in (setting, baseline)}
    return paired(both, baseline.label)[setting.label]


def _score(run: Run, column: Column) -> float | None:
    """In percent; None where the run was scored by others, or on other sets of its task."""
    found = run["metrics"]["test"]
    if column.group is not None:
        found = run["by_group"].get("test", {}).get(column.group, {})
    return _PERCENT * float(found[column.metric]) if column.metric in found else None


def _line(
    table: PaperTable | None,
    column: Column,
    setting: Setting,
    measured: Mapping[str, Mapping[Setting, Measured]],
) -> Line | None:
    rows = [
        row for row in (table.rows if table else ()) if Setting(row.method, _ranks(row)) == setting
    ]
    place = table.columns.index(column) if table and column in table.columns else None
    line = Line(
        column=column,
        setting=setting,
        published={row.model: row.scores[place] for row in rows if place is not None},
        published_parameters={row.model: row.parameters for row in rows if row.parameters},
        measured={model: found[setting] for model, found in measured.items() if setting in found},
    )
    return line if line.published or line.measured else None
