"""``ailora paper``: the runs behind one table or figure of the paper, and their results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ailora.errors import UserError
from ailora.lab.cli import options

if TYPE_CHECKING:
    from ailora.lab.experiments import Outcome
    from ailora.lab.experiments.recipes import Recipe


def paper(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="table1 to table6, figure1, figure3 to figure8.")
    ],
    scale: Annotated[
        str,
        typer.Option(
            help="smoke: a minute on embedded models; small: hours, with --data; paper: the "
            "paper's models, data, rates and seeds in full."
        ),
    ] = "smoke",
    data: Annotated[
        str | None, typer.Option(help="Folder with the paper's tasks. Default: what is embedded.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model in place of the scale's: a folder, or a hub name.")
    ] = None,
    out: options.Out = Path("paper"),
    dry_run: Annotated[bool, typer.Option(help="Print what would run, and write nothing.")] = False,
    estimate: options.Estimate = True,
    retry_failed: options.RetryFailed = False,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    threads: options.Threads = None,
    address: options.Address = None,
    cpus_per_run: options.CpusPerRun = 1,
    gpus_per_run: options.GpusPerRun = 0,
) -> None:
    """Run what is behind one table or figure, and lay the scores beside the published ones.

    Runs that are finished in --out are not run again, whichever table they were made for.

    Examples: `ailora paper table1` · `ailora paper table1 --scale paper --dry-run` ·
    `ailora paper table4 --scale small --data sets`
    """
    from ailora.cli.console import console, quiet_libraries, show
    from ailora.lab.cli import sweeps
    from ailora.lab.cli.words import plan_table
    from ailora.lab.experiments import Store
    from ailora.lab.experiments.grid import distinct
    from ailora.lab.experiments.recipes import check_scale, make_recipe
    from ailora.lab.experiments.wording import counted
    from ailora.lab.training.folder import check_writable

    quiet_libraries()
    recipe = make_recipe(name, check_scale(scale), data=data, model=model)
    chosen = sweeps.engine_named(engine, workers, threads, address, cpus_per_run, gpus_per_run)
    number = len(distinct(recipe.grids))
    title = f"{recipe.name}: {recipe.title}"
    show(plan_table(title, recipe.grids, f"{counted(number, 'run')} in all"), whole=("runs",))
    for note in recipe.notes:
        console.print(f"note: {note}", style="dim", highlight=False, markup=False)
    if dry_run:
        return
    check_writable(out)
    outcome = sweeps.do_runs(
        distinct(recipe.grids), Store(out / "runs"), chosen, estimate=estimate, retry=retry_failed
    )
    _report(recipe, scale, outcome, out)
    if recipe.figure:
        _figures(recipe, outcome, out)
    if outcome.failed:
        raise typer.Exit(1)


def _report(recipe: Recipe, scale: str, outcome: Outcome, out: Path) -> None:
    from ailora.cli.console import console, show
    from ailora.files import write_atomic
    from ailora.lab.cli import sweeps
    from ailora.lab.experiments.best_rates import varied
    from ailora.lab.report.published import paper_table
    from ailora.lab.report.score_lines import conclusions, lines_of
    from ailora.lab.report.score_table import laid_out

    if not outcome.runs:
        raise UserError(f"every run failed; the first: {outcome.failed[0].reason}")
    published = paper_table(recipe.beside) if recipe.beside else None
    lines = lines_of(published, outcome.runs)
    made = laid_out(f"{recipe.name} ({scale}): {recipe.title}", lines)
    said = conclusions(lines)
    measured = [title for title in made.header if title.endswith("s.d.")]
    others = [title for title in reversed(made.header[2:]) if title not in measured]
    show(made.rich(), whole=("method", *measured), drop=others)
    for words in said:
        console.print(words, highlight=False, markup=False)
    sweeps.say_failed(outcome, varied([failed.config for failed in outcome.failed]))
    page = out / f"{recipe.name}-{scale}.md"
    notes = "".join(f"- {words}\n" for words in (*said, *recipe.notes))
    write_atomic(page, f"# {made.title}\n\n{made.markdown()}\n{notes}")
    write_atomic(page.with_suffix(".tex"), made.latex())
    console.print(f"table: {page.resolve()} and .tex", soft_wrap=True, highlight=False)


def _figures(recipe: Recipe, outcome: Outcome, out: Path) -> None:
    """Measure what the figure shows in the reported runs, and draw it."""
    from ailora.lab.cli.figures import measure_and_draw, say_drawn
    from ailora.lab.report.figures.gallery import draw_schematic
    from ailora.lab.report.figures.panel_tables import Seen

    every = zip(outcome.runs, outcome.names, strict=True)
    seen = [Seen(run, out / "runs" / name) for run, name in every if run in outcome.reported]
    measure_and_draw(seen, (recipe.figure or "",), recipe.texts, out / "figures")
    say_drawn(draw_schematic(out / "figures"))
