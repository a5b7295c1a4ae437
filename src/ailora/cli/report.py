"""``ailora report``: a folder of runs as one page, or as tables."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.errors import UserError

if TYPE_CHECKING:
    from ailora.experiments import Store
    from ailora.training import RunConfig

_FORMATS = ("html", "md", "tex")
_MEASURES = ("weights", "function", "value_similarity", "factors")


def report(
    store: Annotated[
        Path,
        typer.Argument(metavar="STORE", help="Folder of runs: --out of train, sweep or paper."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: STORE/report.FORMAT.")
    ] = None,
    style: Annotated[
        str | None, typer.Option("--format", help="html, md or tex. Default: by --out, or html.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(help="Read the trained weights too: norms by layer, subspaces, factors."),
    ] = False,
    watch: Annotated[
        bool, typer.Option(help="Write the page again and again, and let it refresh itself.")
    ] = False,
    every: Annotated[int, typer.Option(help="Seconds between, with --watch.", min=1)] = 10,
) -> None:
    """Put what a folder of runs holds on one page: scores, curves, norms, failures.

    The page is one file that needs no network and no scripts. It tells how to do the same runs
    again. --watch can be stopped at any time; a sweep need not know of it.

    Examples: `ailora report sweep` · `ailora report sweep --format tex --out scores.tex` ·
    `ailora report sweep --watch` · `ailora report paper --measure`
    """
    from ailora.cli.console import console, quiet_libraries

    quiet_libraries()
    chosen = _format(style, out)
    if watch and chosen != "html":
        raise UserError(f"--watch --format {chosen}: only a page can be watched; leave one out")
    path = out or store / f"report.{chosen}"
    runs, figures = _store(store), store / "figures"
    if measure:
        _measure(runs, store.name, figures)
    if not watch:
        words = _write(runs, store.name, path, chosen, figures, None)
    else:
        words = _watch(runs, store.name, path, figures, every)
    console.print(f"{words}\nreport: {path.resolve()}", soft_wrap=True, highlight=False)


def _format(style: str | None, out: Path | None) -> str:
    chosen = style or (out.suffix.removeprefix(".") if out and out.suffix else "html")
    if chosen not in _FORMATS:
        raise UserError(f"--format {chosen!r}: must be {', '.join(_FORMATS)}")
    return chosen


def _store(path: Path) -> Store:
    """The folder itself, or its ``runs``, which compare and paper have."""
    from ailora.experiments import Store

    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give one that train, sweep or paper made")
    own, below = Store(path), Store(path / "runs")
    if own.runs():
        return own
    if below.runs():
        return below
    raise UserError(f"{path}: there are no runs in it; give a folder that holds some")


def _write(
    store: Store, title: str, path: Path, style: str, figures: Path, refresh: int | None
) -> str:
    """Write it; returns how many runs there are."""
    from ailora.files import write_atomic
    from ailora.report.pages.store import as_latex, as_markdown, write_page
    from ailora.report.store import store_report

    found = store_report(store, title)
    if style == "html":
        write_page(found, path, figures=figures, refresh=refresh)
    else:
        write_atomic(path, as_markdown(found) if style == "md" else as_latex(found))
    return found.counted


def _watch(store: Store, title: str, path: Path, figures: Path, every: int) -> str:
    """Until the user stops it; the last page does not refresh any more."""
    from ailora.cli.console import console

    words = _write(store, title, path, "html", figures, every)
    console.print(f"open {path.resolve().as_uri()}; Ctrl-C ends it", soft_wrap=True)
    try:
        with console.status(words) as status:
            while True:
                time.sleep(every)
                status.update(_write(store, title, path, "html", figures, every))
    except KeyboardInterrupt:
        return _write(store, title, path, "html", figures, None)


def _measure(store: Store, title: str, figures: Path) -> None:
    """Read the weights of the reported runs, part by part."""
    from ailora.cli.console import console
    from ailora.cli.figures import measure_and_draw
    from ailora.report.figures.measure import Seen
    from ailora.report.store import store_report

    folders = [
        (run.result, store.path / run.run_id) for run in store.runs() if run.result is not None
    ]
    for part in store_report(store, title).parts:
        console.print(part.title, highlight=False, markup=False)
        runs = part.comparison.runs
        seen = [Seen(run, next(at for one, at in folders if one == run)) for run in runs]
        texts = _texts_of(runs[0])
        measure_and_draw(seen, _MEASURES, texts, figures / part.name)


def _texts_of(run: dict[str, Any]) -> RunConfig | None:
    """The run's own task, if forgetting can be measured on its texts."""
    from ailora.training import RunConfig

    return RunConfig.from_json(run["config"]) if run["data"]["labels"] else None
