"""Data sets by hub name, as tables: ``owner/name``, ``owner/name/config``, ``glue/cola``."""

from __future__ import annotations

from collections.abc import Mapping

import datasets

from ailora.errors import UserError
from ailora.lab.tasks.tables.read import Table

# Short names in common use for collections whose repositories have an owner.
_COLLECTIONS = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}
_HIDDEN_LABEL = -1
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "dev": ("validation", "validation_matched", "dev"),
    "test": ("test", "test_matched"),
}


def is_hub_name(name: str) -> bool:
    """Say whether ``name`` has the form of a hub data set: two or three parts with slashes."""
    parts = name.split("/")
    return len(parts) in (2, 3) and all(parts) and not name.startswith((".", "~"))


def hub_tables(
    name: str, label: str, splits: Mapping[str, tuple[str, ...]] = SPLITS
) -> dict[str, Table]:
    """Load a hub data set and return those of ``train``, ``dev`` and ``test`` that have labels.

    A split whose labels are hidden (-1 throughout, as GLUE's tests) counts as absent. MNLI's dev
    is the matched one.

    Args:
        name: Of the form ``is_hub_name`` accepts.
        label: The label column.
        splits: For each key of the answer the names a hub split may have; the first present counts.

    Raises:
        UserError: The hub has no such data set or cannot be reached.
    """
    repository, config = _address(name)
    try:
        loaded = datasets.load_dataset(repository, config)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot load data set {name!r} from the hub: {reason}; check the name and the network,"
            " or give local files"
        ) from error
    found = {}
    for part, names in splits.items():
        split = next((candidate for candidate in names if candidate in loaded), None)
        if split is not None and not _is_hidden(loaded[split], label):
            found[part] = _table(loaded[split], f"{name} ({split})", label)
    return found


def _address(name: str) -> tuple[str, str | None]:
    first, *rest = name.split("/")
    if first in _COLLECTIONS:
        return _COLLECTIONS[first], "/".join(rest)
    return f"{first}/{rest[0]}", rest[1] if len(rest) == 2 else None


def _is_hidden(split: datasets.Dataset, label: str) -> bool:
    return label in split.column_names and set(split[label][:]) == {_HIDDEN_LABEL}


def _table(split: datasets.Dataset, source: str, label: str) -> Table:
    if split.num_rows == 0:
        raise UserError(f"{source} has no rows: an empty split; choose another data set")
    columns = {name: split[name][:] for name in split.column_names}
    names = getattr(split.features.get(label), "names", None)
    if names:
        columns[label] = [_name(index, names) for index in columns[label]]
    values = zip(*columns.values(), strict=True)
    rows = (dict(zip(columns, row, strict=True)) for row in values)
    return Table(
        source=source,
        columns=tuple(columns),
        rows=tuple(enumerate(rows, start=1)),
        label_names=tuple(names) if names else None,
    )


def _name(index: int | None, names: list[str]) -> str | int | None:
    # -1, GLUE's mark of a hidden label, stays as it is: no class has it, so the row is reported.
    return names[index] if index is not None and 0 <= index < len(names) else index
