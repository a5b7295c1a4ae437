"""What measured scores allow to be said, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ailora.lab.report.beside import Line, Setting
from ailora.lab.statistics import ENOUGH, Paired, holm, rank_over_tasks

_LEVEL = 0.05


def conclusions(lines: Sequence[Line]) -> list[str]:
    """One sentence each on the number of seeds, on ranks over tasks and on corrected p-values.

    Args:
        lines: Of `ailora.lab.report.beside.lines_of`.
    """
    models = dict.fromkeys(model for line in lines for model in line.measured)
    return [words for model in models for words in _on(model, _by_task(lines, model))]


def _by_task(lines: Sequence[Line], model: str) -> dict[str, dict[Setting, Line]]:
    """Measured lines by task, each task (or set of one) by one score and no mean of others."""
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


def _on(model: str, tasks: dict[str, dict[Setting, Line]]) -> list[str]:
    fewest = min(line.measured[model].spread.n for own in tasks.values() for line in own.values())
    if fewest < ENOUGH:
        return [
            f"{model}: a setting has {fewest} seed{'s' * (fewest != 1)}; below {ENOUGH} nothing "
            "can be concluded about which is best."
        ]
    return [*_ranks(model, tasks), *_corrected(model, tasks)]


def _ranks(model: str, tasks: dict[str, dict[Setting, Line]]) -> list[str]:
    """Over the settings that every task has."""
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
    """Each setting against the baseline: permutation p by task, in Holm's way for their number."""
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
