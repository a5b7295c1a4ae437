"""By which name a run is known, and that results of every version are found again."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ailora.lab import settings
from ailora.lab.experiments import Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.jobs import Job, Tasks, Tell, jobs_of
from ailora.lab.experiments.sweep_file import read_sweep_file, sweep_file_text
from ailora.lab.setting_fields import Setting
from ailora.lab.settings import SETTINGS, RunConfig, current_settings

RESULTS = Path(__file__).parents[3] / "results" / "movies-rates"  # schema 1, one flat file per run


class Unwanted(Here):
    """An engine that has nothing to do."""

    def run(self, jobs: Sequence[Job], store: Store, tell: Tell) -> None:
        """As `Engine.run`."""
        raise AssertionError(f"asked to run {[job.run_id for job in jobs]}")


def test_results_of_the_first_version_are_finished_runs_of_a_sweep(tmp_path: Path) -> None:
    store = Store(shutil.copytree(RESULTS, tmp_path / "runs"))
    file = tmp_path / "again.toml"
    file.write_text(sweep_file_text(run.config for run in store.runs()), encoding="utf-8")
    runs, tasks = distinct(read_sweep_file(file)), Tasks()
    assert len(runs) == len(list(RESULTS.glob("*.json"))) == 30
    outcome = sweep(runs, store, Unwanted(), tasks=tasks)
    assert sorted(outcome.names) == sorted(path.stem for path in RESULTS.glob("*.json"))
    assert outcome.failed == ()
    written = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    for name, run in zip(outcome.names, outcome.runs, strict=True):
        assert run["metrics"] == written[name]["metrics"]
        assert run["config"]["lr"] == written[name]["config"]["lr"]
    with pytest.raises(AssertionError, match="asked to run"):  # the control: another seed is new
        sweep([replace(runs[0], seed=7)], store, Unwanted(), tasks=tasks)
    (new,) = jobs_of([replace(runs[0], seed=7)], tasks, store)
    assert new.run_id not in written


@pytest.mark.parametrize("name", SETTINGS)
def test_a_new_default_renames_no_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, changed = RunConfig(), other_values(SETTINGS[name])[0]
    identity = before.identity("rows")
    patched = {**SETTINGS, name: replace(SETTINGS[name], default=changed)}
    monkeypatch.setattr(settings, "SETTINGS", patched)
    assert RunConfig(**{name: SETTINGS[name].first}).identity("rows") == identity
    assert current_settings({})[name] == before.__dict__[name], "it had the first default"
    assert RunConfig.from_json({}).identity("rows") == identity


def test_different_settings_never_share_an_identity() -> None:
    configs = [RunConfig()]
    for name, one in SETTINGS.items():
        if one.names_run:  # data count by what is read, and logs leave the weights as they are
            configs += [RunConfig(**{name: value}) for value in other_values(one)]
    pairs = itertools.combinations(["rank", "lr", "seed", "n_best", "ranks", "anchored"], 2)
    configs += [RunConfig(**{name: other_values(SETTINGS[name])[0] for name in p}) for p in pairs]
    identities = [config.identity("rows") for config in configs]
    assert len(set(identities)) == len(configs)
    assert RunConfig(data="a").identity("rows") == RunConfig(data="b").identity("rows")
    assert RunConfig().identity("rows") != RunConfig().identity("other rows")


def other_values(one: Setting) -> list[Any]:
    """Values of a setting that are not its default."""
    if one.choices:
        return [choice for choice in one.choices if choice != one.default]
    values: dict[type, list[Any]] = {
        bool: [not one.default] if one.default is not None else [True, False],
        int: [(one.default or 16) * 2, (one.default or 16) * 4],
        float: [0.25, 0.5],
        str: ["cola", "lora"],
        Sequence: [("accuracy",), ("f1", "accuracy")],
        Mapping: [{"q": 8}, {"q": 8, "k": 8}, {"q": 4}],
    }
    if one.name == "micro_batch_size":  # must divide the batch size
        return [4, 8]
    return values[one.kind]
