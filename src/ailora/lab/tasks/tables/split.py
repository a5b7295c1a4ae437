"""Seeded choices of rows: splits that are held out, limits, and texts that splits share.

All kinds of task use these. What differs between them is how rows are drawn: one by one, each
class in its proportion (`SingleRows`), or in whole groups (`WholeGroups`).
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from datasets import Dataset
from sklearn.model_selection import train_test_split

from ailora.errors import UserError

Splits = tuple[Dataset, Dataset, Dataset]
_HELD_OUT = 0.1
_FEW = 10  # groups: with fewer, one of them can be most of the rows


class Draw(Protocol):
    """How rows are drawn."""

    @property
    def noun(self) -> str:
        """What messages call rows."""

    def choose(self, data: Dataset, count: int, *, seed: int) -> Sequence[int]:
        """Return the indices of ``count`` rows to keep."""

    def choose_held_out(self, data: Dataset, count: int, *, seed: int) -> tuple[Sequence[int], str]:
        """Return the indices of about ``count`` rows to hold out, and how, for the note.

        Raises:
            UserError: Too few rows for both parts to have any.
        """


@dataclass(frozen=True)
class SingleRows:
    """Rows drawn one by one; with ``stratify``, each class of ``label`` in its proportion.

    Classes with a single row are kept rather than held out.
    """

    stratify: bool = False
    noun: str = "rows"

    def choose(self, data: Dataset, count: int, *, seed: int) -> Sequence[int]:
        """Return the indices of ``count`` rows."""
        if self.stratify:
            labels = data["label"][:]
            sizes = Counter(labels)
            rows = [index for index, label in enumerate(labels) if sizes[label] > 1]
            classes = len({labels[index] for index in rows})
            if classes <= count <= len(rows) - classes:
                return _shuffled(rows, count, seed, [labels[index] for index in rows])
        # Fewer rows than classes, or hardly any left: a plain draw.
        return _shuffled(list(range(data.num_rows)), count, seed, None)

    def choose_held_out(self, data: Dataset, count: int, *, seed: int) -> tuple[Sequence[int], str]:
        """Return the indices of exactly ``count`` rows."""
        if not 1 <= count < data.num_rows:
            raise UserError(
                f"cannot hold {count} of {data.num_rows} rows out: an empty split; "
                "give more rows or separate dev and test files"
            )
        return self.choose(data, count, seed=seed), ""


@dataclass(frozen=True, kw_only=True)
class WholeGroups:
    """Splits that share no group: all rows of a group are held out, or none of them.

    Attributes:
        groups: Column by the name of its groups, from coarse to fine, as ``article`` and
            ``context``. A coarse one is used where each row has one, there are ten or more, and
            each fine group lies in one of them; the last is used otherwise.
        noun: What messages call rows.
    """

    groups: Mapping[str, str]
    noun: str = "rows"

    def choose(self, data: Dataset, count: int, *, seed: int) -> Sequence[int]:
        """Return the indices of ``count`` rows, whatever their groups."""
        return [int(index) for index in np.random.default_rng(seed).permutation(len(data))[:count]]

    def choose_held_out(self, data: Dataset, count: int, *, seed: int) -> tuple[Sequence[int], str]:
        """Return the rows of groups with about ``count`` rows.

        Groups are drawn in a seeded order, each that still fits; the smallest where none does.
        """
        *_, (finest, column) = self.groups.items()
        fine = data[column][:]
        if len(set(fine)) < 2:
            raise UserError(
                f"the {len(data)} training {self.noun} have one {finest}: no other to hold out; "
                f"give dev and test files, or more {finest}s"
            )
        unit, names = finest, fine
        for coarse, column in list(self.groups.items())[:-1]:
            if _are_groups(values := data[column][:], fine):
                unit, names = coarse, values
                break
        drawn = _drawn_groups(names, count, seed)
        return [row for row, name in enumerate(names) if name in drawn], f" by whole {unit}s"


PLAIN, BY_CLASS = SingleRows(), SingleRows(stratify=True)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which rows are kept: the seed of made splits and of limits, and the limits."""

    seed: int = 0
    limit: int | None = None
    eval_limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A data set cut in two, and in which units if not by single rows."""

    kept: Dataset
    held_out: Dataset
    how: str


def complete(
    parts: Mapping[str, Dataset], *, seed: int, draw: Draw = PLAIN
) -> tuple[Splits, tuple[str, ...]]:
    """Return train, selection and test from the parts given, and one note on each thing done.

    A ``dev`` part without a ``test`` part is the test split, as papers report GLUE and SQuAD; what
    is missing then is a tenth of train.

    Raises:
        UserError: Train cannot be split.
    """
    train, dev, test = parts["train"], parts.get("dev"), parts.get("test")
    notes = []
    if test is None and dev is not None:
        test, dev = dev, None
        notes.append(f"no test split given: the {len(test)} dev {draw.noun} are the test split")
    tenth = max(1, round(_HELD_OUT * len(train)))
    held = {}
    for name, given in (("test", test), ("selection", dev)):
        if given is None:
            cut = hold_out(train, tenth, seed=seed, draw=draw)
            train, held[name] = cut.kept, cut.held_out
            notes.append(
                f"{name} split: {len(cut.held_out)} {draw.noun} held out of train{cut.how} "
                f"(seed {seed})"
            )
        else:
            held[name] = given
    return (train, held["selection"], held["test"]), tuple(notes)


def limited(splits: Splits, sampling: Sampling, draw: Draw = PLAIN) -> Splits:
    """Apply the limits to complete splits.

    Raises:
        UserError: A limit is less than 1.
    """
    train, selection, test = splits
    return (
        at_most(train, sampling.limit, seed=sampling.seed, draw=draw),
        at_most(selection, sampling.eval_limit, seed=sampling.seed, draw=draw),
        at_most(test, sampling.eval_limit, seed=sampling.seed, draw=draw),
    )


def hold_out(data: Dataset, count: int, *, seed: int, draw: Draw = PLAIN) -> Cut:
    """Cut ``count`` rows off; file order is kept within both parts.

    Raises:
        UserError: Too few rows for both parts to have any.
    """
    chosen, how = draw.choose_held_out(data, count, seed=seed)
    held = set(chosen)
    kept = [index for index in range(data.num_rows) if index not in held]
    return Cut(kept=_rows(data, kept), held_out=_rows(data, sorted(held)), how=how)


def at_most(data: Dataset, limit: int | None, *, seed: int, draw: Draw = PLAIN) -> Dataset:
    """Return ``limit`` rows in file order; all where there are no more.

    Raises:
        UserError: ``limit`` is less than 1.
    """
    if limit is None:
        return data
    if limit < 1:
        raise UserError(f"a limit of {limit} rows leaves an empty split; give 1 or more")
    if limit >= data.num_rows:
        return data
    return _rows(data, sorted(draw.choose(data, limit, seed=seed)))


class Shared(NamedTuple):
    """How many of the ``rows`` of the ``later`` split are in the ``earlier`` one too."""

    earlier: str
    later: str
    repeated: int
    rows: int


def shared(splits: Mapping[str, Sequence[Hashable]]) -> Iterator[Shared]:
    """Compare each two splits, given what is to be compared of each row."""
    for earlier, later in itertools.combinations(splits, 2):
        seen = set(splits[earlier])
        yield Shared(earlier, later, sum(row in seen for row in splits[later]), len(splits[later]))


def shared_texts(splits: Mapping[str, Sequence[Hashable]]) -> tuple[str, ...]:
    """Say, for each two splits, how many rows of the later one repeat texts of the earlier."""
    return tuple(_shared_note(found) for found in shared(splits) if found.repeated)


def shared_but_for_case(splits: Mapping[str, Sequence[tuple[str, ...]]]) -> tuple[str, ...]:
    """`shared_texts` of rows of texts, where case and the width of spaces do not count.

    The note says so where some rows are the same in nothing else.
    """
    folded = {
        name: [tuple(comparable(text, punctuation=True) for text in row) for row in rows]
        for name, rows in splits.items()
    }
    aside = " (case and spaces aside)"
    return tuple(
        _shared_note(found) + (aside if found.repeated > exact.repeated else "")
        for found, exact in zip(shared(folded), shared(splits), strict=True)
        if found.repeated
    )


def _shared_note(found: Shared) -> str:
    return (
        f"{found.repeated} of {found.rows} {found.later} rows have a text that {found.earlier} "
        "has too"
    )


def comparable(text: str, *, punctuation: bool = False) -> str:
    """Return what two texts must have in common to count as the same: letters and digits.

    With ``punctuation`` they must have the same words and punctuation too; then only case, the
    width of spaces and what nobody sees (an accent in one character or two, marks without a width)
    do not count.
    """
    if punctuation:
        text = unicodedata.normalize("NFC", text.casefold())
        seen = text if text.isascii() else "".join(filter(_is_seen, text))
        return " ".join(seen.split()) or text.strip()
    folded = text.casefold()
    return re.sub(r"[\W_]+", "", folded) or text


def _is_seen(character: str) -> bool:
    return unicodedata.category(character) != "Cf"


def _rows(data: Dataset, indices: list[int]) -> Dataset:
    # Dataset.select keeps a list of indices, through which every later read of a column is some
    # twenty times slower than from rows that lie together.
    return Dataset(data.with_format("arrow")[:].take(indices))


def _shuffled(rows: list[int], count: int, seed: int, classes: list[int] | None) -> list[int]:
    with warnings.catch_warnings():
        # "The number of unique classes is greater than 50%": small data, not a mistake.
        warnings.simplefilter("ignore", UserWarning)
        chosen: list[int] = train_test_split(
            rows, train_size=count, random_state=seed, shuffle=True, stratify=classes
        )[0]
    return chosen


def _are_groups(coarse: Sequence[str], fine: Sequence[str]) -> bool:
    """Whether every row has a coarse group, there are enough, and each fine one is in one."""
    names, pairs = set(coarse), set(zip(coarse, fine, strict=True))
    return "" not in names and len(names) >= _FEW and len(pairs) == len(set(fine))


def _drawn_groups(names: Sequence[str], count: int, seed: int) -> set[str]:
    """Groups, in a seeded order, that together have at most ``count`` rows; at least one group."""
    sizes = Counter(names)  # in order of first appearance
    groups = list(sizes)
    chosen, left = set[str](), count
    for index in np.random.default_rng(seed).permutation(len(groups)):
        size = sizes[groups[index]]
        if size <= left:
            chosen.add(groups[index])
            left -= size
    return chosen or {min(groups, key=sizes.__getitem__)}
