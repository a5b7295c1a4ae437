"""A search over ranges of settings with Optuna, where a grid is not wanted.

Each setting of the grid without its seeds has a study of its own. A trial is a point of the ranges,
tried with every seed, one seed after another: after each the pruner may give it up. Its value is
the mean score on the selection split; the test split decides nothing.

What is asked for next depends on what the storage holds and on nothing else, so a search that was
broken off goes on to the same end: its runs are in the store, its trials in Optuna's storage.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ailora.errors import UserError
from ailora.lab.experiments.jobs import Ended, Event, Tasks, Tell
from ailora.lab.experiments.store import Failure, Run, Store, failure_of
from ailora.lab.experiments.sweep import Engine, sweep
from ailora.lab.settings import SETTINGS, RunConfig, check_name

try:
    import optuna
    from optuna import distributions, pruners, samplers, storages
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise UserError(
        "Optuna is not installed; install it with: pip install 'ailora[search]'"
    ) from error

TRIALS = "search.log"  # Optuna's journal, in the folder of runs
_RANGE = frozenset({"low", "high", "log", "step"})
_Do = Callable[[Sequence[RunConfig]], "list[Run | Failure]"]  # does runs; results in their order


@dataclass(frozen=True, kw_only=True)
class Search:
    """The ``[search]`` table of a sweep file.

    Attributes:
        space: What is searched, by the name of a setting: a list of values, or a table with
            ``low`` and ``high`` and, where wanted, ``log = true`` or ``step``.
        sampler: A class of `optuna.samplers`, or a table with its ``name`` and its own options.
        pruner: The same of `optuna.pruners`.
        storage: An Optuna storage URL; None for a journal in the folder of runs.
        batch: How many trials of a study are tried at a time, whatever the number of workers.

    Raises:
        UserError: A name or a value that makes no sense.
    """

    space: Mapping[str, Any]
    sampler: str | Mapping[str, Any] = "TPESampler"
    pruner: str | Mapping[str, Any] = "MedianPruner"
    storage: str | None = None
    batch: int = 2

    @classmethod
    def of(cls, table: Any) -> Search:
        """The search that a table describes."""
        names = [one.name for one in fields(cls)]
        if not isinstance(table, Mapping):
            raise UserError(f"[search] must be a table, not {table!r}")
        for name in table:
            check_name(name, names, where="[search] ")
        return cls(**{"space": {}, **table})

    def __post_init__(self) -> None:
        if not isinstance(self.space, Mapping) or not self.space:
            raise UserError("[search] space: give ranges, such as lr = { low = 1e-5, high = 1e-2 }")
        if type(self.batch) is not int or self.batch < 1:
            raise UserError(f"[search] batch={self.batch!r}: must be a whole number, at least 1")
        if self.storage is not None and not isinstance(self.storage, str):
            raise UserError(f"[search] storage={self.storage!r}: must be a text, an Optuna URL")
        self.distributions()
        self.make_sampler(0)
        self.make_pruner()

    def distributions(self) -> dict[str, distributions.BaseDistribution]:
        """The ranges as Optuna has them."""
        return {name: _distribution(name, asked) for name, asked in self.space.items()}

    def make_sampler(self, trials: int) -> samplers.BaseSampler:
        """A sampler for a study of that many trials; each number has random numbers of its own."""
        seed = 0 if "QMC" in str(self.sampler) else trials  # whose sequence is one for all trials
        made: samplers.BaseSampler = _made(samplers, "Sampler", self.sampler, seed=seed)
        return made

    def make_pruner(self) -> pruners.BasePruner:
        """The pruner."""
        made: pruners.BasePruner = _made(pruners, "Pruner", self.pruner)
        return made


@dataclass(kw_only=True)
class Found:
    """What the search of one setting has come to.

    Attributes:
        config: The setting, with the first seed.
        seeds: Its seeds.
        tried: Number of trials by how they ended: complete, pruned, fail.
        best: The settings that were found best; None if no trial was tried with every seed.
        runs: The finished runs of the best trial.
    """

    config: RunConfig
    seeds: tuple[int, ...]
    tried: dict[str, int] = field(default_factory=dict)
    best: Mapping[str, Any] | None = None
    runs: tuple[Run, ...] = ()


@dataclass
class _Trial:
    """A trial that is being tried: what Optuna asked for, and the runs so far."""

    study: _Study
    asked: optuna.Trial
    runs: list[Run | Failure] = field(default_factory=list)

    def config(self, seed: int) -> RunConfig | Failure:
        try:
            return replace(self.study.config, seed=seed, **_point(self.asked.params))
        except UserError as error:  # such as a rank that does not go with the other settings
            return failure_of(self.study.config, error)


class _Study:
    """One setting, its seeds and Optuna's study of it."""

    def __init__(
        self, config: RunConfig, seeds: Sequence[int], search: Search, store: Store
    ) -> None:
        self.config, self.seeds, self.search = config, tuple(seeds), search
        space = {name: str(one) for name, one in sorted(search.distributions().items())}
        name = replace(config, seed=0).run_id("search", repr([space, self.seeds]))
        self.study = optuna.create_study(
            study_name=name,
            direction="maximize",
            storage=_storage(search, store.path),
            load_if_exists=True,
            pruner=search.make_pruner(),
        )

    def ended(self) -> list[FrozenTrial]:
        return [
            trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()
        ]

    def ask(self, trials: int) -> list[_Trial]:
        """The next batch: trials that were broken off, and new ones until there are ``trials``."""
        known = self.study.get_trials(deepcopy=False)
        open_ = [one for one in known if not one.state.is_finished()]
        asked = [optuna.Trial(self.study, one._trial_id) for one in open_]
        self.study.sampler = self.search.make_sampler(len(known))
        new = min(self.search.batch - len(asked), trials - len(known))
        asked += [self.study.ask(self.search.distributions()) for _ in range(new)]
        return [_Trial(self, one) for one in asked]

    def found(self) -> Found:
        tried = Counter(trial.state.name.lower() for trial in self.ended())
        found = Found(config=self.config, seeds=self.seeds, tried=dict(tried))
        if tried["complete"]:
            found.best = _point(self.study.best_trial.params)
        return found


