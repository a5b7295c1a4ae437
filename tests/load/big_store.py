"""A folder of many runs, made of one real run's files: other settings and scores, same sizes."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ailora.lab.settings import RunConfig

METHODS = ("ailora", "lora", "pissa", "milora", "reailora")


def fill(store: Path, run: Path, count: int, *, tasks: int) -> None:
    """Make ``count`` runs of a finished one: five methods, eight rates, as many seeds as it takes.

    Every fiftieth failed and every fiftieth after it was broken off.

    Args:
        store: The folder to make.
        run: Folder of the finished run.
        count: Number of runs.
        tasks: Number of tasks that they are on; each is a part of a report.
    """
    store.mkdir(parents=True)
    result = json.loads((run / "result.json").read_text())
    started = json.loads((run / "config.json").read_text())
    others = [path for path in run.iterdir() if path.name not in ("result.json", "config.json")]
    draw = random.Random(0)  # noqa: S311
    for number, config in enumerate(itertools.islice(_settings(result["config"], tasks), count)):
        name = RunConfig.from_json(config).run_id("big", str(number))
        (store / name).mkdir()
        for path in others:
            _link(path, store / name / path.name)
        _write(store / name / "config.json", {**started, "config": config})
        if number % 50 == 1:
            reason = "training diverged: the loss is nan at step 12; lower the learning rate"
            failure = {"config": config, "kind": "diverged", "reason": reason, "details": ""}
            _write(store / name / "failed.json", failure)
        elif number % 50 != 2:
            _write(store / name / "result.json", _scored({**result, "config": config}, draw))


def _settings(config: dict[str, Any], tasks: int) -> Iterator[dict[str, Any]]:
    rates = [1e-4 * 2**n for n in range(8)]
    for seed in itertools.count():
        for task, rate, method in itertools.product(range(tasks), rates, METHODS):
            own = {"task": f"data/task-{task}", "lr": rate, "method": method, "seed": seed}
            yield {**config, **own}


def _scored(result: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    scores = {
        split: {name: draw.uniform(0.7, 0.9) for name in own}
        for split, own in result["metrics"].items()
    }
    return {**result, "metrics": scores}


def _link(path: Path, to: Path) -> None:
    """The same file once more; a folder with its files."""
    if path.is_dir():
        to.mkdir()
        for inner in path.iterdir():
            _link(inner, to / inner.name)
    else:
        os.link(path, to)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
