"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ailora.errors import UserError

Model = Annotated[str, typer.Option(help="'demo', a folder, or a hub name.")]
Task = Annotated[
    str,
    typer.Option(
        help="'movies' or 'movies-regression' (embedded), a csv, tsv or jsonl file (also .gz), "
        "a folder with train.*, dev.*, test.*, or a hub name such as glue/cola."
    ),
]
Rank = Annotated[int, typer.Option(help="Rank of the factors.")]
Alpha = Annotated[float | None, typer.Option(help="Scale is alpha / rank. Default: the rank.")]
Epochs = Annotated[float, typer.Option(help="Passes over the training rows.")]
BatchSize = Annotated[int, typer.Option(help="Rows a step.")]
Limit = Annotated[int | None, typer.Option(help="Most rows to train on.")]
EvalLimit = Annotated[int | None, typer.Option(help="Most rows to select by, and to test on.")]
MaxLength = Annotated[
    int | None, typer.Option(help="Tokens kept of a row. Default: by the kind of task, 128 to 512.")
]
Text = Annotated[
    str | None,
    typer.Option(help="Text column, or two with a comma between. Default: by their usual names."),
]
Label = Annotated[str, typer.Option(help="Label column.")]
Dev = Annotated[str | None, typer.Option(help="File with the rows to select by.")]
Test = Annotated[str | None, typer.Option(help="File with the rows to test on.")]
Regression = Annotated[
    bool | None,
    typer.Option("--regression/--classification", help="Default: by the labels."),
]
Metrics = Annotated[
    str | None,
    typer.Option(help="accuracy, f1, mcc, or pearson, spearman; the first is the headline."),
]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]


def names(option: str, value: str) -> tuple[str, ...]:
    """The comma-separated names of an option."""
    found = tuple(part.strip() for part in value.split(",") if part.strip())
    if not found:
        raise UserError(f"{option} {value!r}: give at least one name")
    return found


def optional_names(option: str, value: str | None) -> tuple[str, ...] | None:
    """The comma-separated names of an option that may be left out."""
    return None if value is None else names(option, value)


def numbers(option: str, value: str, kind: type[int] | type[float]) -> tuple[float, ...]:
    """The comma-separated numbers of an option."""
    try:
        return tuple(kind(part) for part in names(option, value))
    except ValueError as error:
        word = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{option} {value!r}: must be {word} with commas between") from error
