"""The tasks that have a name: the embedded ones and the paper's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ailora.lab.tasks.arithmetic.load import load_arithmetic
from ailora.lab.tasks.base import Task
from ailora.lab.tasks.classification.glue import GLUE, load_glue
from ailora.lab.tasks.classification.movies import load_movies
from ailora.lab.tasks.qa import load_squad_v1, load_squad_v2, load_xquad_en
from ailora.lab.tasks.summarization import SETS, load_summarization

EMBEDDED: dict[str, Callable[..., Task]] = {
    "movies": load_movies,
    "movies-regression": partial(load_movies, regression=True),
}
PAPER: dict[str, Callable[..., Task]] = {
    **{name: partial(load_glue, name) for name in GLUE},
    "squad_v1": load_squad_v1,
    "squad_v2": load_squad_v2,
    "xquad_en": load_xquad_en,
    "arithmetic": load_arithmetic,
    **{name: partial(load_summarization, name) for name in SETS},
}
NAMED = {**EMBEDDED, **PAPER}

# What the hub calls some of them: the same data, but then nobody would score them as the paper.
_ALIASES = {
    **{f"{owner}glue/{name}": name for owner in ("", "nyu-mll/") for name in GLUE},
    "rajpurkar/squad": "squad_v1",
    "rajpurkar/squad_v2": "squad_v2",
    **{known.hub: name for name, known in SETS.items() if known.hub},
}


def canonical(name: str) -> str:
    """The name in `NAMED` of a hub data set that has one there, else ``name`` itself."""
    return _ALIASES.get(name, name)
