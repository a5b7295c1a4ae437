"""``ailora report``: a folder of runs as one page, or as tables."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.errors import UserError

if TYPE_CHECKING:
    from ailora.lab.experiments import Store
    from ailora.lab.report.store_report import StoreReport
    from ailora.lab.training import RunConfig

_FORMATS = ("html", "md", "tex")
_MEASURES = ("weights", "function", "value_similarity", "factors")


def report(
    store: Annotated[
        Path,
        typer.Argument(metavar="STORE", help="Folder of runs: --out of train, sweep or paper."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: STORE/runs.FORMAT.")
    ] = None,
    style: Annotated[
        str | None, typer.Option("--format", help="html, md or tex. Default: by --out, or html.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(help="Read the trained weights too: norms by layer, subspaces, factors."),
    ] = False,
    texts: Annotated[
        str | None,
        typer.Option(
            help="With --measure: task whose test texts forgetting is measured on, best one of "
            "another kind. Default: each run's own."
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option(help="Keep rewriting the page, which refreshes itself.")
    ] = False,
    every: Annotated[int, typer.Option(help="With --watch: seconds between pages.", min=1)] = 10,
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
    made = _Report(
        store=_store(store, may_be_empty=watch),
        title=store.resolve().name,
        path=out or store / f"runs.{chosen}",
        style=chosen,
        figures=store / "figures",
    )
    if measure:
        made.measure(texts)
    if watch:
        _watch(made, every)
    found = made.read()
    made.write(found)
    console.print(
        f"{found.counted}\nreport: {made.path.resolve()}", soft_wrap=True, highlight=False
    )


@dataclass(frozen=True, kw_only=True)
class _Report:
    """What is read, and where it is written."""

    store: Store
    title: str
    path: Path
    style: str
    figures: Path

    def read(self) -> StoreReport:
        from ailora.lab.experiments.sweep import Agenda
        from ailora.lab.report.store_report import store_report

        agenda = Agenda.read(self.store.path)
        return store_report(self.store.runs(), self.title, agenda=agenda)

    def write(self, found: StoreReport, refresh: int | None = None) -> None:
        from ailora.files import write_atomic
        from ailora.lab.report.page import as_latex, as_markdown, write_page

        if self.style == "html":
            write_page(found, self.path, figures=self.figures, refresh=refresh)
        else:
            text = as_markdown(found) if self.style == "md" else as_latex(found)
            write_atomic(self.path, text)

    def measure(self, texts: str | None) -> None:
        """Read the weights of the reported runs, part by part; ``texts`` names a task."""
        from ailora.cli.console import console
        from ailora.lab.cli.figures import measure_and_draw
        from ailora.lab.report.figures.panel_tables import Seen

        found = [run for run in self.store.runs() if run.result is not None]
        for part in self.read().parts:
            console.print(part.title, highlight=False, markup=False)
            runs = part.comparison.runs
            names = [next(one.run_id for one in found if one.result == run) for run in runs]
            seen = [
                Seen(run, self.store.path / name) for run, name in zip(runs, names, strict=True)
            ]
            on = _texts_of(runs[0], texts)
            measure_and_draw(seen, _MEASURES, on, self.figures / part.name)


def _format(style: str | None, out: Path | None) -> str:
    chosen = style or (out.suffix.removeprefix(".") if out and out.suffix else "html")
    if chosen not in _FORMATS:
        raise UserError(f"--format {chosen!r}: must be {', '.join(_FORMATS)}")
    return chosen


def _store(path: Path, *, may_be_empty: bool) -> Store:
    """The folder itself, or its ``runs``, which compare and paper have."""
    from ailora.lab.experiments import Store

    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give one that train, sweep or paper made")
    own = Store.within(path)
    if not may_be_empty and not own.names():
        raise UserError(f"{path}: there are no runs in it; give a folder that holds some")
    return own


def _watch(made: _Report, every: int) -> None:
    """Write the page whenever something has changed, until the user stops it."""
    from ailora.cli.console import console

    found = made.read()
    made.write(found, refresh=every)
    address = made.path.resolve().as_uri()
    console.print(f"open {address}; Ctrl-C ends it", soft_wrap=True, highlight=False)
    with contextlib.suppress(KeyboardInterrupt), console.status(found.counted) as status:
        while True:
            time.sleep(every)
            before, found = found, made.read()
            if found != before:
                made.write(found, refresh=every)
                status.update(found.counted)


def _texts_of(run: dict[str, Any], other: str | None) -> RunConfig | None:
    """Settings of the task whose texts are taken; None if forgetting cannot be measured on it."""
    from ailora.lab.training import RunConfig

    if other is not None:
        return RunConfig(task=other, data=run["config"]["data"])
    return RunConfig.from_json(run["config"]) if run["data"]["labels"] else None
