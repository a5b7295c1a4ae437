"""``ailora analyze``: what training did to a model's weights, or what they are like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.lab.analysis.changes import Change
    from ailora.lab.analysis.forgetting import OnTexts
    from ailora.lab.analysis.layers import LayerRow
    from ailora.lab.analysis.runs import Run
    from ailora.roles.spectra import Spectrum

Row = dict[str, Any]

# Columns of the two tables, and fields of `flat` rows; one without any value is left out.
_HOW_FAR = (
    ("||dW||", "norm"),
    ("/ ||W||", "relative"),
    ("eff. rank", "effective_rank"),
    ("B ~ B0", "start_left"),
    ("A ~ A0", "start_right"),
    ("intruders", "intruders"),
)
_WHERE_TO = (
    ("B A left", "factors_left"),
    ("B A right", "factors_right"),
    ("dW left", "update_left"),
    ("dW right", "update_right"),
    ("chance", "random_left"),
)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the command shows.

    Attributes:
        title: Heading above the tables.
        tables: What prints each table on the terminal.
        files: Rows of each CSV file, by its name; the first are those of the JSON.
        words: Lines below the tables.
        texts: What was measured on texts.
    """

    title: str
    tables: list[Callable[[], None]]
    files: dict[str, Sequence[Row]]
    words: list[str]
    texts: Row | None = field(default=None)


