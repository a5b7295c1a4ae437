"""Questions on contexts: loading, windows for a model, answers out of its scores, EM and F1."""

from ailora.lab.tasks.qa.squad import (
    load_squad,
    load_squad_set,
    load_squad_v1,
    load_squad_v2,
    load_xquad_en,
)

__all__ = ["load_squad", "load_squad_set", "load_squad_v1", "load_squad_v2", "load_xquad_en"]