def search_runs(
    runs: Sequence[RunConfig],
    search: Search,
    trials: int,
    store: Store,
    engine: Engine,
    *,
    tasks: Tasks | None = None,
    on_event: Tell = lambda event: None,
    on_round: Callable[[int, int], None] = lambda ended, trials: None,
) -> list[Found]:
    """Search each setting of these runs for the best point of the ranges.

    Args:
        runs: The settings with their seeds; what is searched must be the same in all.
        search: What is searched, and how.
        trials: Trials of each setting, those of an earlier call included.
        store: Where the runs are, and the trials unless ``search`` says otherwise.
        engine: As in `sweep`.
        tasks: Data that is loaded already.
        on_event: As in `sweep`.
        on_round: Called before each batch with the number of trials that ended and of all.

    Raises:
        UserError: The storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tasks = tasks or Tasks()
    studies = [_Study(config, seeds, search, store) for config, seeds in settings_of(runs, search)]

    def do(configs: Sequence[RunConfig]) -> list[Run | Failure]:
        ended: list[Ended] = []

        def tell(event: Event) -> None:
            if isinstance(event, Ended):
                ended.append(event)
            on_event(event)

        sweep(configs, store, engine, tasks=tasks, on_event=tell)
        return [next(e.result for e in ended if e.job.config == config) for config in configs]

    with engine.open():
        while True:
            on_round(sum(len(one.ended()) for one in studies), trials * len(studies))
            asked = [trial for study in studies for trial in study.ask(trials)]
            if not asked:
                break
            _try(asked, do)
        return [_with_runs(study.found(), do) for study in studies]


def _point(params: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna asked for, numbers to three digits: more say nothing, and nobody types them."""
    return {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in params.items()
    }


def settings_of(
    runs: Sequence[RunConfig], search: Search
) -> list[tuple[RunConfig, tuple[int, ...]]]:
    """Each setting of these runs with its seeds.

    Raises:
        UserError: A setting that is searched differs between the runs.
    """
    by_name: dict[str, list[RunConfig]] = {}
    for run in runs:
        by_name.setdefault(replace(run, seed=0).run_id("", str(run.data)), []).append(run)
    settings = [(group[0], tuple(run.seed for run in group)) for group in by_name.values()]
    for name in search.space:
        if len({repr(getattr(config, name)) for config, _ in settings}) > 1:
            raise UserError(f"{name!r} stands in [grid] and in [search.space]; give it in one")
    return settings


