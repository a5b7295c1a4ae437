"""Splits are seeded, disjoint, complete and in proportion."""

from __future__ import annotations

from collections import Counter

import pytest
from datasets import Dataset

from ailora.errors import UserError
from ailora.lab.tasks.tables.split import (
    BY_CLASS,
    PLAIN,
    WholeGroups,
    at_most,
    hold_out,
)


def rows(labels: list[int]) -> Dataset:
    return Dataset.from_dict({"text": [f"t{n}" for n in range(len(labels))], "label": labels})


SKEWED = rows([0] * 60 + [1] * 30 + [2] * 10)


def test_two_parts_hold_every_row_once_and_keep_file_order() -> None:
    cut = hold_out(SKEWED, 20, seed=3, draw=BY_CLASS)
    kept, held = cut.kept["text"][:], cut.held_out["text"][:]
    assert sorted(kept + held) == sorted(SKEWED["text"][:])
    assert len(held) == 20
    for part in (kept, held):
        assert part == sorted(part, key=lambda name: int(name[1:]))


def test_each_class_is_held_out_in_its_proportion() -> None:
    for seed in range(5):
        held = hold_out(SKEWED, 20, seed=seed, draw=BY_CLASS).held_out
        assert Counter(held["label"]) == {0: 12, 1: 6, 2: 2}
        assert Counter(at_most(SKEWED, 50, seed=seed, draw=BY_CLASS)["label"]) == {
            0: 30,
            1: 15,
            2: 5,
        }


def test_without_stratification_proportions_vary() -> None:
    counts = {
        tuple(sorted(Counter(hold_out(SKEWED, 20, seed=s, draw=PLAIN).held_out["label"]).items()))
        for s in range(5)
    }
    assert len(counts) > 1


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    def drawn(seed: int) -> list[str]:
        return hold_out(SKEWED, 20, seed=seed, draw=BY_CLASS).held_out["text"][:]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_a_class_with_one_row_stays_in_the_kept_part() -> None:
    data = rows([0] * 10 + [1] * 10 + [7])
    for seed in range(5):
        assert 7 in hold_out(data, 5, seed=seed, draw=BY_CLASS).kept["label"][:]


def test_fewer_rows_than_classes_are_a_plain_draw() -> None:
    data = rows(list(range(10)) * 2)
    assert at_most(data, 3, seed=0, draw=BY_CLASS).num_rows == 3


def test_a_limit_above_the_rows_or_none_keeps_all() -> None:
    assert at_most(SKEWED, 1000, seed=0, draw=BY_CLASS).num_rows == 100
    assert at_most(SKEWED, None, seed=0, draw=BY_CLASS).num_rows == 100


@pytest.mark.parametrize("count", [0, 2, 5])
def test_an_empty_part_is_a_user_error(count: int) -> None:
    with pytest.raises(UserError, match="empty split"):
        hold_out(rows([0, 1]), count, seed=0, draw=BY_CLASS)


def test_a_limit_below_one_is_a_user_error() -> None:
    with pytest.raises(UserError, match="a limit of 0 rows"):
        at_most(SKEWED, 0, seed=0, draw=BY_CLASS)


BY_DOCUMENT = WholeGroups(groups={"shelf": "shelf", "document": "document"})


def statements(documents: int, shelves: int, each: int = 3) -> Dataset:
    numbers = [n for n in range(documents) for _ in range(each)]
    return Dataset.from_dict(
        {
            "shelf": [f"s{n % shelves}" if shelves else "" for n in numbers],
            "document": [f"d{n}" for n in numbers],
        }
    )


@pytest.mark.parametrize(
    ("shelves", "unit"), [(20, "shelf"), (10, "shelf"), (9, "document"), (0, "document")]
)
def test_whole_groups_are_held_out_coarse_ones_where_there_are_enough(
    shelves: int, unit: str
) -> None:
    data = statements(40, shelves)
    for seed in range(5):
        cut = hold_out(data, 12, seed=seed, draw=BY_DOCUMENT)
        assert 1 <= len(cut.held_out) <= 12
        assert len(cut.kept) + len(cut.held_out) == len(data)
        assert not set(cut.kept[unit]) & set(cut.held_out[unit])
        assert cut.how == f" by whole {unit}s"


def test_a_group_larger_than_what_is_asked_for_goes_whole_and_one_alone_is_refused() -> None:
    assert len(hold_out(statements(3, 0, each=5), 2, seed=0, draw=BY_DOCUMENT).held_out) == 5
    with pytest.raises(UserError, match="have one document: no other to hold out"):
        hold_out(statements(1, 0), 1, seed=0, draw=BY_DOCUMENT)
