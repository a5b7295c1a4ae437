"""Fill reference/commands.md with every command's own --help, as Typer knows it."""

from __future__ import annotations

from typing import Any

import typer
from typer.cli import get_docs_for_click

from ailora.lab.cli.main import app

PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put the generated text where the page asks for it (MkDocs calls this for every page)."""
    if PLACE not in markdown:
        return markdown
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="ailora")
    return markdown.replace(PLACE, text.partition("\n")[2])  # the page has its own title
