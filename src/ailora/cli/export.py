"""``ailora export``: a plain LoRA for servers, smaller, or merged into the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.offline import ExportReport, MergeReport


def export(
    adapter: Annotated[Path, typer.Argument(help="Folder of a LoRA adapter, whoever trained it.")],
    out: Annotated[Path, typer.Option(help="New folder for the adapter, or the merged model.")],
    rank: Annotated[
        str | None,
        typer.Option(
            help="Compress: a rank (8), or the share of each update's energy to keep (0.95). "
            "Default: exact."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Keep every update as it is, whatever its rank.")
    ] = False,
    merge: Annotated[
        str | None, typer.Option(help="Folder or hub name of a model to merge the adapter into.")
    ] = None,
    folded_base: Annotated[
        bool,
        typer.Option("--folded-base", help="The adapter was trained on the model of ailora init."),
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(help="With --folded-base: the starting adapter, if it is not found."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Model that the adapter is for. Default: what its files say."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="vllm, sglang or llama.cpp: refuse what it cannot read, and say how to start it."
        ),
    ] = None,
) -> None:
    """Write an adapter with one rank and scale 1, for vLLM, PEFT and others; or merge it.

    An adapter that ailora trained has rank 2r; --rank makes it smaller and says what that loses.

    Example: `ailora export checkpoint-500 --server vllm --out served`
    """
    from ailora.cli.console import console, quiet_libraries, say, show, streaming
    from ailora.errors import UserError
    from ailora.offline import export_adapter, merge_adapter
    from ailora.offline.servers import start_commands

    if exact and rank is not None:
        raise UserError(f"--exact and --rank {rank}: give one of them")
    for option, value in (("base", base), ("server", server)):
        if merge is not None and value is not None:
            raise UserError(
                f"--merge and --{option} {value}: a merged model is no adapter; leave --{option} "
                "out"
            )
    kept = None if rank is None else parse_rank(rank)
    quiet_libraries()
    if merge is not None:
        with streaming() as on_progress:
            merged = merge_adapter(
                adapter,
                merge,
                out,
                rank=kept,
                folded_base=folded_base,
                start=start,
                on_progress=on_progress,
            )
        show(merge_table(merged), whole=("weight", "lost"), drop=("dtype", "rank", "||dW||"))
        console.print(f"model: {merged.folder}", soft_wrap=True)
        return
    exported = export_adapter(
        adapter,
        out,
        rank=kept,
        folded_base=folded_base,
        start=start,
        base=base,
        server=server,
    )
    if kept is not None:
        show(
            table(exported), whole=("module", "rank", "Frobenius"), drop=("tail energy", "spectral")
        )
        console.print(f"lost of dW, all modules together: {exported.lost:.2e} (Frobenius)")
    console.print(f"adapter of rank {exported.rank}: {exported.folder}", soft_wrap=True)
    if exported.base:
        console.print(f"for the model: {exported.base}", soft_wrap=True)
    if server is not None:
        console.print("start it with:")
        for line in start_commands(server, exported.folder, exported.base, exported.rank):
            say(f"  {line}")


def parse_rank(text: str) -> int | float:
    """A rank, or a share between 0 and 1.

    Raises:
        UserError: it is neither.
    """
    from ailora.errors import UserError

    try:
        return int(text)
    except ValueError:
        pass
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(
            f"--rank {text}: give a rank (8), or the share of the energy of dW to keep, between 0 "
            "and 1 (0.95)"
        )
    return share


def table(report: ExportReport) -> Table:
    """Ranks and losses, one row per module."""
    from rich.table import Table

    found = Table(
        caption="lost of dW: ||dW - dW_R|| / ||dW|| in both norms, and sum of sigma^2 beyond R"
    )
    for title in ("module", "rank", "Frobenius", "spectral", "tail energy"):
        found.add_column(title, overflow="fold")
    for line in report.modules:
        shown = (f"{value:.2e}" for value in (line.frobenius, line.spectral, line.tail))
        found.add_row(line.name, f"{line.rank_before} -> {line.rank}", *shown)
    return found


def merge_table(report: MergeReport) -> Table:
    """What was added and what rounding cost, one row per tensor."""
    from rich.table import Table

    found = Table(caption="lost: ||W + dW - what is written|| / ||dW||, by rounding to the dtype")
    for title in ("weight", "dtype", "rank", "||dW||", "lost"):
        found.add_column(title, overflow="fold")
    for line in report.tensors:
        name = line.tensor.removesuffix(".weight")
        found.add_row(name, line.dtype, str(line.rank), f"{line.size:.3g}", f"{line.loss:.1e}")
    return found
