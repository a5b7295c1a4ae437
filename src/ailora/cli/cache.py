"""``ailora cache``: the decompositions kept from earlier starts."""

from __future__ import annotations

from typing import Annotated

import typer


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete what is kept.")] = False,
) -> None:
    """Show or clear the decompositions kept from earlier starts.

    The demo's model and sentences, which lie beside them, are left alone. AILORA_CACHE names
    another folder, AILORA_CACHE_LIMIT another size (2GB; 0: keep nothing).

    Example: `ailora cache --clear`
    """
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    from ailora.cache import disk
    from ailora.cli.console import console

    if clear:
        before = disk.status()
        entries = disk.clear()
        console.print(
            f"deleted {entries} decomposition{'s' * (entries != 1)}, {decimal(before.size)}"
        )
        return
    now = disk.status()
    table = Table(title="decompositions kept", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("folder", Text(str(now.folder)))
    table.add_row("entries", str(now.entries))
    table.add_row("size", decimal(now.size))
    table.add_row("limit", decimal(now.limit) if now.limit else "0 (off)")
    table.add_row("last used", f"{now.last_used:%Y-%m-%d %H:%M:%S}" if now.last_used else "never")
    console.print(table)
