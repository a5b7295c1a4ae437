"""``ailora``: the commands, and how bad input ends."""

from __future__ import annotations

import logging
import sys

import typer

from ailora.cli import (
    analyze,
    cache,
    compare,
    export,
    init,
    inspect,
    paper,
    params,
    report,
    runs,
    score,
    sweep,
    train,
)
from ailora.errors import UserError

app = typer.Typer(
    name="ailora",
    help="Start low-rank adapters from a model's own spectrum, per role of the weight.",
    epilog="Start with: ailora compare",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("compare")(compare.compare)
app.command("train")(train.train)
app.command("score")(score.score)
app.command("sweep")(sweep.sweep)
app.command("runs")(runs.runs)
app.command("report")(report.report)
app.command("paper")(paper.paper)
app.command("inspect")(inspect.inspect)
app.command("analyze")(analyze.analyze)
app.command("params")(params.params)
app.command("init")(init.init)
app.command("export")(export.export)
app.command("cache")(cache.cache)


def main() -> None:
    """Run the command line; bad input ends in one line and exit code 2."""
    # On some processors it asks for a package of kernels as soon as PEFT imports it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"ailora: {' '.join(str(error).split())}\n")
        sys.exit(2)
