"""A finished run's result: its schema, and how older schemas are read.

Schema 3 has today's settings. Schema 2 had other names for some (`current_settings`). Schema 1
(0.1.0) has no number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.lab.settings import current_settings

SCHEMA = 3
Result = dict[str, Any]


def read_result(path: Path) -> Result | None:
    """The result in a file; None where there is none, or one that is half-written or foreign.

    Raises:
        UserError: It is of a schema that this version does not know.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not (isinstance(result, dict) and "metrics" in result):
        return None
    schema = result.get("schema", 1)
    if schema not in (1, 2, SCHEMA):
        raise UserError(f"{path}: has schema {schema!r}, which is not known; update ailora")
    if isinstance(result.get("config"), dict):
        result["config"] = current_settings(result["config"])
    return stamped(result)


def stamped(result: Mapping[str, Any]) -> Result:
    """The result as it is written: with the number of today's schema."""
    return {**result, "schema": SCHEMA}
