"""``ailora inspect``: which weights of a model play which role."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    model: Annotated[str, typer.Argument(help="'demo', a folder, or a hub name.")],
    spectra: Annotated[
        bool,
        typer.Option("--spectra", help="Singular values instead, and the part AILoRA trains."),
    ] = False,
    rank: Annotated[int, typer.Option(help="With --spectra: values in that part.")] = 8,
) -> None:
    """List a model's attention projections: name, role, shape, dtype; or their spectra.

    Example: `ailora inspect demo --spectra`
    """
    from ailora import roles
    from ailora.cli.console import console, quiet_libraries
    from ailora.cli.spectra import spectra_table
    from ailora.pretrained import load_backbone
    from ailora.roles.spectra import spectra as spectra_of

    quiet_libraries()
    with console.status("reading the model"):
        loaded = load_backbone(model)
        if spectra:
            table = spectra_table(spectra_of(loaded, rank=rank))
        else:
            table = roles.inspect(loaded).table()
    console.print(table)
