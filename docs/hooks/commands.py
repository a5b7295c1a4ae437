"""Fill the reference: every command's own --help, and the table of a run's settings."""

from __future__ import annotations

from typing import Any

import typer
from typer.cli import get_docs_for_click

from ailora.lab.cli.main import app
from ailora.lab.setting_fields import Setting
from ailora.lab.settings import SETTINGS

COMMANDS, TABLE = "<!-- commands -->", "<!-- settings -->"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put the generated text where the page asks for it (MkDocs calls this for every page)."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    return markdown.replace(TABLE, settings()) if TABLE in markdown else markdown


def commands() -> str:
    """The help of every command, as Typer knows it."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="ailora")
    return text.partition("\n")[2]  # the page has its own title


def settings() -> str:
    """One table for each group of settings."""
    lines = []
    for group in dict.fromkeys(one.group for one in SETTINGS.values()):
        lines += [f"## {group}", "", "| setting | type | default | |", "|---|---|---|---|"]
        lines += [_row(one) for one in SETTINGS.values() if one.group == group] + [""]
    return "\n".join(lines)


def _row(one: Setting) -> str:
    kinds = {"Sequence": "list of texts", "Mapping": "table", "str": "text"}
    kind = kinds.get(one.kind.__name__, one.kind.__name__)
    default = "" if one.default is None else f"`{one.default}`"
    kind = ", ".join(filter(None, (kind, one.range)))
    return f"| `{one.name}` | {kind} | {default} | {one.help} |"
