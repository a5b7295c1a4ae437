"""A table of a model's projections, with the ends of their spectra on request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn

from ailora.errors import UserError
from ailora.html_table import html_table
from ailora.linalg import decompose
from ailora.roles.find import assign_roles, find_projections, in_parts
from ailora.roles.parts import PartName
from ailora.roles.projection import (
    FEED_FORWARD_ROLES,
    AttentionKind,
    Projection,
    RoleKey,
    RoleName,
    Rows,
    Stack,
)
from ailora.roles.walk import walk

# All values at once without vectors take 1.3 s at 2048 x 2048 on 2 cores; beyond, decompose wins.
_DENSE_UP_TO = 2048
# A vector right to 1e-4 gives a value right to about 1e-8, twice the digits.
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class ProjectionInfo:
    """What is known about one projection, without its weight.

    Attributes:
        name: Dotted path of the module.
        role: One of `ailora.roles.ROLE_NAMES`.
        layer: Index of the layer in its stack, or None.
        attention: ``"self"`` or ``"cross"``.
        stack: ``"encoder"``, ``"decoder"`` or ``""``.
        shape: (m, n) = (out_features, in_features); of a fused layer, m counts the role's rows.
        rows: Half-open blocks of rows of a fused layer's W that play the role; None: all of W.
        dtype: Data type of the weight.
        sigma_max: Largest singular value, or None if not asked for.
        sigma_min: Smallest of the min(m, n) singular values, or None if not asked for.
    """

    name: str
    role: RoleKey
    layer: int | None
    attention: AttentionKind
    stack: Stack
    shape: tuple[int, int]
    dtype: torch.dtype
    rows: Rows | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The projections of a model, in its own order.

    ``str()``, rich and notebooks show them as a table.
    """

    rows: tuple[ProjectionInfo, ...]

    @property
    def has_fused(self) -> bool:
        """Whether a layer holds several roles, so that rows tell them apart."""
        return any(row.rows is not None for row in self.rows)

    @property
    def has_spectra(self) -> bool:
        """Whether singular values were computed."""
        return any(row.sigma_max is not None for row in self.rows)

    def table(self) -> Table:
        """The projections as a rich table, for terminals."""
        header, *body = self._cells()
        table = Table()
        for title in header:
            table.add_column(title, overflow="fold")
        for cells in body:
            table.add_row(*cells)
        return table

    def __rich__(self) -> Table:
        return self.table()

    def _repr_html_(self) -> str:
        header, *body = self._cells()
        return html_table(header, body)

    def __str__(self) -> str:
        lines = self._cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    def _cells(self) -> list[tuple[str, ...]]:
        spectra = ("largest sv", "smallest sv") if self.has_spectra else ()
        rows = ("rows",) if self.has_fused else ()
        return [
            ("name", "role", *rows, "shape", "dtype", *spectra),
            *(_cells_of(row, with_rows=self.has_fused) for row in self.rows),
        ]


def inspect(
    model: nn.Module,
    *,
    spectra: bool = False,
    modules: Mapping[RoleName, Sequence[str]] | None = None,
    parts: Collection[PartName] | None = None,
) -> Inspection:
    """Lists every q, k, v and o projection of ``model``, and gate, up and down where it has them.

    Args:
        model: A model that ``find_projections`` can handle.
        spectra: Compute each weight's largest and smallest singular value: from all of them in
            fp64 where there are at most 2048, else with ``ailora.linalg.decompose``, to 1e-7.
        modules: Names by hand, as in ``find_projections``; with them only the roles named.
        parts: Parts of the model to look in, as in ``find_projections``; None are those that are
            adapted by default. All linear layers of a ``"projector"`` have the role ``"*"``.

    Returns:
        One row per projection, in the model's order.

    Raises:
        UserError: No projection of attention is found, or none for a role that is named; the model
            lacks a part that is named; or with ``spectra`` a weight holds NaN or infinity, or has
            no values at all (meta device).
    """
    if modules is None:
        found = _all(model, parts)
    else:
        found = find_projections(model, tuple(modules), modules=modules, parts=parts)
    return Inspection(rows=tuple(_info(projection, spectra) for projection in found))


def _all(model: nn.Module, parts: Collection[PartName] | None) -> list[Projection]:
    """Attention, which a model must have, what can be read of feed-forward blocks, projectors."""
    places = in_parts(model, walk(model), parts)
    names = [place.name for place in places]
    projector = {p.name for p in places if parts is not None and p.part == "projector"}
    found = [
        projection
        for projection in assign_roles(model, names, FEED_FORWARD_ROLES, strict=False)
        if projection.role != "*" or projection.name in projector
    ]
    if any(place.part != "projector" for place in places):
        found += find_projections(model, parts=parts)
    order = {name: index for index, name in enumerate(names)}
    return sorted(found, key=lambda p: order[p.name])


def _info(projection: Projection, spectra: bool) -> ProjectionInfo:
    largest, smallest = _extremes(projection) if spectra else (None, None)
    return ProjectionInfo(
        name=projection.name,
        role=projection.role,
        layer=projection.layer,
        attention=projection.attention,
        stack=projection.stack,
        shape=projection.shape,
        dtype=projection.dtype,
        rows=projection.rows,
        sigma_max=largest,
        sigma_min=smallest,
    )


def _extremes(projection: Projection) -> tuple[float, float]:
    weight = projection.weight()
    if weight.is_meta:
        raise UserError(
            f"{projection.name!r} is on the meta device and has no values; "
            "load the model's weights before asking for spectra"
        )
    broken = int((~torch.isfinite(weight)).sum())
    if broken:
        raise UserError(
            f"{projection.name!r} has {broken} weights that are NaN or infinite; "
            "load an intact copy of the model, or inspect it without spectra"
        )
    return _largest_and_smallest(weight)


def _largest_and_smallest(weight: Tensor) -> tuple[float, float]:
    if min(weight.shape) <= _DENSE_UP_TO:
        # On the CPU, since not every device has fp64.
        values = torch.linalg.svdvals(weight.to("cpu", torch.float64))
        return float(values[0]), float(values[-1])
    largest = decompose(weight, 1, "principal", tol=_TOLERANCE).S[0]
    smallest = decompose(weight, 1, "minor", tol=_TOLERANCE).S[-1]
    return float(largest), float(smallest)


def _cells_of(row: ProjectionInfo, *, with_rows: bool) -> tuple[str, ...]:
    rows = (_rows_text(row.rows),) if with_rows else ()
    spectrum = (f"{value:.4g}" for value in (row.sigma_max, row.sigma_min) if value is not None)
    shape = "{} x {}".format(*row.shape)
    return (row.name, row.role, *rows, shape, str(row.dtype).removeprefix("torch."), *spectrum)


def _rows_text(rows: Rows | None) -> str:
    """``all``, ``0:32``, or for many blocks the first of them: ``0:8 and 3 more``."""
    if rows is None:
        return "all"
    first = "{}:{}".format(*rows[0])
    return first if len(rows) == 1 else f"{first} and {len(rows) - 1} more"
