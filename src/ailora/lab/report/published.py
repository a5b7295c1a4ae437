"""The paper's tables, and what its text says of them, as data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from ailora.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("table1", "table2", "table3", "table4", "table5", "table6")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of scores.

    Attributes:
        label: Heading in the paper.
        task: Name of the task here.
        metric: Name of the score here.
        group: Group of the task's rows that the score is of; None for all.
    """

    label: str
    task: str
    metric: str
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
        model: roberta-large, deberta-v3-base, llama-2-7b or bart-large.
        method: Name of the method here.
        ranks: Ranks by role, where they are what the table varies.
        parameters: Trainable parameters in millions, where the table has them.
        scores: Scores in percent, one per column.
    """

    model: str
    method: str
    scores: tuple[float, ...]
    ranks: Mapping[str, int] | None = None
    parameters: float | None = None


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table of the paper.

    Attributes:
        name: table1 to table6.
        title: Caption.
        source: Where in the paper it is.
        columns: Columns of scores.
        rows: Rows in the paper's order.
        seeds: Number of runs that a score averages; None where the paper does not say.
        seeds_source: Where the paper says so.
    """

    name: str
    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    seeds: int | None = None
    seeds_source: str = "not stated"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A figure in the paper's text, and the same figure worked out from its tables.

    Attributes:
        name: Name of the statement here.
        source: Where in the paper it is, and the table it refers to.
        says: The statement in our words.
        stated: The figures in the text.
        found: The same figures worked out from the tables.
        note: What else one should know.
    """

    name: str
    source: str
    says: str
    stated: tuple[float, ...]
    found: tuple[float, ...]
    note: str = ""


def paper_table(name: str) -> PaperTable:
    """One of the paper's tables.

    Args:
        name: table1 to table6.

    Raises:
        UserError: There is no such table.
    """
    if name not in TABLES:
        raise UserError(f"the paper has no {name!r}; there are {', '.join(TABLES)}")
    found = _content()[name]
    return PaperTable(
        name=name,
        title=found["title"],
        source=found["source"],
        columns=tuple(Column(**column) for column in found["columns"]),
        rows=tuple(map(_row, found["rows"])),
        **{key: found[key] for key in ("seeds", "seeds_source") if key in found},
    )


def claims() -> tuple[Statement, ...]:
    """Statements of the text that its tables bear out."""
    return tuple(map(_statement, _content()["claim"]))


def disagreements() -> tuple[Statement, ...]:
    """Statements that the tables do not bear out."""
    return tuple(map(_statement, _content()["disagreement"]))


@cache
def _content() -> dict[str, Any]:
    text = files("ailora.lab.report").joinpath("published.toml").read_text("utf-8")
    found: dict[str, Any] = tomllib.loads(text)
    return found


def _row(found: Mapping[str, Any]) -> Row:
    ranks = found.get("ranks")
    own = {**found, "scores": tuple(found["scores"])}
    return Row(**{**own, "ranks": None if ranks is None else MappingProxyType(dict(ranks))})


def _statement(found: Mapping[str, Any]) -> Statement:
    return Statement(
        **{**found, "stated": _numbers(found["stated"]), "found": _numbers(found["found"])}
    )


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value if isinstance(value, list) else [value]))
