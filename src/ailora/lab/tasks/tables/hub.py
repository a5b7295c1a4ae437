"""Data sets of the hub as tables: which one a name means, which splits are read, what they hold.

A name is ``owner/name``, ``owner/name:config``, ``owner/name:config:split`` (the config may be
empty), ``owner/name/config``, or ``glue/cola``, of a collection whose repository has an owner.
``@revision`` may go before the colon. A split may be a part of one, as `datasets` writes it:
``train[:1000]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets

from ailora.errors import UserError, instead
from ailora.lab.tasks.tables import columnar
from ailora.lab.tasks.tables.survey import ANSWER, Survey, is_flag
from ailora.lab.tasks.tables.table import Table

# For each split, the names that it may have.
SplitNames = Mapping[str, tuple[str, ...]]
_SPLITS: SplitNames = {
    "train": ("train",),
    "dev": ("validation", "validation_matched", "dev", "valid", "val", "eval"),
    "test": ("test", "test_matched"),
}
# Short names in common use for collections whose repositories have an owner.
_COLLECTIONS = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}
_HIDDEN_LABEL = -1


def is_hub_name(name: str) -> bool:
    """Say whether ``name`` has the form of a hub data set: two or three parts with slashes."""
    parts = name.split(":")[0].split("@")[0].split("/")
    return len(parts) in (2, 3) and all(parts) and not name.startswith((".", "~"))


def hub_tables(
    name: str,
    label: str,
    *,
    splits: SplitNames | None = None,
    required: Sequence[str] = ("train",),
    given: Mapping[str, str] | None = None,
) -> dict[str, Table]:
    """Read those splits of a data set that have labels; GLUE's tests have -1 throughout.

    Args:
        name: The data set. With a split in it, that one is ``train``, and no other is read that is
            not ``given``.
        label: Column of the answers.
        splits: Names that the splits may have; None for the usual ones.
        required: Splits that must be there.
        given: Splits that the user names, for ``dev`` and ``test``.

    Raises:
        UserError: The hub has no such data set, config or split, or cannot be reached.
    """
    address = _address(name)
    loaded = _loaded(name, address)
    said = {**({"train": address.split} if address.split else {}), **(given or {})}
    parts = {part: (_named(loaded, split, name), split) for part, split in said.items()}
    if not address.split:
        for part, candidates in (splits or _SPLITS).items():
            split = next((candidate for candidate in candidates if candidate in loaded), None)
            if part not in parts and split is not None and not _is_hidden(loaded[split], label):
                parts[part] = (loaded[split], split)
    for part in required:
        if part not in parts:
            raise UserError(
                f"hub data set {name!r} has no {part} split with labels (there are "
                f"{', '.join(loaded)}); name one, as {_with_split(name, loaded)!r}"
            )
    notes = _config_notes(address, loaded)
    return {
        part: replace(_table(rows, f"{name} ({split})"), notes=notes)
        for part, (rows, split) in parts.items()
    }


def hub_survey(name: str) -> Survey:
    """Look at the rows of a data set that would be learned, as `survey` does at those of files.

    Raises:
        UserError: As `hub_tables`.
    """
    address = _address(name)
    loaded = _loaded(name, address)
    if address.split:
        rows = _named(loaded, address.split, name)
    else:
        rows = loaded.get("train", next(iter(loaded.values())))
    found = Survey(rows=Counter({tuple(rows.column_names): rows.num_rows}))
    if ANSWER in rows.column_names:
        answers = [is_flag(value) for value in rows[ANSWER][:] if value is not None]
        found.flags = bool(answers) and all(answers)
    return found


def load_from_hub(
    repository: str, config: str | None, *, called: str, instead: str, **options: Any
) -> Any:
    """Call `datasets.load_dataset`.

    Args:
        repository: Owner and name.
        config: Configuration, if it has any.
        called: How a message calls the data set.
        instead: What a message says the user may give instead.
        options: Options of `datasets.load_dataset`.

    Raises:
        UserError: The hub has no such data set or cannot be reached.
    """
    try:
        return datasets.load_dataset(repository, config, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot load {called} from the hub: {reason}; check the name and the network, "
            f"or give {instead}"
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Address:
    """Where a data set is; None for what its name does not say."""

    repository: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None


def _address(name: str) -> _Address:
    before, _, more = name.partition(":")
    path, _, revision = before.partition("@")
    config, _, split = more.partition(":")
    first, *rest = path.split("/")
    if first in _COLLECTIONS:
        repository, inside = _COLLECTIONS[first], "/".join(rest)
    else:
        repository, inside = f"{first}/{rest[0]}", "/".join(rest[1:])
    return _Address(
        repository=repository,
        config=config or inside or None,
        split=split or None,
        revision=revision or None,
    )


def _loaded(name: str, address: _Address) -> datasets.DatasetDict:
    options = {"revision": address.revision} if address.revision else {}
    try:
        found = load_from_hub(
            address.repository,
            address.config,
            called=f"data set {name!r}",
            instead="local files",
            **options,
        )
    except UserError as error:
        if isinstance(error.__cause__, ValueError):
            _refuse_config(name, address, options)
        raise
    if not found:
        raise UserError(f"hub data set {name!r} has no splits; choose another")
    return found


def _refuse_config(name: str, address: _Address, options: Mapping[str, str]) -> None:
    """Raise a UserError with the configs there are, if the one asked for is none of them."""
    try:
        configs = datasets.get_dataset_config_names(address.repository, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError):
        return
    if address.config is None and len(configs) > 1:
        raise UserError(
            f"hub data set {name!r} has several configs, of which one must be named, as "
            f"{f'{name}:{configs[0]}'!r} (there are {_some(configs)})"
        )
    if address.config is not None and address.config not in configs:
        raise UserError(
            f"hub data set {address.repository!r} has no config {address.config!r}: "
            f"{instead(address.config, configs)}"
        )


def _named(loaded: datasets.DatasetDict, split: str, name: str) -> datasets.Dataset:
    """A split, or a part of one (``train[:1000]``)."""
    if split in loaded:
        return loaded[split]
    lengths = {one: rows.num_rows for one, rows in loaded.items()}
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"hub data set {name!r}: no split {split!r}; there are {', '.join(loaded)}, and parts "
            "such as train[:1000]"
        ) from error
    rows = [loaded[one.splitname].select(range(one.from_, one.to)) for one in parts]
    return datasets.concatenate_datasets(rows)


def _is_hidden(split: datasets.Dataset, label: str) -> bool:
    if label not in split.column_names:
        return False
    return all(value == _HIDDEN_LABEL for value in split[label])


def _table(rows: datasets.Dataset, source: str) -> Table:
    if rows.num_rows == 0:
        raise UserError(f"{source} has no rows: an empty split; choose another")
    return columnar.table_of(rows, source)


def _config_notes(address: _Address, loaded: datasets.DatasetDict) -> tuple[str, ...]:
    """Say which config was taken where the name says none and it has a name of its own."""
    config = next(iter(loaded.values())).info.config_name
    if address.config is not None or config in (None, "default"):
        return ()
    return (f"config {config!r} of {address.repository}, since none is named",)


def _with_split(name: str, loaded: datasets.DatasetDict) -> str:
    split = next((one for one in loaded if "train" in one), next(iter(loaded)))
    return f"{name}{':' * (2 - name.count(':'))}{split}"


def _some(names: Sequence[str], most: int = 12) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
