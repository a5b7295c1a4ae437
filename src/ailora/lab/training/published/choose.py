"""The published settings of a task on a model, by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ailora.errors import UserError
from ailora.lab.training.published.arithmetic import arithmetic_llama_2_7b
from ailora.lab.training.published.base import Published
from ailora.lab.training.published.glue import (
    DEBERTA_V3_BASE,
    ROBERTA_LARGE,
    glue_deberta_v3_base,
    glue_roberta_large,
)
from ailora.lab.training.published.squad import EPOCHS, squad_roberta_large
from ailora.lab.training.published.summarization import SETS, summarization_bart_large

# Model family -> task -> settings.
PUBLISHED: Mapping[str, Mapping[str, Callable[[], Published]]] = {
    "roberta-large": {
        **{task: partial(glue_roberta_large, task) for task in ROBERTA_LARGE},
        **{task: partial(squad_roberta_large, task) for task in EPOCHS},
    },
    "deberta-v3-base": {task: partial(glue_deberta_v3_base, task) for task in DEBERTA_V3_BASE},
    "llama-2-7b": {"arithmetic": arithmetic_llama_2_7b},
    "bart-large": {task: partial(summarization_bart_large, task) for task in SETS},
}
_OTHER_NAMES = {"llama-2-7b-hf": "llama-2-7b", "llama2-7b": "llama-2-7b"}


def published(task: str, model: str) -> Published:
    """Return the settings published for a task on a model.

    Args:
        task: A task of the paper: a GLUE set, ``squad_v1``, ``squad_v2``, ``arithmetic``, ``xsum``
            or ``cnn_dailymail``; also ``glue/NAME``.
        model: roberta-large, deberta-v3-base, llama-2-7b or bart-large: a hub name or a folder
            counts by its last part, whatever its case. A model tuned further (roberta-large-mnli)
            is another.

    Raises:
        UserError: Nothing is published for the two together; the message lists what is.
    """
    name = task.removeprefix("glue/")
    last = model.rstrip("/").rsplit("/", 1)[-1].lower()
    tasks = PUBLISHED.get(_OTHER_NAMES.get(last, last), {})
    if name not in tasks:
        raise UserError(
            f"no settings are published for task {task!r} on model {model!r}; there are {_known()}"
        )
    return tasks[name]()


def _known() -> str:
    return "; ".join(f"{', '.join(tasks)} on {family}" for family, tasks in PUBLISHED.items())
