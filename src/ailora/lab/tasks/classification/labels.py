"""What the labels of a table mean: numbers to predict, or which classes there are."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from ailora.errors import UserError, instead
from ailora.lab.tasks.tables.repeats import comparable
from ailora.lab.tasks.tables.table import Table, brief, is_blank, means_missing, stop
from ailora.lab.tasks.tables.watching import watched

# Turns a raw label into a class index (int) or a number (float); a ValueError says why it cannot.
Encode = Callable[[str], int | float]
_FEW = 0.1  # words for each number, among labels with fractions: more, and they are classes
_FLAGS = {"true": Decimal(1), "false": Decimal(0)}
# A list as text, as csv holds one: of nothing, of numbers or of quoted words. "[OTHER]" is none.
_LIST = re.compile(r"[\[({]\s*(?:(['\"]).*\1|[-+.\d][-+.\d\s,eE]*)?\s*,?\s*[\])}]")
_SEPARATORS = re.compile(r"[,;|]")
# Numbers as people write them, which Python's float does not read: 3,5, 1,234.5, $20, 50%.
_PEOPLES_NUMBER = re.compile(
    r"[-+\u2212]?\s?[$€£¥]?\s?\d{1,3}(?:[.,'’ \u00a0\u202f]?\d{3})*(?:[.,]\d+)?\s?[%$€£¥]?"
)


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What the labels of a training table mean.

    Attributes:
        names: Class names by index; None for regression.
        encode: Makes a class index or a number of a label.
        notes: One line each on what is odd about the labels.
    """

    names: tuple[str, ...] | None
    encode: Encode
    notes: tuple[str, ...] = ()


def meaning_of(
    table: Table,
    label: str,
    *,
    regression: bool | None = None,
    order: Sequence[str] | None = None,
) -> Meaning:
    """Decide by all labels of a training table what they mean.

    They are numbers to predict if some have a fraction and nearly all others are numbers too; a
    word among those, NaN say, does not make them classes. Labels that are equal as numbers (``1``,
    ``1.0`` and JSON's true) are one class.

    Args:
        table: The training rows.
        label: The column.
        regression: What was asked for; None decides by the labels.
        order: Names of the classes by index; the column holds these, or the indices.

    Raises:
        UserError: One class only, or so many that the column cannot hold classes; or an order that
            cannot be one.
    """
    if order is not None:
        return _in_order(table, label, order, regression)
    declared = table.class_names.get(label)
    values = _labels_of(table, label)
    if regression or (regression is None and declared is None and _is_scale(values)):
        return Meaning(names=None, encode=encode_number)
    if declared is not None:
        return Meaning(names=declared, encode=class_encoder(declared))
    _check_single(table, label, values)
    if regression is None:
        _check_written(table, label, values)
    groups = _equal(values)
    names = _class_names(table, label, groups)
    notes = (*_merged_note(groups), *_alike_note(names))
    return Meaning(names=names, encode=class_encoder(names), notes=notes)


def raw_label(value: Any) -> str:
    """A label as text, so that 1 in JSON and ``1`` in csv are the same class.

    Raises:
        ValueError: It is missing, empty, NaN, or not a scalar.
    """
    if isinstance(value, bool):
        return str(value).lower()
    as_text = isinstance(value, str) and _LIST.fullmatch(value.strip())
    if as_text or isinstance(value, list | tuple):
        several = "a list of labels" if len(value) == 1 or as_text else "several labels"
        raise ValueError(
            f"{several} in one row, {brief(value)}: a row can have one; keep one and write "
            "it without the list, or write a task of your own"
        )
    missing = isinstance(value, float) and math.isnan(value)
    known = isinstance(value, str | int | float | Decimal)
    if missing or not known or is_blank(str(value)):
        raise ValueError(f"expected a label, got {brief(value)}; fill it in or drop the row")
    return str(value).strip()


def encode_number(text: str) -> float:
    """Return a label as a finite float.

    Raises:
        ValueError: It is none.
    """
    value = _float(text)
    if value is None:
        raise ValueError(f"expected a number for regression, got {brief(text)}; write it as 1234.5")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number for regression, got {brief(text)}")
    return value


def class_encoder(names: Sequence[str]) -> Encode:
    """A function from a class name, or one equal to it as a number, to its index.

    It raises a ValueError for an unknown one.
    """
    index: dict[Hashable, int] = {}
    for position, name in enumerate(names):
        index.setdefault(_same(name), position)
    exact = {name: position for position, name in enumerate(names)}
    known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")

    def encode(text: str) -> int:
        found = exact.get(text, index.get(_same(text)))
        if found is None:
            raise ValueError(f"label {brief(text)} is not in train (there: {known})")
        return found

    return encode


def positive_of(names: tuple[str, ...] | None, positive: str | None) -> str | None:
    """The class that F1 is of: the one asked for, else the last of two.

    Raises:
        UserError: One is asked for that is not among them, or they are not two.
    """
    if positive is None:
        return names[1] if names is not None and len(names) == 2 else None
    if names is None or len(names) != 2:
        found = "numbers" if names is None else f"{len(names)} classes"
        raise UserError(
            f"positive {positive!r}: only one of two classes can be positive, and the labels are "
            f"{found}; leave it out"
        )
    try:
        return names[int(class_encoder(names)(positive))]
    except ValueError:
        raise UserError(
            f"positive {positive!r} is no class of train: {instead(positive, names)}"
        ) from None


def _labels_of(table: Table, label: str) -> Counter[str]:
    """How often each label is there, as text; those that cannot be used are passed over."""
    found = Counter[str]()
    for _, row in watched(table.rows, "looking at labels", len(table.rows)):
        with suppress(ValueError):
            found[raw_label(row.get(label))] += 1
    return found


