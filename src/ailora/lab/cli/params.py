"""``ailora params``: how many parameters each method trains, without loading a weight."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.errors import UserError
from ailora.lab.cli import options
from ailora.lab.settings import RunConfig

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.lab.methods.counting import Counts


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One line of the table; where the method does not fit the model, `note` says why."""

    name: str
    label: str
    counts: Counts | None = None
    paper: float | None = None
    paper_counts: str = ""
    note: str = ""


def params(
    model: Annotated[
        str,
        typer.Option(
            help="roberta-large, deberta-v3-base, bart-large, llama-2-7b, 'demo', a folder with "
            "a config.json, or a hub name."
        ),
    ] = "roberta-large",
    method: Annotated[
        str | None, typer.Option(help="Methods, separated by commas. Default: all.")
    ] = None,
    rank: Annotated[int, typer.Option(help="Rank of the factors.")] = 8,
    labels: Annotated[int, typer.Option(help="Classes, for models with a classifier.")] = 2,
    table: Annotated[
        int | None, typer.Option(help="4 or 5: the rows of that table of the paper.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Count what each method trains, with the task's head and without it.

    Only the model's config is read. RoBERTa-large's numbers stand beside the paper's.

    Examples: `ailora params` · `ailora params --table 5` ·
    `ailora params --model llama-2-7b --method ailora,dora --rank 32`
    """
    from ailora.cli.console import console, quiet_libraries, show

    quiet_libraries()
    _check(model, method, rank, labels, table)
    with console.status("counting"):
        rows = _ranks(labels) if table == 5 else _methods(model, method, rank, labels, table)
    if as_json:
        console.print_json(data=[_plain(row) for row in rows])
    else:
        show(
            _table(model, rows),
            whole=("method", "adapter", "the paper (which)"),
            drop=("head", "both"),
        )


def _check(model: str, method: str | None, rank: int, labels: int, table: int | None) -> None:
    from ailora.lab.methods.architectures import MODEL

    for option, value in (("--rank", rank), ("--labels", labels)):
        if value < 1:
            raise UserError(f"{option} {value}: must be at least 1")
    if table is None:
        return
    if table not in (4, 5):
        raise UserError(f"--table {table}: must be 4 or 5, the tables with parameter counts")
    if model != MODEL or method is not None or rank != 8:
        raise UserError(
            f"--table {table} is of {MODEL} at the paper's ranks; leave out --model, --method "
            "and --rank"
        )


def _methods(
    model: str, method: str | None, rank: int, labels: int, table: int | None
) -> list[_Row]:
    from ailora.lab.methods import METHODS, method_named
    from ailora.lab.methods.architectures import MODEL, TABLE_4
    from ailora.lab.methods.counting import count_without_weights

    names = options.names("--method", method) if method else tuple(TABLE_4 if table else METHODS)
    chosen = [method_named(name) for name in names]
    config, settings = _config(model), RunConfig(rank=rank)
    published = TABLE_4 if model == MODEL and rank == 8 and labels == 2 else {}
    rows = []
    for one in chosen:
        try:
            counts = count_without_weights(config, one, settings, labels)
        except UserError as error:  # noqa: PERF203
            rows.append(_Row(name=one.name, label=one.label, note=str(error)))
        else:
            rows.append(_row(one.name, one.label, counts, published.get(one.name)))
    return rows


def _ranks(labels: int) -> list[_Row]:
    """AILoRA with the ranks of Table 5."""
    from ailora.lab.methods import METHODS
    from ailora.lab.methods.architectures import MODEL, TABLE_5, TABLE_5_MILLIONS
    from ailora.lab.methods.counting import count_without_weights
    from ailora.lab.settings import RunConfig

    config = _config(MODEL)
    return [
        _row(
            "ailora",
            setting,
            count_without_weights(config, METHODS["ailora"], RunConfig(ranks=ranks), labels),
            TABLE_5_MILLIONS,
        )
        for setting, ranks in TABLE_5.items()
    ]


def _row(name: str, label: str, counts: Counts, paper: float | None) -> _Row:
    which = "" if paper is None else _what_the_paper_counts(counts, paper)
    return _Row(name=name, label=label, counts=counts, paper=paper, paper_counts=which)


def _what_the_paper_counts(counts: Counts, paper: float) -> str:
    """The column whose number, in millions to two places, is the paper's."""
    columns = {"adapter": counts.adapter, "both": counts.trainable}
    fitting = (name for name, number in columns.items() if round(number / 1e6, 2) == paper)
    return next(fitting, "neither")


def _config(model: str) -> Any:
    """Config of a named architecture, or of what a user has; nothing of the folder is run."""
    from transformers import AutoConfig

    from ailora.lab import demo
    from ailora.lab.methods.architectures import ARCHITECTURES, architecture

    if model in ARCHITECTURES:
        return architecture(model)
    source = str(demo.encoder_dir()) if model == "demo" else str(Path(model).expanduser())
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model {model!r}: its config cannot be read; give {', '.join(ARCHITECTURES)}, "
            "'demo', a folder with a config.json, or a hub name that is cached or reachable"
        ) from error


def _plain(row: _Row) -> dict[str, Any]:
    found: dict[str, Any] = {"method": row.name, "label": row.label}
    if row.counts is not None:
        found |= {**asdict(row.counts), "trainable": row.counts.trainable}
    return {
        **found,
        "paper_millions": row.paper,
        "paper_counts": row.paper_counts,
        "note": row.note,
    }


def _table(model: str, rows: list[_Row]) -> Table:
    from rich.table import Table

    found = Table(title=f"trainable parameters, {model}", title_justify="left")
    found.add_column("method", no_wrap=True)
    for column in ("adapter", "head", "both"):
        found.add_column(column, justify="right", no_wrap=True)
    compared, noted = any(row.paper for row in rows), any(row.note for row in rows)
    if compared:
        found.add_column("the paper (which)", justify="right", no_wrap=True)
        found.caption = "The paper counts the classifier in some of its rows and not in others."
        found.caption_justify = "left"
    if noted:
        found.add_column("note")
    for row in rows:
        paper = [f"{row.paper:.2f}M ({row.paper_counts})" if row.paper else ""] * compared
        found.add_row(row.label, *_cells(row.counts), *paper, *[row.note] * noted)
    return found


def _cells(counts: Counts | None) -> list[str]:
    if counts is None:
        return ["-"] * 3
    return [f"{number:,}" for number in (counts.adapter, counts.head, counts.trainable)]
