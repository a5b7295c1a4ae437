"""How much is done at each scale: rows, epochs, rates and seeds by the kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ailora.lab.training.published import published
from ailora.lab.training.settings import QA, Generation


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one task costs at one scale.

    Attributes:
        settings: Fields of `ailora.lab.training.RunConfig`.
        rates: Learning rates to choose from.
        seeds: Number of seeds, from 0.
    """

    settings: Mapping[str, Any]
    rates: tuple[float, ...]
    seeds: int


def budget(scale: str, task: str, model: str) -> Budget:
    """The budget of a task.

    Args:
        scale: smoke, small or paper.
        task: Name of the task.
        model: Looked at for the paper's scale alone.

    Raises:
        UserError: At the paper's scale, where nothing is published for the task on the model.
    """
    if scale == "paper":
        return _published(task, model)
    kind = _KIND_OF.get(task, "classification")
    return (_SMALL if scale == "small" else _SMOKE)[kind]


def _published(task: str, model: str) -> Budget:
    found = published(task, model)
    # No alpha is the rank, as is published. Said so, the scale stays 1 at other ranks too, and
    # tables and figures that have a run in common share it.
    return Budget(
        settings=MappingProxyType({**found.settings, "alpha": None}),
        rates=found.rates,
        seeds=found.seeds,
    )


def _budget(*rates: float, seeds: int, **settings: Any) -> Budget:
    return Budget(settings=MappingProxyType(settings), rates=rates, seeds=seeds)


_KIND_OF = {
    "squad_v1": "qa",
    "squad_v2": "qa",
    "arithmetic": "arithmetic",
    "xsum": "summaries",
    "cnn_dailymail": "summaries",
}

# Chosen here for the embedded models on two cores: a table takes hours.
_SMALL = {
    "classification": _budget(
        *(1e-3, 2e-3, 4e-3, 8e-3), seeds=5, limit=1000, eval_limit=500, epochs=3, batch_size=16
    ),
    "qa": _budget(
        *(1e-3, 2e-3, 4e-3),
        seeds=5,
        limit=1000,
        eval_limit=300,
        epochs=2,
        batch_size=16,
        max_length=256,
        qa=QA(doc_stride=64),
    ),
    "arithmetic": _budget(
        *(3e-4, 1e-3),
        seeds=5,
        limit=160,
        eval_limit=20,
        epochs=1,
        batch_size=8,
        generation=Generation(max_new_tokens=64, batch_size=16),
    ),
    "summaries": _budget(
        *(3e-4, 1e-3),
        seeds=5,
        limit=100,
        eval_limit=20,
        epochs=1,
        batch_size=4,
        max_length=448,
        generation=Generation(max_new_tokens=48, num_beams=1, batch_size=10),
    ),
}
_TINY: Mapping[str, Any] = {"limit": 16, "eval_limit": 8, "epochs": 1, "batch_size": 8}
_SMOKE = {
    "classification": _budget(2e-3, seeds=1, **{**_TINY, "limit": 64, "eval_limit": 64}),
    "qa": _budget(2e-3, seeds=1, max_length=96, qa=QA(doc_stride=16), **_TINY),
    "arithmetic": _budget(
        1e-3,
        seeds=1,
        generation=Generation(max_new_tokens=12),
        **{**_TINY, "eval_limit": 2},
    ),
    "summaries": _budget(
        1e-3,
        seeds=1,
        max_length=192,
        generation=Generation(max_new_tokens=12, num_beams=1),
        **{**_TINY, "eval_limit": 2},
    ),
}
