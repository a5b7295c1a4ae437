"""The commands of the library, and how bad input ends."""

from __future__ import annotations

import logging
import shutil
import sys
from typing import Annotated

import typer

from ailora.cli import cache, check, export, extract, init, inspect
from ailora.cli.endings import (
    NO_FOLDER,
    end_badly,
    has_folder,
    named,
    one_line,
    whole_output,
    written_out,
)
from ailora.errors import UserError
from ailora.termination import at_once

_PANELS = 80  # columns below which Typer's tables of options cut their names: then plain lines
PANEL = "Models and adapters"
_KEPT = "what is written is kept in {out}, and the same command goes on from there"

app = typer.Typer(
    name="ailora",
    epilog="Start with: ailora compare",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ailora {version('ailora')}")
        raise typer.Exit


@app.callback()
def ailora(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Start low-rank adapters from a model's own spectrum, per role of the weight."""


app.command("inspect", rich_help_panel=PANEL)(one_line(inspect.inspect))
app.command("init", rich_help_panel=PANEL)(one_line(init.init, _KEPT))
app.command("export", rich_help_panel=PANEL)(one_line(export.export))
app.command("extract", rich_help_panel=PANEL)(one_line(extract.extract, _KEPT))
app.command("check", rich_help_panel=PANEL)(one_line(check.check))
app.command("cache", rich_help_panel=PANEL)(one_line(cache.cache))


def main() -> None:
    """Run the command line; bad input ends in one line and exit code 2, SIGTERM in 143.

    A terminal that is closed (SIGHUP) ends it as SIGTERM does, with 129.
    """
    # On some processors it asks for a package of kernels as soon as PEFT imports it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    whole_output()
    if sys.flags.optimize > 1:  # transformers builds its own from docstrings
        end_badly(UserError("python -OO leaves out what transformers needs; run it without"))
    if not has_folder():  # some libraries end the process where they look for their files
        end_badly(UserError(NO_FOLDER))
    app.rich_markup_mode = "markdown" if shutil.get_terminal_size().columns >= _PANELS else None
    try:
        try:
            with at_once():
                app()
        finally:
            written_out()
    except UserError as error:
        end_badly(error)
    except Exception as error:  # of Typer itself, before a command begins
        known = named(error, {})
        if known is None:
            raise
        end_badly(known)
