"""Hand-made runs as a store reads them, and folders of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ailora.lab.experiments import Store
from ailora.lab.experiments.fair import Protocol, fair
from ailora.lab.experiments.fair_record import Record
from ailora.lab.experiments.store import Failure, Stored
from ailora.lab.training import RunConfig
from tests.lab.report.runs import run


def full_run(method: str, seed: int, test: float, **changes: Any) -> dict[str, Any]:
    """A finished run with every setting."""
    config = RunConfig(**{"method": method, "seed": seed, "lr": 1e-3, **changes})
    result = run(method, seed, test) | {"config": asdict(config)}
    if config.task == "cola":
        for scores in result["metrics"].values():
            scores["mcc"] = scores["accuracy"]
    return result


def store_of(path: Path, runs: Iterable[dict[str, Any]]) -> Store:
    """A folder of runs as train leaves them, but without the weights."""
    for result in runs:
        config = RunConfig.from_json(result["config"])
        folder = path / config.run_id("task", result["data"]["fingerprint"])
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return Store(path)


def failed_in(store: Store, reason: str, **changes: Any) -> None:
    """A run that failed."""
    config = RunConfig(**changes)
    folder = store.path / config.run_id("task", "0")
    folder.mkdir(parents=True)
    found = {"config": asdict(config), "kind": "diverged", "reason": reason, "details": ""}
    (folder / "failed.json").write_text(json.dumps(found), encoding="utf-8")


def finished(runs: Iterable[dict[str, Any]]) -> list[Stored]:
    """Finished runs as a store reads them."""
    return [
        Stored(run_id=f"run-{place:010}", state="finished", config=run["config"], result=run)
        for place, run in enumerate(runs)
    ]


def failed(reason: str, **changes: Any) -> Stored:
    """A failed run as a store reads it."""
    config = asdict(RunConfig()) | changes
    failure = Failure(config=config, kind="diverged", reason=reason, details="")
    return Stored(run_id="failed-0123456789", state="failed", config=config, failure=failure)


def fair_store(path: Path, methods: Sequence[str], *, most: int = 1000) -> Store:
    """A folder as the fair protocol leaves it, or after so many runs; LoRA's best rate is 1e-3."""
    settings = [RunConfig(method=method, lr=1e-3) for method in methods]
    protocol, left = Protocol(settings=settings), most
    data = ["ab" * 32] * len(settings)
    Record(protocol=protocol, data=data, command="ailora compare --protocol fair").write(path)

    def do(runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
        nonlocal left
        chosen, left = runs[:left], max(0, left - len(runs))
        made = [_peaked(run) for run in chosen]
        return list(zip(chosen, finished(made), strict=True)) if store_of(path, made) else []

    fair(protocol, do)
    return Store(path)


def _peaked(config: RunConfig) -> dict[str, Any]:
    score = 0.8 - 0.05 * abs(math.log10(config.lr) + 3) + config.seed / 1000
    return full_run(config.method, config.seed, score, lr=config.lr)
