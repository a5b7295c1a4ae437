"""``ailora report``: a folder of runs as one page, or as tables."""

from __future__ import annotations

import contextlib
import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.errors import UserError

if TYPE_CHECKING:
    from ailora.lab.experiments import Store
    from ailora.lab.experiments.fair_record import Record
    from ailora.lab.report.fair_page import FairReport
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
        Path | None,
        typer.Option(
            help="File to write. Default: STORE/runs.FORMAT; of a fair comparison "
            "STORE/report.FORMAT."
        ),
    ] = None,
    style: Annotated[
        str | None, typer.Option("--format", help="html, md or tex. Default: by --out, or html.")
    ] = None,
    runs: Annotated[
        bool,
        typer.Option("--runs", help="Of a fair comparison: every run, instead of the verdict."),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            help="Read the trained weights too: norms by layer, subspaces, factors. They are on "
            "the page of --runs."
        ),
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
    again. --watch can be stopped at any time; a sweep need not know of it. Of a folder that
    --protocol fair filled, the page is that comparison's, half done or done.

    Examples: `ailora report sweep` · `ailora report sweep --format tex --out scores.tex` ·
    `ailora report sweep --watch` · `ailora report paper --measure`
    """
    from ailora.cli.console import console, quiet_libraries

    quiet_libraries()
    chosen = _format(style, out)
    if watch and chosen != "html":
        raise UserError(f"--watch --format {chosen}: only a page can be watched; leave one out")
    _check_folder(store, may_be_empty=watch)
    made = _Report(folder=store, out=out, style=chosen, every_run=runs or measure)
    if measure:
        made.measure(texts)
    if watch:
        _watch(made, every)
    found = made.read()
    made.write(found)
    console.print(
        f"{found.counted}\nreport: {made.path.resolve()}", soft_wrap=True, highlight=False
    )


class _Report:
    """What is read, and where it is written."""

    def __init__(self, *, folder: Path, out: Path | None, style: str, every_run: bool) -> None:
        self.folder, self.style, self.every_run = folder, style, every_run
        # Once: what is fair only later goes on under the address that is being watched.
        self.path = out or folder / f"{'report' if self.fair else 'runs'}.{style}"

    @property
    def store(self) -> Store:
        """The folder itself, or its ``runs``, which compare and paper have."""
        from ailora.lab.experiments import Store

        return Store.within(self.folder)

    @property
    def fair(self) -> Record | None:
        """The fair comparison that is to be reported; None for a report of every run."""
        from ailora.lab.experiments.fair_record import Record

        return None if self.every_run else Record.read(self.store.path)

    def read(self) -> StoreReport | FairReport:
        """What the folder holds by now."""
        from ailora.lab.report.fair_page import fair_report

        fair = self.fair
        return self.read_runs() if fair is None else fair_report(fair, self.store)

    def read_runs(self) -> StoreReport:
        """Every run that the folder holds by now."""
        from ailora.lab.experiments.sweep import Agenda
        from ailora.lab.report.store_report import store_report

        if gc.get_freeze_count():  # by the reading before this one
            gc.unfreeze()
            gc.collect()
        agenda = Agenda.read(self.store.path)
        found = store_report(self.store.runs(), self.folder.resolve().name, agenda=agenda)
        gc.freeze()  # figures are full of cycles, runs have none: they need not be searched again
        return found

    def write(self, found: StoreReport | FairReport, refresh: int | None = None) -> None:
        """Write it as the kind of file that was asked for."""
        from ailora.files import write_atomic
        from ailora.lab.report import fair_page, page
        from ailora.lab.report.fair_page import FairReport

        if isinstance(found, FairReport):
            if self.style == "html":
                fair_page.write_fair_page(found, self.path, refresh=refresh)
            else:
                as_text = fair_page.as_markdown if self.style == "md" else fair_page.as_latex
                write_atomic(self.path, as_text(found))
        elif self.style == "html":
            page.write_page(found, self.path, figures=self.folder / "figures", refresh=refresh)
        else:
            text = page.as_markdown(found) if self.style == "md" else page.as_latex(found)
            write_atomic(self.path, text)

    def measure(self, texts: str | None) -> None:
        """Read the weights of the reported runs, part by part; ``texts`` names a task."""
        from ailora.cli.console import console
        from ailora.lab.cli.figures import measure_and_draw
        from ailora.lab.report.figures.panel_tables import Seen

        found = [run for run in self.store.runs() if run.result is not None]
        for part in self.read_runs().parts:
            console.print(part.title, highlight=False, markup=False)
            runs = part.comparison.runs
            names = [next(one.run_id for one in found if one.result == run) for run in runs]
            seen = [
                Seen(run, self.store.path / name) for run, name in zip(runs, names, strict=True)
            ]
            on = _texts_of(runs[0], texts)
            measure_and_draw(seen, _MEASURES, on, self.folder / "figures" / part.name)


def _format(style: str | None, out: Path | None) -> str:
    chosen = style or (out.suffix.removeprefix(".") if out and out.suffix else "html")
    if chosen not in _FORMATS:
        raise UserError(f"--format {chosen!r}: must be {', '.join(_FORMATS)}")
    return chosen


def _check_folder(path: Path, *, may_be_empty: bool) -> None:
    from ailora.lab.experiments import Store

    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give one that train, sweep or paper made")
    if not may_be_empty and not Store.within(path).names():
        raise UserError(f"{path}: there are no runs in it; give a folder that holds some")


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
