"""``ailora paper``: the runs behind one table or figure of the paper, and what comes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ailora.errors import UserError
from ailora.lab.cli import options, running

if TYPE_CHECKING:
    from ailora.lab.experiments import Outcome
    from ailora.lab.experiments.engines.local import Local
    from ailora.lab.experiments.engines.ray import OnRay
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
    data: options.Data = None,
    model: Annotated[
        str | None, typer.Option(help="Instead of the scale's: a folder, or a hub name.")
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
    from ailora.cli.console import console, quiet_libraries
    from ailora.lab.cli.words import plan_table
    from ailora.lab.experiments.grid import distinct
    from ailora.lab.experiments.recipes import check_scale, recipe_named
    from ailora.lab.training.folder import check_writable

    quiet_libraries()
    recipe = recipe_named(name)(check_scale(scale), data=data, model=model)
    chosen = running.engine_named(engine, workers, threads, address, cpus_per_run, gpus_per_run)
    number = len(distinct(recipe.grids))
    title = f"{recipe.name}: {recipe.title}"
    console.print(plan_table(title, recipe.grids, f"{number:,} runs in all"))
    for note in recipe.notes:
        console.print(f"note: {note}", style="dim", highlight=False, markup=False)
    if dry_run:
        return
    check_writable(out)
    outcome = _run(recipe, out / "runs", chosen, estimate=estimate, retry=retry_failed)
    _report(recipe, scale, outcome, out)
    if recipe.figure:
        _figures(recipe, outcome, out)
    if outcome.failed:
        raise typer.Exit(1)


def _run(
    recipe: Recipe, folder: Path, engine: Local | OnRay, *, estimate: bool, retry: bool
) -> Outcome:
    from ailora.cli.console import console
    from ailora.lab.experiments import Store
    from ailora.lab.experiments.grid import distinct
    from ailora.lab.experiments.jobs import Tasks, jobs_of

    store, tasks = Store(folder), Tasks()
    with console.status("reading the data"):
        jobs = jobs_of(distinct(recipe.grids), tasks)
    states = running.states_of(jobs, store)
    console.print(running.counted(list(states.values())), highlight=False)
    todo = running.left_to_do(jobs, states, retry=retry)
    weights = running.estimated(engine, todo, store) if estimate else {}
    return running.run_shown(jobs, weights, store, engine, tasks, retry=retry)


def _report(recipe: Recipe, scale: str, outcome: Outcome, out: Path) -> None:
    from ailora.cli.console import console
    from ailora.files import write_atomic
    from ailora.lab.experiments.standings import varied
    from ailora.lab.report.beside import lines_of
    from ailora.lab.report.conclusions import conclusions
    from ailora.lab.report.paper_tables import beside
    from ailora.lab.report.published import paper_table

    if not outcome.runs:
        raise UserError(f"every run failed; the first: {outcome.failed[0].reason}")
    published = paper_table(recipe.beside) if recipe.beside else None
    made = beside(f"{recipe.name} ({scale}): {recipe.title}", published, outcome.runs)
    said = conclusions(lines_of(published, outcome.runs))
    console.print(made.rich())
    for words in said:
        console.print(words, highlight=False, markup=False)
    running.say_failed(outcome, varied([failed.config for failed in outcome.failed]))
    page = out / f"{recipe.name}-{scale}.md"
    notes = "".join(f"- {words}\n" for words in (*said, *recipe.notes))
    write_atomic(page, f"# {made.title}\n\n{made.markdown()}\n{notes}")
    write_atomic(page.with_suffix(".tex"), made.latex())
    console.print(f"table: {page.resolve()} and .tex", soft_wrap=True, highlight=False)


def _figures(recipe: Recipe, outcome: Outcome, out: Path) -> None:
    """Measure what the figure shows in the reported runs, and draw it."""
    from ailora.lab.cli.figures import measure_and_draw, say_drawn
    from ailora.lab.report.figures.measure import Seen
    from ailora.lab.report.figures.paper import draw_schematic

    every = zip(outcome.runs, outcome.names, strict=True)
    seen = [Seen(run, out / "runs" / name) for run, name in every if run in outcome.reported]
    measure_and_draw(seen, (recipe.figure or "",), recipe.texts, out / "figures")
    say_drawn(draw_schematic(out / "figures"))
