"""Texts that are the same are found, whatever their case and spaces, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from ailora.lab.tasks.tables.repeats import (
    case_keys,
    comparable,
    keys_of,
    shared,
    shared_but_for_case,
)


def test_what_is_shared_is_counted_for_each_two_splits_also_none() -> None:
    found = list(
        shared(
            {"train": keys_of("ab"), "selection": keys_of("bbc"), "test": keys_of("cd")},
        )
    )
    assert found == [
        ("train", "selection", 2, 3),
        ("train", "test", 0, 2),
        ("selection", "test", 1, 2),
    ]


@pytest.mark.parametrize(
    ("one", "other", "same", "same_but_for_spaces"),
    [
        ("How many?", "how  many ?", True, False),
        ("How many?", " HOW\tmany? ", True, True),
        ("straße_1", "STRASSE 1", True, False),
        ("How many?", "How money?", False, False),
        ("?!", "...", False, False),
        ("", " ", False, True),
    ],
)
def test_texts_are_the_same_by_letters_and_digits_or_but_for_spaces_and_case(
    one: str, other: str, *, same: bool, same_but_for_spaces: bool
) -> None:
    assert (comparable(one) == comparable(other)) is same
    equal = comparable(one, punctuation=True) == comparable(other, punctuation=True)
    assert equal is same_but_for_spaces


def test_hashes_agree_with_the_texts_themselves() -> None:
    draw = np.random.default_rng(0)
    words = ("Der", "der ", "das", "Straße", "STRASSE")
    texts = [f"{draw.choice(words)} {draw.integers(3)}" for _ in range(250)]
    rows = Dataset.from_dict({"text": texts[:-50], "text_pair": texts[50:]})
    pairs = list(zip(texts[:-50], texts[50:], strict=True))
    folded = [tuple(" ".join(text.casefold().split()) for text in pair) for pair in pairs]
    keys = case_keys(rows, ["text", "text_pair"])
    assert len(set(keys.exact.tolist())) == len(set(pairs))
    assert len(set(keys.folded.tolist())) == len(set(folded)) < len(set(pairs))
    assert len(set(zip(pairs, keys.exact.tolist(), strict=True))) == len(set(pairs))


def test_texts_cut_elsewhere_are_other_pairs() -> None:
    rows = Dataset.from_dict({"a": ["ab", "a"], "b": ["c", "bc"]})
    assert len(set(case_keys(rows, ["a", "b"]).exact.tolist())) == 2
    other = Dataset.from_dict({"a": ["a"], "b": ["bd"]})
    assert shared_but_for_case({"train": rows, "test": other}, ["a", "b"]) == ()
