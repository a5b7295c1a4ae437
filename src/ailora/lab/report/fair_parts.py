"""A fair comparison's runs as parts: one verdict for each model, task and variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ailora.lab.experiments.fair import Protocol, Search
from ailora.lab.experiments.store import Run, Store, Stored
from ailora.lab.experiments.wording import counted, metric_label, number_words
from ailora.lab.report.best_to_best import Reported, best_to_best, reported_of
from ailora.lab.report.fair_verdict import FairPart
from ailora.lab.report.rate_curves import curve_of
from ailora.lab.report.row_scores import always_positive
from ailora.lab.report.score_lines import Setting, baselines_of, settings_of
from ailora.lab.tasks.classification.metrics import REGRESSION


def fair_parts(searches: Sequence[Search], protocol: Protocol, store: Store) -> list[FairPart]:
    """The parts of a fair report, one per model and task.

    Where methods meet at several ranks, or at several values of any other setting, each of those is
    a part with a baseline of its own.

    Args:
        searches: What `ailora.lab.experiments.fair.fair` returned.
        protocol: What was compared.
        store: Where the runs are; the rows of their test scores are read there.
    """
    named = settings_of([{"config": asdict(search.setting)} for search in searches])
    pairs = list(zip(named, searches, strict=True))
    grouped: dict[tuple[str, str], list[tuple[Setting, Search]]] = {}
    for setting, search in pairs:
        where = (search.setting.task, search.setting.model)
        grouped.setdefault(where, []).append((setting, search))
    return [
        _part(", ".join(filter(None, (f"{task} with {model}", variant))), own, protocol, store)
        for (task, model), found in grouped.items()
        for variant, own in _by_variant(found).items()
    ]


def _by_variant(
    found: Sequence[tuple[Setting, Search]],
) -> dict[str, list[tuple[Setting, Search]]]:
    """Settings that differ in their method alone; all together where no methods meet so."""
    if len({setting.rank for setting, _ in found}) == 1:
        found = [(setting._replace(rank=None), search) for setting, search in found]
    grouped: dict[str, list[tuple[Setting, Search]]] = {}
    for setting, search in found:
        grouped.setdefault(setting.variant, []).append((setting, search))
    if all(len(own) == 1 for own in grouped.values()):
        return {"": list(found)}
    return {
        variant: [(Setting(setting.method), search) for setting, search in own]
        for variant, own in grouped.items()
    }


def _part(
    title: str, named: Sequence[tuple[Setting, Search]], protocol: Protocol, store: Store
) -> FairPart:
    runs = {setting.label: _at_best(search, protocol) for setting, search in named}
    good = [(setting, search) for setting, search in named if runs[setting.label]]
    reported = {
        setting.label: {
            seed: reported_of(run, store.path / search.ends[search.best or 0.0][seed].run_id)
            for seed, run in runs[setting.label].items()
        }
        for setting, search in good
    }
    baseline = _baseline(named, reported)
    scored = [end for _, search in named for end in _finished(search)]
    finished = [end.result for end in scored if end.result is not None]
    chance = _chance(finished[0], store.path / scored[0].run_id) if finished else None
    curves = (curve_of(one.label, one.method, search, protocol, store) for one, search in named)
    return FairPart(
        title=title,
        metric=metric_label(finished[0]["data"]) if finished else "",
        about=_about(finished, chance) if finished else "",
        curves=[curve for curve in curves if curve is not None],
        reported=reported,
        against=best_to_best(reported, baseline) if baseline else {},
        baseline=baseline,
        chance=chance,
        failed={
            setting.label: lost for setting, search in good if (lost := _failed(search, protocol))
        },
        without=[
            f"{setting.label}: not reported: {search.stopped or 'every reported seed failed'}."
            for setting, search in named
            if not (search.missing or runs[setting.label])
        ],
        waiting=[
            f"{setting.label} ({counted(_left(search, protocol), 'more run')} at least)"
            for setting, search in named
            if search.missing
        ],
    )


def _finished(search: Search) -> list[Stored]:
    """Its finished runs, at every rate."""
    ends = (end for by_seed in search.ends.values() for end in by_seed.values())
    return [end for end in ends if end.result is not None]


def _at_best(search: Search, protocol: Protocol) -> dict[int, Run]:
    """The reported runs that finished, by seed."""
    if search.best is None:
        return {}
    at_best = search.ends[search.best]
    found = {seed: at_best[seed].result for seed in protocol.report if seed in at_best}
    return {seed: run for seed, run in found.items() if run is not None}


def _left(search: Search, protocol: Protocol) -> int:
    """The runs that a setting still needs, if its grid widens no more."""
    return len(search.missing) + (search.best is None) * len(protocol.report)


def _failed(search: Search, protocol: Protocol) -> int:
    """The number of reported runs that failed at the chosen rate."""
    at_best = search.ends.get(search.best or 0.0, {})
    return sum(seed in at_best and at_best[seed].result is None for seed in protocol.report)


def _baseline(
    named: Sequence[tuple[Setting, Search]], reported: Mapping[str, Mapping[int, Reported]]
) -> str:
    """LoRA; without it the method named first. Empty before its first reported run."""
    settings = [setting for setting, _ in named]
    plain = list(baselines_of(settings).values())
    alone = [setting for setting in settings if setting.method == "lora"]
    waiting = {setting.label for setting, search in named if search.missing}
    order = [one.label for one in (*plain, *alone, *settings)]
    first = next((label for label in order if label in reported or label in waiting), "")
    return first if first in reported else ""


def _about(runs: Sequence[Run], chance: tuple[float, str] | None) -> str:
    """Rows, and the settings that matter most, as far as all runs share them."""
    data, config = runs[0]["data"], runs[0]["config"]
    said = {
        "rank": "" if config.get("ranks") else f"rank {config['rank']}",
        "batch_size": f"{counted(config['batch_size'], 'row')} per step",
        "epochs": f"{number_words(config['epochs'])} epoch{'s' * (config['epochs'] != 1)}",
        "head_lr": "the head at the method's own rate"
        if config.get("head_lr") is None
        else f"the head at {number_words(config['head_lr'])}",
    }
    alike = [
        words
        for name, words in said.items()
        if words and all(run["config"].get(name) == config.get(name) for run in runs)
    ]
    return (
        f"{counted(data['train'], 'row')} to train on, {data['selection']:,} to choose rates by, "
        f"{data['test']:,} to test on; {', '.join(alike)}."
        + (f" Score of {chance[1]}: {chance[0]:.4f}." if chance else "")
    )


def _chance(run: Run, folder: Path) -> tuple[float, str] | None:
    """What the best of the answers that are the same for every row scores, in the test split."""
    positive = always_positive(run, folder)
    if positive is not None:
        return positive[0], f"always answering {positive[1]!r}"
    if run["majority"] is not None:
        return float(run["majority"]), "always answering the commonest class"
    if run["data"]["metric"] in REGRESSION:
        return 0.0, "always answering one number"
    return None
