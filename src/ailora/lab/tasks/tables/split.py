"""Seeded, label-stratified choices of rows."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from dataclasses import dataclass

from datasets import Dataset
from sklearn.model_selection import train_test_split

from ailora.errors import UserError

_HELD_OUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which rows are kept: the seed of made splits and of limits, and the limits."""

    seed: int = 0
    limit: int | None = None
    eval_limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Held:
    """A data set cut in two."""

    kept: Dataset
    held_out: Dataset


def hold_out(data: Dataset, count: int, *, seed: int, stratify: bool) -> Held:
    """Cut ``count`` rows off, each class in its proportion; file order is kept within both parts.

    Classes with a single row stay in the kept part.

    Raises:
        UserError: Too few rows for both parts to have any.
    """
    if not 1 <= count < data.num_rows:
        raise UserError(
            f"cannot hold {count} of {data.num_rows} rows out: an empty split; "
            "give more rows or separate dev and test files"
        )
    held = set(_choose(data, count, seed=seed, stratify=stratify))
    kept = [index for index in range(data.num_rows) if index not in held]
    return Held(kept=_rows(data, kept), held_out=_rows(data, sorted(held)))


def at_most(data: Dataset, limit: int | None, *, seed: int, stratify: bool) -> Dataset:
    """Return ``limit`` rows (all where there are no more), each class in its proportion.

    Raises:
        UserError: ``limit`` is less than 1.
    """
    if limit is None:
        return data
    if limit < 1:
        raise UserError(f"a limit of {limit} rows leaves an empty split; give 1 or more")
    if limit >= data.num_rows:
        return data
    return _rows(data, sorted(_choose(data, limit, seed=seed, stratify=stratify)))


def complete(
    parts: dict[str, Dataset], *, seed: int, stratify: bool
) -> tuple[tuple[Dataset, Dataset, Dataset], tuple[str, ...]]:
    """Return train, selection and test from those given, and what was done, a line each.

    Raises:
        UserError: Train has too few rows to be split.
    """
    train, dev, test = parts["train"], parts.get("dev"), parts.get("test")
    notes = []
    if test is None and dev is not None:
        test, dev = dev, None
        notes.append(f"no test split given: the {test.num_rows} dev rows are the test split")
    tenth = max(1, round(_HELD_OUT * train.num_rows))
    if test is None:
        cut = hold_out(train, tenth, seed=seed, stratify=stratify)
        train, test = cut.kept, cut.held_out
        notes.append(f"test split: {tenth} rows held out of train (seed {seed})")
    if dev is None:
        cut = hold_out(train, tenth, seed=seed, stratify=stratify)
        train, dev = cut.kept, cut.held_out
        notes.append(f"selection split: {tenth} rows held out of train (seed {seed})")
    return (train, dev, test), tuple(notes)


def shared_texts(**splits: Dataset) -> tuple[str, ...]:
    """Say, for each two splits, how many rows of the later one repeat texts of the earlier."""
    columns = [name for name in ("text", "text_pair") if name in splits["train"].column_names]
    texts = {
        part: list(zip(*(split[name][:] for name in columns), strict=True))
        for part, split in splits.items()
    }
    notes = []
    for first, second in itertools.combinations(texts, 2):
        seen = set(texts[first])
        count = sum(row in seen for row in texts[second])
        if count:
            rows = len(texts[second])
            notes.append(f"{count} of {rows} {second} rows have a text that {first} has too")
    return tuple(notes)


def _rows(data: Dataset, indices: list[int]) -> Dataset:
    # Dataset.select keeps a list of indices, through which every later read of a column is some
    # twenty times slower than from rows that lie together.
    return Dataset(data.with_format("arrow")[:].take(indices))


def _choose(data: Dataset, count: int, *, seed: int, stratify: bool) -> list[int]:
    if stratify:
        labels = data["label"][:]
        sizes = Counter(labels)
        rows = [index for index, label in enumerate(labels) if sizes[label] > 1]
        classes = len({labels[index] for index in rows})
        if classes <= count <= len(rows) - classes:
            return _shuffled(rows, count, seed, [labels[index] for index in rows])
    # Fewer rows than classes, or hardly any left: a plain draw.
    return _shuffled(list(range(data.num_rows)), count, seed, None)


def _shuffled(rows: list[int], count: int, seed: int, classes: list[int] | None) -> list[int]:
    with warnings.catch_warnings():
        # "The number of unique classes is greater than 50%": small data, not a mistake.
        warnings.simplefilter("ignore", UserWarning)
        chosen: list[int] = train_test_split(
            rows, train_size=count, random_state=seed, shuffle=True, stratify=classes
        )[0]
    return chosen
