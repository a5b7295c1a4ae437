"""Which module of a model plays which role in attention or in a feed-forward block."""

from ailora.roles.find import assign_roles, find_projections
from ailora.roles.inspection import Inspection, ProjectionInfo, inspect
from ailora.roles.projection import (
    ATTENTION_ROLES,
    FEED_FORWARD_ROLES,
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
    "ATTENTION_ROLES",
    "FEED_FORWARD_ROLES",
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
