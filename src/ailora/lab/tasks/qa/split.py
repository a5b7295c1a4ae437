"""Splits of questions that share no context: many questions are asked about each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from datasets import Dataset

from ailora.errors import UserError
from ailora.lab.tasks.qa.rows import Question

_FEW = 10  # titles: with fewer, one of them can be most of the rows
_HELD_OUT = 0.1
_Row = TypeVar("_Row")
Parts = tuple[list[Question], list[Question], list[Question]]


def complete(
    train: list[Question],
    dev: list[Question] | None,
    test: list[Question] | None,
    *,
    seed: int,
) -> tuple[Parts, tuple[str, ...]]:
    """Train, selection and test, and what was done for them, a line each.

    As for other tasks: a dev split without a test split is the test split, as papers report SQuAD,
    and what is missing is a tenth of train; here in whole articles or contexts.

    Raises:
        UserError: Train has a single context.
    """
    notes = []
    if test is None and dev is not None:
        test, dev = dev, None
        notes.append(f"no test split given: the {len(test)} dev questions are the test split")
    tenth = max(1, round(_HELD_OUT * len(train)))
    made = {}
    for name, given in (("test", test), ("selection", dev)):
        if given is None:
            train, made[name], unit = hold_out(train, tenth, seed=seed)
            notes.append(
                f"{name} split: {len(made[name])} questions held out of train "
                f"by whole {unit}s (seed {seed})"
            )
    selection = dev if dev is not None else made["selection"]
    return (train, selection, test if test is not None else made["test"]), tuple(notes)


def hold_out(
    questions: Sequence[Question], count: int, *, seed: int
) -> tuple[list[Question], list[Question], str]:
    """Cut about ``count`` questions off so that the two parts have no context in common.

    Whole articles go where there are ten or more, else whole contexts; drawn in a seeded order,
    each that still fits; the smallest where none does. File order is kept.

    Returns:
        Kept and held-out questions, and the unit: "article" or "context".

    Raises:
        UserError: All questions are about one context.
    """
    contexts = {row.context for row in questions}
    if len(contexts) < 2:
        raise UserError(
            f"the {len(questions)} training questions have one context: no other to hold out; "
            "give dev and test files, or more contexts"
        )
    unit = "article" if _has_articles(questions, len(contexts)) else "context"
    names = [row.title if unit == "article" else row.context for row in questions]
    drawn = _drawn(names, count, seed)
    parts: dict[bool, list[Question]] = {False: [], True: []}
    for row, name in zip(questions, names, strict=True):
        parts[name in drawn].append(row)
    return parts[False], parts[True], unit


def at_most(questions: list[_Row], limit: int | None, *, seed: int) -> list[_Row]:
    """``limit`` seeded questions in file order; all where there are no more.

    Raises:
        UserError: ``limit`` is less than 1.
    """
    if limit is None:
        return questions
    if limit < 1:
        raise UserError(f"a limit of {limit} rows leaves an empty split; give 1 or more")
    chosen = np.random.default_rng(seed).permutation(len(questions))[:limit]
    return [questions[index] for index in sorted(chosen)]


def shared_contexts(**splits: Dataset) -> tuple[str, ...]:
    """Say how many questions of a later split are about a context that an earlier one has too."""
    notes, seen = [], list[tuple[str, set[str]]]()
    for name, split in splits.items():
        contexts = split["context"][:]
        for earlier, known in seen:
            shared = sum(context in known for context in contexts)
            if shared:
                notes.append(
                    f"{shared} of {len(contexts)} {name} questions have a context of {earlier}"
                )
        seen.append((name, set(contexts)))
    return tuple(notes)


def _has_articles(questions: Sequence[Question], contexts: int) -> bool:
    """Whether every question has a title, there are enough, and each context is of one."""
    titles = {row.title for row in questions}
    pairs = {(row.title, row.context) for row in questions}
    return "" not in titles and len(titles) >= _FEW and len(pairs) == contexts


def _drawn(names: Sequence[str], count: int, seed: int) -> set[str]:
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
