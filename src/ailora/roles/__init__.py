"""Which module of a model is a query, key, value or output projection."""

from ailora.roles.find import find_projections
from ailora.roles.inspection import Inspection, ProjectionInfo, inspect
from ailora.roles.projection import (
    Projection,
    RoleName,
    Rows,
    put_rows,
    row_index,
    take_rows,
)
from ailora.roles.walk import unwrapped

__all__ = [
    "Inspection",
    "Projection",
    "ProjectionInfo",
    "RoleName",
    "Rows",
    "find_projections",
    "inspect",
    "put_rows",
    "row_index",
    "take_rows",
    "unwrapped",
]
