"""``ailora paper``: the runs behind one table or figure of the paper, and what comes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.cli import options
from ailora.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.experiments.recipes import Recipe
    from ailora.tasks import Task
    from ailora.training import RunConfig


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
) -> None:
    """Run what is behind one table or figure, and lay the scores beside the published ones.

    Runs that are finished in --out are not run again, whichever table they were made for.

    Examples: `ailora paper table1` · `ailora paper table1 --scale paper --dry-run` ·
    `ailora paper table4 --scale small --data sets`
    """
    from ailora.cli.console import console, quiet_libraries
    from ailora.experiments.recipes import check_scale, recipe_named
    from ailora.training.folder import check_writable

    quiet_libraries()
    recipe = recipe_named(name)(check_scale(scale), data=data, model=model)
    console.print(_plan(recipe))
    for note in recipe.notes:
        console.print(f"note: {note}", style="dim", highlight=False, markup=False)
    if dry_run:
        return
    check_writable(out)
    failed = _run_and_report(recipe, scale, out)
    if failed:
        raise typer.Exit(1)


def _plan(recipe: Recipe) -> Table:
    """One line a grid, and how many runs there are in all."""
    from rich.table import Table
    from rich.text import Text

    from ailora.experiments.grid import distinct

    table = Table(title=Text(f"{recipe.name}: {recipe.title}"), title_justify="left")
    for column in ("task", "model", "varied"):
        table.add_column(column)
    table.add_column("runs", justify="right")
    for grid in recipe.grids:
        varied = "; ".join(f"{name} {_listed(values)}" for name, values in grid.axes.items())
        runs = str(sum(1 for _ in grid.runs()))
        table.add_row(*map(Text, (grid.common.task, grid.common.model, varied, runs)))
    table.caption = f"{len(distinct(recipe.grids)):,} runs in all"
    table.caption_justify = "left"
    return table


def _listed(values: Any) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else _word(value) for value in values)


def _word(value: Any) -> str:
    """Ranks by role in words."""
    if isinstance(value, dict):
        return "+".join(f"{role}{rank}" for role, rank in value.items())
    return str(value)


def _run_and_report(recipe: Recipe, scale: str, out: Path) -> int:
    """Number of runs that failed."""
    from ailora.cli.console import console
    from ailora.files import write_atomic
    from ailora.report.beside import lines_of
    from ailora.report.conclusions import conclusions
    from ailora.report.paper_tables import beside
    from ailora.report.published import paper_table

    finished, failed = _run(recipe, out / "runs")
    if not finished:
        raise UserError(f"every run failed; the first: {failed[0]['error']}")
    published = paper_table(recipe.beside) if recipe.beside else None
    made = beside(f"{recipe.name} ({scale}): {recipe.title}", published, finished)
    said = conclusions(lines_of(published, finished))
    console.print(made.rich())
    for words in said:
        console.print(words, highlight=False, markup=False)
    page = out / f"{recipe.name}-{scale}.md"
    notes = "".join(f"- {words}\n" for words in (*said, *recipe.notes))
    write_atomic(page, f"# {made.title}\n\n{made.markdown()}\n{notes}")
    write_atomic(page.with_suffix(".tex"), made.latex())
    console.print(f"table: {page.resolve()} and .tex", soft_wrap=True, highlight=False)
    return len(failed)


def _run(recipe: Recipe, store: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Results of the recipe's runs, one after another; those that failed with their reason."""
    from ailora.cli.console import console, progress
    from ailora.experiments.grid import distinct

    finished: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    runs, task = distinct(recipe.grids), _Loaded()
    with progress() as bar:
        line = bar.add_task("starting", total=len(runs))
        for config in runs:
            bar.update(line, description=f"{config.method} on {config.task}, seed {config.seed}")
            result = _attempt(config, task.of(config), store)
            (failed if "error" in result else finished).append(result)
            console.print(_one_line(config, result), highlight=False, markup=False, soft_wrap=True)
            bar.advance(line)
    return finished, failed


def _attempt(config: RunConfig, task: Task, store: Path) -> dict[str, Any]:
    import gc
    from dataclasses import asdict

    from ailora.training import train
    from ailora.training.measure import DivergedError

    try:
        return train(config, task, store, resume=True)
    except (DivergedError, RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return {"config": asdict(config), "error": reason}
    finally:
        gc.collect()  # a trainer and its model refer to each other


class _Loaded:
    """The last task that was loaded: neighbouring runs mostly share it."""

    def __init__(self) -> None:
        self._made_of: Any = None
        self._task: Any = None

    def of(self, config: RunConfig) -> Task:
        from ailora.tasks import load_task

        made_of = (config.task, config.task_options())
        if made_of != self._made_of:
            self._task, self._made_of = load_task(config.task, **config.task_options()), made_of
        found: Task = self._task
        return found


def _one_line(config: RunConfig, result: dict[str, Any]) -> str:
    ranks = f" {_word(dict(config.ranks))}" if config.ranks else f" rank {config.rank}"
    who = f"{config.task}  {config.method}{ranks}  lr {config.lr:g}  seed {config.seed}"
    if "error" in result:
        return f"{who}  failed: {result['error']}"
    metric = result["data"]["metric"]
    return f"{who}  test {metric} {result['metrics']['test'][metric]:.4f}"
