"""Scores by task and setting, measured here and published by the paper; what they allow to say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ailora.lab.experiments.best_rates import at_best_rates
from ailora.lab.methods.variants import CONTROLS, order_of, variant_of
from ailora.lab.report.comparison import Run, name_of
from ailora.lab.report.published import Column, PaperTable, Row
from ailora.lab.statistics import ENOUGH, Paired, Spread, holm, paired, rank_over_tasks, spread

_PERCENT = 100.0
_LEVEL = 0.05


class Setting(NamedTuple):
    """One table row: a method and the settings that tell it apart.

    Attributes:
        method: Name of the method, with its own settings as `ailora.lab.methods.variants` writes
            them.
        ranks: Roles and their ranks, where those are what varies.
        rank: Rank of all roles, where the table has runs of several.
        others: Other settings that differ between runs of this method, by name.
    """

    method: str
    ranks: tuple[tuple[str, int], ...] = ()
    rank: int | None = None
    others: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """How tables name it."""
        return ": ".join(filter(None, (name_of(self.method), self.variant)))

    @property
    def variant(self) -> str:
        """The settings without the method."""
        roles = ", ".join(f"{role} {rank}" for role, rank in self.ranks)
        one = "" if self.rank is None else f"rank {self.rank}"
        others = ", ".join(f"{name} {value}" for name, value in self.others)
        return ", ".join(filter(None, (roles, one, others)))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One setting's scores on one model, in percent, over the seeds.

    Attributes:
        spread: Mean and spread of its scores.
        rate: Learning rate of its runs.
        parameters: Trainable parameters outside the head, in millions.
        paired: Difference to the baseline with the same seeds; None for the baseline itself, and
            where there is none.
    """

    spread: Spread
    rate: float
    parameters: float
    paired: Paired | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One setting's scores in one column of the paper's table, or on a task that is not in it.

    Attributes:
        column: The column, which says which score.
        setting: The setting.
        published: Published score in percent, by model of the paper.
        published_parameters: Published parameters in millions, likewise.
        measured: Measured scores, by model used here.
    """

    column: Column
    setting: Setting
    published: Mapping[str, float]
    published_parameters: Mapping[str, float]
    measured: Mapping[str, Measured]


def lines_of(table: PaperTable | None, runs: Sequence[Run]) -> list[Line]:
    """Lines by column and setting, those of the paper first and in its order.

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


def conclusions(lines: Sequence[Line]) -> list[str]:
    """One sentence each on the number of seeds, on ranks over tasks and on corrected p-values.

    Args:
        lines: Lines from `lines_of`.
    """
    models = dict.fromkeys(model for line in lines for model in line.measured)
    return [words for model in models for words in _said_of(model, _by_task(lines, model))]


def settings_of(runs: Sequence[Run]) -> list[Setting]:
    """Each run's setting: method, ranks, and what else differs between runs of those."""
    alike: dict[Any, list[Mapping[str, Any]]] = {}
    for config in (run["config"] for run in runs):
        alike.setdefault((*_where(config), _plain_setting(config)), []).append(config)
    extra: dict[tuple[str, str], dict[str, None]] = {}
    for configs in alike.values():
        names = [
            name
            for name in configs[0]
            if name not in ("lr", "seed", *CONTROLS)
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
    return Setting(variant_of(config), ranks, None if ranks else config["rank"])


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
    """Tasks that are not in the paper's table, each by its headline metric."""
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
    """Score in percent; None if the run has another metric, or other sets of its task."""
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


def _by_task(lines: Sequence[Line], model: str) -> dict[str, dict[Setting, Line]]:
    """Measured lines by task; each task, or set of one, by one score that is no mean of others."""
    grouped = {line.column.task for line in lines if line.column.group}
    found: dict[tuple[str, str | None], dict[Setting, Line]] = {}
    names: dict[tuple[str, str | None], str] = {}
    for line in lines:
        column = line.column
        if model not in line.measured or (column.task in grouped and not column.group):
            continue
        key = (column.task, column.group)
        if names.setdefault(key, column.label) == column.label:
            found.setdefault(key, {})[line.setting] = line
    return {names[key]: own for key, own in found.items()}


def _said_of(model: str, tasks: dict[str, dict[Setting, Line]]) -> list[str]:
    fewest = min(line.measured[model].spread.n for own in tasks.values() for line in own.values())
    if fewest < ENOUGH:
        return [
            f"{model}: a setting has {fewest} seed{'s' * (fewest != 1)}; below {ENOUGH} nothing "
            "can be concluded about which is best."
        ]
    return [*_average_ranks(model, tasks), *_corrected(model, tasks)]


def _average_ranks(model: str, tasks: dict[str, dict[Setting, Line]]) -> list[str]:
    """Average ranks of the settings that every task has."""
    first, *others = tasks.values()
    shared = [setting for setting in first if all(setting in own for own in others)]
    if len(tasks) < 2 or len(shared) < 2:
        return []
    ranking = rank_over_tasks(
        {
            task: {setting.label: own[setting].measured[model].spread.mean for setting in shared}
            for task, own in tasks.items()
        }
    )
    words = ", ".join(f"{label} {rank:.2f}" for label, rank in ranking.average.items())
    said = f"{model}: average ranks over {ranking.tasks} tasks: {words}"
    if ranking.friedman_p is not None:
        said += f"; Friedman p = {ranking.friedman_p:.3f}"
    if ranking.critical_difference is None:
        return [f"{said}; too few tasks to tell them apart."]
    return [f"{said}; ranks closer than {ranking.critical_difference:.2f} are not told apart."]


def _corrected(model: str, tasks: dict[str, dict[Setting, Line]]) -> list[str]:
    """Each setting against the baseline: permutation p by task, with Holm's correction."""
    pairs: dict[str, dict[str, Paired]] = {}
    for task, own in tasks.items():
        for setting, line in own.items():
            against = line.measured[model].paired
            if against is not None and against.permutation_p is not None:
                pairs.setdefault(setting.label, {})[task] = against
    return [f"{model}: {label} minus {_holm(own)}" for label, own in pairs.items()]


def _holm(pairs: Mapping[str, Paired]) -> str:
    """Where a setting differs, with the least p that so many seeds and tasks can give."""
    corrected = holm({task: pair.permutation_p or 0.0 for task, pair in pairs.items()})
    below = ", ".join(task for task, p in corrected.items() if p <= _LEVEL)
    least = min(1.0, len(pairs) * min(pair.smallest_p for pair in pairs.values()))
    words = f"{next(iter(pairs.values())).baseline}, permutation p with Holm's correction over "
    words += f"{len(pairs)} task{'s' * (len(pairs) != 1)}: "
    words += f"at most {_LEVEL} on {below}" if below else f"nowhere at most {_LEVEL}"
    return words + (
        f" (so few seeds cannot give less than {least:.2f})." if least > _LEVEL else "."
    )
