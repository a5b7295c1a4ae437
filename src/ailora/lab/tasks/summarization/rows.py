"""What a row of a summarisation set means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ailora.lab.tasks.generation.pairs import Pair, ToPair, check_columns, text_in
from ailora.lab.tasks.tables.read import Table, brief

# What a decoder reads. A heading that it then writes itself ends its summary.
TEMPLATE = "### Document:\n{source}\n\n### Summary:\n"
METRICS = ("rouge1", "rouge2", "rougeL")
REFERENCES = "references"


def check(tables: Mapping[str, Table], document: str, summary: str) -> None:
    """Raise a UserError for a table without documents, or without any summaries."""
    for table in tables.values():
        alone = () if REFERENCES in table.columns else (summary,)
        check_columns(table, (document, *alone))


def to_pair(document: str, summary: str) -> ToPair:
    """Return a function from a row to what is read, learned and compared.

    The summary is learned. Where a row has ``references``, a list of texts, generated ones are
    compared with those, and a row without a summary learns the first.
    """

    def pair(row: Mapping[str, Any]) -> Pair:
        source = text_in(row, document)
        given = row.get(REFERENCES)
        if given is None:
            target = text_in(row, summary)
            return Pair(source=source, target=target, references=(target,))
        references = _texts(given)
        target = references[0] if row.get(summary) is None else text_in(row, summary)
        return Pair(source=source, target=target, references=references)

    return pair


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"column {REFERENCES!r}: expected a list of one or more texts, got {brief(value)}"
        )
    return tuple(text_in({REFERENCES: text}, REFERENCES) for text in value)
