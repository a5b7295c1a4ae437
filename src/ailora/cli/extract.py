"""``ailora extract``: a LoRA from a fully fine-tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.offline import ExtractReport


def extract(
    base: Annotated[
        str, typer.Argument(help="Model that fine-tuning began from: a folder or a hub name.")
    ],
    tuned: Annotated[str, typer.Argument(help="The fine-tuned model: a folder or a hub name.")],
    out: Annotated[Path, typer.Option(help="New folder, or that of an interrupted run.")],
    rank: Annotated[
        str,
        typer.Option(
            help="Rank of the updates (16), or the share of each one's energy to keep (0.95)."
        ),
    ],
    modules_to_save: Annotated[
        str | None,
        typer.Option(
            help="Modules to store in full, with commas between them (embed_tokens,lm_head); all: "
            "everything that changed and is no linear layer's weight."
        ),
    ] = None,
) -> None:
    """Make a plain LoRA adapter of what full fine-tuning changed, a layer at a time.

    Each linear layer gets the closest update of its rank; the rest that changed is named, or stored
    in full. An interrupted run goes on when called again.

    Example: `ailora extract meta-llama/Llama-2-7b-hf my-finetuned --rank 32 --out adapter`
    """
    from ailora.cli.console import quiet_libraries, say, show, streaming
    from ailora.cli.export import parse_rank
    from ailora.offline import extract_adapter
    from ailora.pretrained import resolve

    wanted = parse_rank(rank)
    saved = [name.strip() for name in (modules_to_save or "").split(",") if name.strip()]
    quiet_libraries()
    with streaming() as on_progress:
        report = extract_adapter(
            resolve(base),
            resolve(tuned),
            out,
            rank=wanted,
            modules_to_save=saved,
            on_progress=on_progress,
        )
    show(table(report), whole=("layer", "rank", "lost"), drop=("lost, 2-norm", "moved"))
    if report.others:
        show(table_of_others(report), whole=("also changed", "moved", "in the adapter"))
    unchanged = f"; {report.unchanged} unchanged layers left out" * (report.unchanged > 0)
    say(f"adapter of rank {report.rank}: {report.folder}")
    say(f"of the change of all layers together {report.frobenius:.2%} is lost{unchanged}")
    say(f"for the model: {report.base}")


def table(report: ExtractReport) -> Table:
    """Ranks and losses, one row per layer."""
    from rich.table import Table

    found = Table(
        caption="moved: ||dW|| / ||W||; lost: ||dW - B A|| / ||dW||, Frobenius and spectral"
    )
    for title in ("layer", "rank", "moved", "lost", "lost, 2-norm"):
        found.add_column(title, overflow="fold")
    for line in report.modules:
        numbers = (line.relative, line.frobenius, line.spectral)
        found.add_row(line.module, str(line.rank), *map(_number, numbers))
    return found


def table_of_others(report: ExtractReport) -> Table:
    """What else changed, one row per tensor."""
    from rich.table import Table

    found = Table(caption="moved: Frobenius norm of the change / that of the base's tensor")
    for title in ("also changed", "moved", "in the adapter"):
        found.add_column(title, overflow="fold")
    for line in report.others:
        found.add_row(line.tensor, _number(line.relative), "in full" if line.stored else "no")
    return found


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
