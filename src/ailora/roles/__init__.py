"""Which module of a model is a query, key, value or output projection."""

from ailora.roles.find import assign_roles, find_projections
from ailora.roles.inspection import Inspection, ProjectionInfo, inspect
from ailora.roles.projection import (
    ROLE_NAMES,
    Projection,
    RoleKey,
    RoleName,
    Rows,
    count_rows,
    put_rows,
    row_index,
    take_rows,
)
from ailora.roles.walk import unwrapped

__all__ = [
    "ROLE_NAMES",
    "Inspection",
    "Projection",
    "ProjectionInfo",
    "RoleKey",
    "RoleName",
    "Rows",
    "assign_roles",
    "count_rows",
    "find_projections",
    "inspect",
    "put_rows",
    "row_index",
    "take_rows",
    "unwrapped",
]
