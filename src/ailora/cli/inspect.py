"""``ailora inspect``: which weights of a model play which role; tables of their spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.roles.parts import PartName
    from ailora.roles.spectra import Spectrum
    from ailora.roles.walk import Position

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 8
_ENDS = {"principal": "first", "minor": "last"}
PARTS_HELP = (
    "Parts of a model of several modalities, with commas between: language, vision, audio, "
    "projector. Default: language; all of a model of one kind of input or two halves (CLIP)."
)


def inspect(
    model: Annotated[str, typer.Argument(help="'demo', a folder, or a hub name.")],
    spectra: Annotated[
        bool,
        typer.Option("--spectra", help="Singular values instead, and the part AILoRA trains."),
    ] = False,
    rank: Annotated[int, typer.Option(help="With --spectra: values in that part.")] = 8,
    parts: Annotated[str | None, typer.Option(help=PARTS_HELP)] = None,
) -> None:
    """List a model's projections: name, role, shape, dtype; or the spectra of attention.

    The list is made from config.json and the headers of the weights, in seconds for any size.

    Example: `ailora inspect demo --spectra`
    """
    from ailora import roles
    from ailora.checkpoints.structure import read_outline
    from ailora.cli.console import console, quiet_libraries, show
    from ailora.pretrained import load_backbone, resolve
    from ailora.roles.spectra import spectra as spectra_of

    wanted = parse_parts(parts)
    quiet_libraries()
    with console.status("reading the model"):
        if spectra:
            found = spectra_of(load_backbone(model), rank=rank, parts=wanted)
        else:
            table = roles.inspect(read_outline(resolve(model)), parts=wanted).table()
    if spectra:
        show_spectra(found)
    else:
        show(table, whole=("name", "role", "shape"), drop=("dtype", "rows", "shape"))


def parse_parts(given: str | None) -> tuple[PartName, ...] | None:
    """What --parts names; None where it was not given.

    Raises:
        UserError: Something that is no part.
    """
    from ailora.errors import UserError
    from ailora.roles.parts import PART_NAMES

    if given is None:
        return None
    named = [name.strip() for name in given.split(",") if name.strip()]
    found = tuple(part for part in PART_NAMES if part in named)
    if not found or len(found) < len(set(named)):
        raise UserError(f"--parts {given!r}: name some of {', '.join(PART_NAMES)}, with commas")
    return found


def show_spectra(found: Sequence[Spectrum]) -> None:
    """Print the spectra; on narrow terminals the columns on the right go first."""
    from ailora.cli.console import show

    show(
        spectra_table(found),
        whole=("layer", "role", "largest", "smallest"),
        drop=("spectrum", "its energy", "eff. rank", "median", "trains"),
    )


def spectra_table(found: Sequence[Spectrum]) -> Table:
    """One row per projection: its largest, median and smallest value, and the part that trains."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ailora.cli.console import console

    drawn = console.encoding.lower().startswith("utf")
    several = len({one.stack for one in found}) > 1
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fits into 80 columns
    for title in ("layer", "role"):
        table.add_column(title)
    for title in ("largest", "median", "smallest", "eff. rank", "trains", "its energy"):
        table.add_column(title, justify="right")
    if drawn:
        table.add_column("spectrum", no_wrap=True)
    for one in found:
        ends = (one.values[0], one.median, one.values[-1])
        rank = f"{one.effective_rank:.3g}/{len(one.values)}"
        part = f"{_ENDS[one.part]} {one.rank}" if one.part else "-"
        share = "-" if one.energy_share is None else f"{100 * one.energy_share:.2g} %"
        line = [sparkline(one.values)] if drawn else []
        place = where(one, with_stack=several)
        table.add_row(place, one.role, *map(cell, ends), rank, part, share, *line)
    return table


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Values from 0 to the largest as blocks, evenly picked from first to last."""
    count = min(width, len(values))
    picked = [values[round(i * (len(values) - 1) / max(count - 1, 1))] for i in range(count)]
    top = max(*values, 1e-300)
    return "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1))] for value in picked)


def where(place: Position, *, with_stack: bool) -> str:
    """``3``, or ``decoder 3 cross``; ``shared`` where one module serves every layer."""
    layer = "shared" if place.layer is None else str(place.layer)
    stack = place.stack if with_stack else ""
    kind = "cross" if place.attention == "cross" else ""
    return " ".join(part for part in (stack, layer, kind) if part)


def cell(value: float | str | None) -> str:
    """A number with three digits, or a dash for None."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