def analyze(
    what: Annotated[str, typer.Argument(help="A run's folder; or a model, to see its spectra.")],
    other: Annotated[
        str | None, typer.Argument(help="A second model, to see what changed from the first.")
    ] = None,
    full: Annotated[
        Path | None,
        typer.Option(help="With a run: a run of method 'full' on the same task, to compare with."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="With a run: a file of texts, one per line, to compare predictions on."),
    ] = None,
    rank: Annotated[int, typer.Option(help="With a model: values in the part that trains.")] = 8,
    intruders: Annotated[
        bool, typer.Option(help="Look for intruder dimensions: a full SVD per weight.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for CSV files.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Measure how far training moved each weight, and where to; or a model's spectra.

    Examples: `ailora analyze runs/ailora-cola-1a2b3c4d5e` ·
    `ailora analyze runs/ailora-cola-1a2b3c4d5e --full runs/full-cola-6f7a8b9c0d --out analysis` ·
    `ailora analyze demo` · `ailora analyze bert-base-uncased my-finetuned-bert`
    """
    from ailora.cli.console import console, quiet_libraries
    from ailora.lab.analysis.runs import is_run

    quiet_libraries()
    path = Path(what).expanduser()
    _check(other, full, texts, of_run=is_run(path))
    with console.status("measuring"):
        if is_run(path):
            found = _of_run(path, full, texts, intruders)
        elif other is not None:
            found = _between(what, other, intruders)
        else:
            found = _of_model(what, rank)
    _show(found, as_json)
    if out is not None:
        _write(found, out)


def _check(other: str | None, full: Path | None, texts: Path | None, *, of_run: bool) -> None:
    if of_run and other is not None:
        raise UserError(
            f"{other}: a run is analysed alone; give a run of full fine-tuning with --full"
        )
    for option, value in (("--full", full), ("--texts", texts)):
        if value is not None and not of_run:
            raise UserError(f"{option} {value}: is for the analysis of a run's folder")


def _of_run(path: Path, full: Path | None, texts: Path | None, intruders: bool) -> _Found:
    from ailora.lab.analysis.forgetting import on_texts, read_texts
    from ailora.lab.analysis.runs import check_comparable, read_run
    from ailora.lab.methods.variants import in_words

    lines = read_texts(texts) if texts else None
    run = read_run(path)
    reference, notes = None, []
    if full is not None:
        reference = read_run(full)
        notes = [f"Mind: {note}." for note in check_comparable(run, reference)]
    said = on_texts(run, lines) if lines else None
    return _changed(
        f"{in_words(run.method)} on {run.task}, seed {run.seed}",
        run.changes,
        reference,
        intruders,
        [*notes, *(_on_texts(said) if said else [])],
        texts=asdict(said) if said else None,
    )


def _between(before: str, after: str, intruders: bool) -> _Found:
    from ailora.lab.analysis.changes import changes_between
    from ailora.pretrained import load_backbone

    changes = changes_between(load_backbone(before), load_backbone(after))
    return _changed(f"from {before} to {after}", changes, None, intruders, [])


def _changed(
    title: str,
    changes: Sequence[Change],
    full: Run | None,
    intruders: bool,
    more: list[str],
    texts: Row | None = None,
) -> _Found:
    from ailora.lab.analysis import findings
    from ailora.lab.analysis.layers import flat, layer_rows

    rows = layer_rows(changes, full.changes if full else None, with_intruders=intruders)
    return _Found(
        title=title,
        tables=[partial(_show_layers, one) for one in _layer_tables(rows)] if rows else [],
        files={"layers.csv": [flat(row) for row in rows]},
        words=[
            *findings.on_layers(rows),
            *more,
            "Seen on one pair of models: what other seeds, tasks or models give is not in it.",
        ],
        texts=texts,
    )


def _of_model(model: str, rank: int) -> _Found:
    from ailora.cli.inspect import show_spectra
    from ailora.lab.analysis import findings
    from ailora.pretrained import load_backbone
    from ailora.roles.spectra import spectra
    from ailora.roles.walk import spread

    found = spectra(load_backbone(model), rank=rank)
    values = [
        {**spread(one), "index": index, "value": value, "chosen": index in one.chosen}
        for one in found
        for index, value in enumerate(one.values)
    ]
    return _Found(
        title=f"spectra of {model}",
        tables=[partial(show_spectra, found)],
        files={"spectra.csv": [_spectra_row(one) for one in found], "singular_values.csv": values},
        words=findings.on_spectra(found),
    )


def _layer_tables(rows: Sequence[LayerRow]) -> list[Table]:
    """How far each projection moved and, where that was measured, in which directions."""
    found = [_layer_table(rows, _HOW_FAR)]
    if any(row.factors for row in rows):
        found.append(_layer_table(rows, _WHERE_TO))
        found[-1].title = "similarity to full fine-tuning's dW (1: the same subspace)"
    return found


def _show_layers(table: Table) -> None:
    """Print a table of layers; what is measured first says most, and stays longest."""
    from ailora.cli.console import show

    titles = [str(column.header) for column in table.columns]
    show(table, whole=titles[:3], drop=titles[:2:-1])


def _spectra_row(one: Spectrum) -> dict[str, Any]:
    """A spectrum as numbers, for files."""
    from ailora.roles.walk import spread

    return {
        **spread(one),
        "rows": one.shape[0],
        "columns": one.shape[1],
        "largest": one.values[0],
        "median": one.median,
        "smallest": one.values[-1],
        "effective_rank": one.effective_rank,
        "stable_rank": one.stable_rank,
        "part": one.part,
        "rank": one.rank,
        "energy_share": one.energy_share,
    }


def _layer_table(rows: Sequence[LayerRow], columns: Sequence[tuple[str, str]]) -> Table:
    from rich.table import Table

    from ailora.cli.inspect import cell, where
    from ailora.lab.analysis.layers import flat

    table, several = Table(title_justify="left"), len({row.stack for row in rows}) > 1
    cells = [flat(row) for row in rows]
    shown = [(title, name) for title, name in columns if any(c[name] is not None for c in cells)]
    for title in ("layer", "role"):
        table.add_column(title)
    for title, _ in shown:
        table.add_column(title, justify="right")
    for row, values in zip(rows, cells, strict=True):
        place = where(row, with_stack=several)
        table.add_row(place, row.role, *(cell(values[name]) for _, name in shown))
    return table


def _on_texts(said: OnTexts) -> list[str]:
    lines = [
        f"On {said.texts} texts the last hidden states moved by {said.drift.relative:.3g} of their "
        f"length (mean cosine {said.drift.cosine:.4f}, n = {said.drift.tokens} tokens)."
    ]
    if said.forgetting is None:
        return [*lines, f"Forgetting was not measured: {said.reason}."]
    one = said.forgetting
    return [
        *lines,
        f"Forgetting: cross-entropy {one.cross_entropy:.4f} nats against the base's predictions, "
        f"of which {one.entropy:.4f} are the base's own entropy and {one.kl:.4f} the change (KL); "
        f"n = {one.positions} positions.",
    ]


def _show(found: _Found, as_json: bool) -> None:
    from rich.markup import escape

    from ailora.cli.console import console

    if as_json:
        rows = next(iter(found.files.values()))
        data = {"title": found.title, "rows": rows, "words": found.words, "texts": found.texts}
        console.print_json(data=data)
        return
    console.print(escape(found.title), highlight=False)
    for show_table in found.tables:
        show_table()
    for line in found.words:
        console.print(line, highlight=False, markup=False)


def _write(found: _Found, out: Path) -> None:
    import pandas as pd

    from ailora.files import write_atomic

    for name, rows in found.files.items():
        write_atomic(out / name, pd.DataFrame(list(rows)).to_csv(index=False))