def _try(trials: Sequence[_Trial], do: _Do) -> None:
    """Do these trials, a seed at a time, until they are complete, pruned or failed."""
    going, step = list(trials), 0
    while going:
        configs = [trial.config(trial.study.seeds[step]) for trial in going]
        results = iter(do([one for one in configs if isinstance(one, RunConfig)]))
        for trial, config in zip(going, configs, strict=True):
            trial.runs.append(next(results) if isinstance(config, RunConfig) else config)
        step += 1
        going = [trial for trial in going if not _tell(trial)]


def _tell(trial: _Trial) -> bool:
    """Tell Optuna of a trial's last run; whether the trial has ended."""
    study, last = trial.study.study, trial.runs[-1]
    if isinstance(last, Failure):
        # What diverges is a bad point; any other failure says nothing of the point.
        state = TrialState.PRUNED if last.kind == "diverged" else TrialState.FAIL
        study.tell(trial.asked, state=state, skip_if_finished=True)
        return True
    value = fmean(_selection_score(run) for run in trial.runs if not isinstance(run, Failure))
    if len(trial.runs) == len(trial.study.seeds):
        study.tell(trial.asked, value, skip_if_finished=True)
        return True
    trial.asked.report(value, len(trial.runs))
    if not trial.asked.should_prune():
        return False
    study.tell(trial.asked, state=TrialState.PRUNED, skip_if_finished=True)
    return True


def _selection_score(run: Run) -> float:
    return float(run["metrics"]["selection"][run["data"]["metric"]])


def _with_runs(found: Found, do: _Do) -> Found:
    if found.best is not None:
        best = [replace(found.config, seed=seed, **found.best) for seed in found.seeds]
        found.runs = tuple(run for run in do(best) if not isinstance(run, Failure))
    return found


def _distribution(name: str, asked: Any) -> distributions.BaseDistribution:
    where = "[search.space] "
    check_name(name, where=where)
    if name == "seed":
        raise UserError(f"{where}seed: give seeds in [grid]; every point is tried with each")
    setting = SETTINGS[name]
    if isinstance(asked, list | tuple) and asked:
        values = [setting.checked(value, f"{where}{name}=") for value in asked]
        if not all(isinstance(value, str | int | float | bool | None) for value in values):
            raise UserError(f"{where}{name}={asked!r}: only numbers, texts and true or false")
        return distributions.CategoricalDistribution(values)
    if not isinstance(asked, Mapping) or not {"low", "high"} <= asked.keys() <= _RANGE:
        raise UserError(
            f"{where}{name}={asked!r}: give a list of values, or low, high and, where wanted, "
            "log = true or step"
        )
    if setting.kind not in (int, float):
        raise UserError(f"{where}{name}={dict(asked)!r}: not a number; give a list of values")
    ends = {end: setting.checked(asked[end], f"{where}{name}.{end}=") for end in ("low", "high")}
    kind = distributions.IntDistribution if setting.kind is int else distributions.FloatDistribution
    try:
        return kind(**ends, **{key: asked[key] for key in asked.keys() - ends.keys()})
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}{name}={dict(asked)!r}: {error}") from error


def _made(module: Any, kind: str, asked: str | Mapping[str, Any], **also: Any) -> Any:
    """An object of a class of `optuna.samplers` or `optuna.pruners` by its name."""
    options = dict(asked) if isinstance(asked, Mapping) else {"name": asked}
    name, what = options.pop("name", None), kind.lower()
    known = [one for one in module.__all__ if one.endswith(kind) and not one.startswith("Base")]
    if name not in known:
        raise UserError(f"[search] {what}={name!r}: must be one of {', '.join(sorted(known))}")
    cls = getattr(module, str(name))
    accepted = inspect.signature(cls).parameters
    also = {key: value for key, value in also.items() if key in accepted}
    try:
        with warnings.catch_warnings():  # that some of them may still change
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return cls(**{**also, **options})
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"[search] {what}={name!r} cannot be made: {error}") from error


def _storage(search: Search, folder: Path) -> Any:
    try:
        if search.storage is not None:
            return storages.get_storage(search.storage)
        folder.mkdir(parents=True, exist_ok=True)
        return storages.JournalStorage(JournalFileBackend(str(folder / TRIALS)))
    except Exception as error:  # its storages raise whatever their libraries raise
        where = search.storage or folder / TRIALS
        raise UserError(f"the trials in {where} cannot be opened: {error}") from error
