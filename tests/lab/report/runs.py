"""Hand-made finished runs with the shape of a run's result.json."""

from __future__ import annotations

from typing import Any

from ailora.lab.report.comparison import Comparison


def run(method: str, seed: int, test: float, *, lr: float = 1e-3, **changes: Any) -> dict[str, Any]:
    """One finished run; ``changes`` replace parts of its config."""
    config = {"method": method, "model": "demo", "task": "movies", "rank": 8, "lr": lr}
    config |= {"seed": seed, "epochs": 2, "batch_size": 16, "monitor_rows": 10, **changes}
    history = [
        {"step": 0, "epoch": 0.0, "loss": None, "accuracy": 0.5},
        {"step": 10, "epoch": 1.0, "loss": 0.6 + seed / 100, "accuracy": test - 0.1},
        {"step": 20, "epoch": 2.0, "loss": 0.4, "accuracy": test},
    ]
    updates = [
        {"name": f"layer.{layer}.{role}", "role": role, "norm": 1.0 + layer, "relative": 0.1}
        for layer in range(3)
        for role in "qv"
    ]
    return {
        "config": config,
        "data": {
            "train": 100,
            "selection": 50,
            "test": 60,
            "labels": ["bad", "good"],
            "metric": "accuracy",
            "fingerprint": "ab" * 32,
        },
        "metrics": {"selection": {"accuracy": test + 0.01}, "test": {"accuracy": test}},
        "majority": 0.5,
        "history": history,
        "parameters": {"adapter": 1000, "head": 10, "all": 5000},
        "seconds": {"init": 0.1, "train": 2.0, "evaluate": 0.5},
        "step0_deviation": 0.0,
        "updates": updates,
        "environment": {"python": "3.11", "cpu": "some", "cores": 2},
    }


def comparison(runs: list[dict[str, Any]], **changes: Any) -> Comparison:
    """A comparison at one rate, unless changed."""
    given: dict[str, Any] = {
        "runs": runs,
        "chosen": "fixed",
        "rates": (1e-3,),
    }
    return Comparison(**{**given, **changes})
