"""SQuAD's evaluation rules written anew, in plain loops, as the independent answer."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence


def plain(text: str) -> str:
    kept = "".join(char for char in text.lower() if char not in set(string.punctuation))
    words = re.split(r"\s+", re.sub(r"\b(?:a|an|the)\b", " ", kept))
    return " ".join(word for word in words if word)


def words_f1(guess: str, gold: str, *, empty_matches: bool) -> float:
    left, right = plain(guess).split(), plain(gold).split()
    if empty_matches and not (left and right):
        return float(left == right)
    rest, common = list(right), 0
    for word in left:
        if word in rest:
            rest.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(left), common / len(right)
    return 2 * precision * recall / (precision + recall)


def v1(guess: str, golds: Sequence[str]) -> tuple[float, float]:
    exact = max(float(plain(guess) == plain(gold)) for gold in golds)
    return exact, max(words_f1(guess, gold, empty_matches=False) for gold in golds)


def v2(guess: str, golds: Sequence[str]) -> tuple[float, float]:
    left = [gold for gold in golds if plain(gold)] or [""]
    exact = max(float(plain(guess) == plain(gold)) for gold in left)
    return exact, max(words_f1(guess, gold, empty_matches=True) for gold in left)


def best_total(margins: Sequence[float], f1: Sequence[float], has: Sequence[bool]) -> float:
    """The highest mean F1 of any threshold, by trying them all."""
    tried = [min(margins) - 1, *margins]
    return max(
        sum(float(not has[i]) if margin > threshold else f1[i] for i, margin in enumerate(margins))
        / len(margins)
        for threshold in tried
    )