def _is_scale(values: Mapping[str, int]) -> bool:
    """Whether labels look like a regression target: numbers, some with a fraction."""
    numbers = words = 0
    fraction = False
    for text, count in values.items():
        value = _finite(text)
        if value is not None:
            numbers += count
            fraction = fraction or not value.is_integer()
        elif not means_missing(text):
            words += count
    return fraction and words <= _FEW * numbers


def _check_single(table: Table, label: str, values: Mapping[str, int]) -> None:
    """Raise a UserError for labels that join others of the same column, such as ``a|b``."""
    for text in values:
        parts = [part.strip() for part in _SEPARATORS.split(text)]
        if len(parts) > 1 and all(part in values for part in parts):
            raise UserError(
                f"{table.source}: column {label!r}: {brief(text)} looks like several labels in one "
                f"row ({', '.join(map(brief, parts))} are labels too): a row can have one; keep "
                "one, or name all classes with labels if this is one of them"
            )


def _check_written(table: Table, label: str, values: Mapping[str, int]) -> None:
    """Raise a UserError for labels that are numbers in a spelling that is not read as one."""
    odd = [text for text in values if _float(text) is None and _PEOPLES_NUMBER.fullmatch(text)]
    others = sum(1 for text in values if _float(text) is None) - len(odd)
    if odd and others <= _FEW * len(values):
        raise UserError(
            f"{table.source}: column {label!r}: {brief(odd[0])} may be a number or a class; write "
            "numbers as 1234.5, or say regression=False if these are classes"
        )


def _finite(text: str) -> float | None:
    value = _float(text)
    return value if value is not None and math.isfinite(value) else None


def _float(text: str) -> float | None:
    """A number as files write one; Python's ``1_5`` is none, and a class may be called so."""
    if "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _same(text: str) -> Hashable:
    """What two labels have in common that are one class: the number, else the text."""
    flag = _FLAGS.get(text.casefold())
    if flag is not None:
        return flag
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if "_" in text:
        return text
    return text if number.is_nan() or abs(number.adjusted()) > 400 else number


def _equal(values: Iterable[str]) -> dict[str, list[str]]:
    """Labels by the one of its equals that names the class: the shortest that is a number."""
    groups: dict[Hashable, list[str]] = {}
    for text in values:
        groups.setdefault(_same(text), []).append(text)
    found: dict[str, list[str]] = {}
    for texts in groups.values():
        plain = sorted(texts, key=lambda text: (text.casefold() in _FLAGS, len(text), text))
        if plain[0].casefold() in _FLAGS:  # true and True: words, as long as no number is there
            found |= {text: [text] for text in texts}
        else:
            found[plain[0]] = plain
    return found


def _class_names(table: Table, label: str, groups: Mapping[str, list[str]]) -> tuple[str, ...]:
    """The classes: numbers before names, sorted."""
    where = f"{table.source}: column {label!r}"
    if not groups:
        place, row = next(iter(table.rows))
        try:
            raw_label(row.get(label))
        except ValueError as error:
            stop(table.source, place, f"column {label!r}: {error}")
    if len(groups) == 1:
        raise UserError(
            f"{where} holds one class only ({brief(next(iter(groups)))}): nothing to learn"
        )
    if len(groups) > 20 and 2 * len(groups) > len(table.rows):
        raise UserError(
            f"{where} has {len(groups)} different values in {len(table.rows)} rows, too many for "
            "classes; name another label column, or ask for regression"
        )
    return tuple(sorted(groups, key=_numbers_first))


def _in_order(table: Table, label: str, order: Sequence[str], regression: bool | None) -> Meaning:
    names = tuple(name.strip() for name in order)
    if regression or len(names) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"labels {list(order)!r}: give the names of two or more classes, each once, and no "
            "regression"
        )
    index: dict[Hashable, int] = {_same(str(number)): number for number in range(len(names))}
    declared = table.class_names.get(label, ())
    if len(declared) == len(names):
        index |= {_same(name): number for number, name in enumerate(declared)}
    index |= {_same(name): number for number, name in enumerate(names)}
    known = ", ".join(f"{number} ({name})" for number, name in enumerate(names))

    def encode(text: str) -> int:
        found = index.get(_same(text))
        if found is None:
            raise ValueError(f"label {brief(text)} is none of {known}")
        return found

    there = {index.get(_same(text)) for text in _labels_of(table, label)}
    absent = [name for number, name in enumerate(names) if number not in there]
    notes = (f"no training row is of class {' or '.join(map(repr, absent))}",) if absent else ()
    return Meaning(names=names, encode=encode, notes=notes)


def _merged_note(groups: Mapping[str, list[str]]) -> tuple[str, ...]:
    merged = [
        f"{texts[0]!r} (also {', '.join(map(repr, texts[1:]))})"
        for texts in groups.values()
        if len(texts) > 1
    ]
    return (f"equal as numbers, so one class: {', '.join(merged)}",) if merged else ()


def _alike_note(names: Sequence[str]) -> tuple[str, ...]:
    """Name the classes that differ in case or spaces alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(comparable(name, punctuation=True), []).append(name)
    alike = [" and ".join(map(_told_apart, group)) for group in groups.values() if len(group) > 1]
    if not alike:
        return ()
    whole = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return (
        f"classes that differ in case or spaces alone: {'; '.join(alike)} (all classes: {whole})",
    )


def _told_apart(name: str) -> str:
    """A name in quotes in which marks that nobody sees can be told."""
    return repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name)


def _numbers_first(text: str) -> tuple[bool, float, str]:
    value = _float(text)
    return (True, 0.0, text) if value is None or math.isnan(value) else (False, value, text)
