"""``ailora inspect``: which weights of a model play which role."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    model: Annotated[str, typer.Argument(help="'demo', a folder, or a hub name.")],
    spectra: Annotated[
        bool, typer.Option("--spectra", help="Add the largest and smallest singular values.")
    ] = False,
) -> None:
    """List a model's attention projections: name, role, shape, dtype.

    Example: `ailora inspect demo --spectra`
    """
    from ailora import roles
    from ailora.cli.console import console, quiet_libraries
    from ailora.training.model import load_backbone

    quiet_libraries()
    with console.status("reading the model"):
        found = roles.inspect(load_backbone(model), spectra=spectra)
    console.print(found.table())
