"""``ailora check``: whether an adapter's files belong together, and to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.offline.check import Checked

WRONG = 1  # exit code; 2 is for input that cannot be checked


def check(
    adapter: Annotated[str, typer.Argument(help="Folder or hub name of a LoRA adapter.")],
    model: Annotated[str, typer.Argument(help="Folder or hub name of the model it is for.")],
) -> None:
    """Check that an adapter is whole, and for this very model.

    PEFT loads an adapter into any model of the same shapes, also into one that was trained on
    since: the numbers are then wrong without a word. An adapter that ailora started remembers its
    base, and this command compares it, a tensor at a time, without loading the model. It also
    looks for NaN, ranks that are not those of the config, files of two adapters in one folder, and
    anchors (the frozen halves of the factors) that another trainer moved.

    Casts between fp32, bf16 and fp16 are told from training; of weights remembered in 4 or 8 bits
    only another model is, and "cannot tell" is said. Exit code: 0 nothing wrong, 1 something is,
    2 there is no such adapter or model.

    Example: `ailora check my-adapter FacebookAI/roberta-base`
    """
    from ailora.cli.console import quiet_libraries, show, streaming
    from ailora.offline.check import check_adapter
    from ailora.pretrained import resolve

    quiet_libraries()
    with streaming() as on_progress:
        rows = check_adapter(adapter, resolve(model), on_progress=on_progress)
    show(table(rows), whole=("what", "result"))
    if any(row.result == "wrong" for row in rows):
        raise typer.Exit(WRONG)


def table(rows: Sequence[Checked]) -> Table:
    """One row per thing that was looked at."""
    from rich.markup import escape
    from rich.table import Table

    found = Table()
    for title in ("what", "result", "details"):
        found.add_column(title, overflow="fold")
    for row in rows:
        found.add_row(row.subject, row.result, escape(row.details))
    return found
