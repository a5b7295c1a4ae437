"""Texts that occur more than once, in one split or in two.

A row is compared by 8 bytes of a hash of its texts, so that a million rows are 8 MB. Among as many
different texts, the chance that two have the same hash is below one in ten million.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from ailora.lab.tasks.tables.stored import rows_of

Keys = npt.NDArray[np.uint64]  # a hash per row


class Shared(NamedTuple):
    """How many of the ``rows`` of the ``later`` split are in the ``earlier`` one too."""

    earlier: str
    later: str
    repeated: int
    rows: int


def shared(splits: Mapping[str, Keys]) -> Iterator[Shared]:
    """Compare each two splits, given what is to be compared of each row."""
    for earlier, later in itertools.combinations(splits, 2):
        repeated = np.isin(splits[later], splits[earlier]).sum()
        yield Shared(earlier, later, int(repeated), len(splits[later]))


def shared_texts(splits: Mapping[str, Keys]) -> tuple[str, ...]:
    """Say, for each two splits, how many rows of the later one repeat texts of the earlier."""
    return tuple(_shared_note(found) for found in shared(splits) if found.repeated)


def shared_but_for_case(splits: Mapping[str, Dataset], columns: Sequence[str]) -> tuple[str, ...]:
    """`shared_texts` of some columns, where case and the width of spaces do not count.

    The note says so where some rows are the same in nothing else.
    """
    keys = {name: case_keys(rows, columns) for name, rows in splits.items()}
    folded = {name: one.folded for name, one in keys.items()}
    exact = {name: one.exact for name, one in keys.items()}
    aside = " (case and spaces aside)"
    return tuple(
        _shared_note(found) + (aside if found.repeated > same.repeated else "")
        for found, same in zip(shared(folded), shared(exact), strict=True)
        if found.repeated
    )


class CaseKeys(NamedTuple):
    """Hashes of rows: of their texts as they are, and without case and the width of spaces."""

    exact: Keys
    folded: Keys


def case_keys(rows: Dataset, columns: Sequence[str]) -> CaseKeys:
    """Hash some columns of each row."""
    exact, folded = (np.empty(rows.num_rows, np.uint64) for _ in range(2))
    for number, texts in enumerate(rows_of(rows, columns, "comparing texts")):
        exact[number] = _hash(texts)
        folded[number] = _hash([comparable(text, punctuation=True) for text in texts])
    return CaseKeys(exact, folded)


def keys_of(texts: Iterable[str]) -> Keys:
    """Hash each text."""
    return np.fromiter((_hash([text]) for text in texts), np.uint64)


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


def _hash(texts: Sequence[str]) -> int:
    # Two with the length of the first: ("ab", "c") and ("a", "bc") differ.
    whole = texts[0] if len(texts) == 1 else "".join(f"{len(text)}:{text}" for text in texts)
    data = whole.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _shared_note(found: Shared) -> str:
    return (
        f"{found.repeated} of {found.rows} {found.later} rows have a text that {found.earlier} "
        "has too"
    )
