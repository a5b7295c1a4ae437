"""A finished run's result: what schema it has, and how older ones are read.

Schema 2 says its number. Schema 1 (0.1.0) says none, and its settings are those that there were
when it was written: what was added since had one value then, its first default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.lab.training.config import RunConfig

SCHEMA = 2
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
    if schema not in (1, SCHEMA):
        raise UserError(f"{path}: has schema {schema!r}, which is not known; update ailora")
    return result if schema == SCHEMA else _from_schema_1(result)


def stamped(result: Mapping[str, Any]) -> Result:
    """The result as it is written: with its schema's number."""
    return {"schema": SCHEMA, **result}


def _from_schema_1(result: Result) -> Result:
    config = result.get("config")
    if isinstance(config, dict):
        result["config"] = {**asdict(RunConfig()), **config}
    return stamped(result)
