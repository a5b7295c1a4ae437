"""The commands of the library, and how bad input ends."""

from __future__ import annotations

import logging
import sys

import typer

from ailora.cli import cache, export, init, inspect
from ailora.errors import UserError

PANEL = "Models and adapters"

app = typer.Typer(
    name="ailora",
    help="Start low-rank adapters from a model's own spectrum, per role of the weight.",
    epilog="Start with: ailora compare",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("inspect", rich_help_panel=PANEL)(inspect.inspect)
app.command("init", rich_help_panel=PANEL)(init.init)
app.command("export", rich_help_panel=PANEL)(export.export)
app.command("cache", rich_help_panel=PANEL)(cache.cache)


def main() -> None:
    """Run the command line; bad input ends in one line and exit code 2."""
    # On some processors it asks for a package of kernels as soon as PEFT imports it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"ailora: {' '.join(str(error).split())}\n")
        sys.exit(2)
