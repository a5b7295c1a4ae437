"""Scores of generated texts by name, each in [0, 1] for a text against its references.

How an answer is found in a text for ``number`` and ``choice`` follows the rules of the LLM-Adapters
evaluation (Hu et al., 2023), as the AILoRA paper does for arithmetic; see `number_of` and
`choice_of` for what they make of hard cases. Those rules are for what a model writes. A right
answer (a reference) that they misread would turn the scores round, so `written_number` reads a
reference that is nothing but a number as it is meant, and `check_references` refuses a row whose
own answer would not score 1.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ailora.errors import UserError, instead
from ailora.lab.tasks.tables.table import brief

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_TOLERANCE = 1e-3
_NUMBER = re.compile(r"-?\d+\.?\d*")
_CHOICE = re.compile(r"[A-E]")

# A reference that is nothing but a number.
_SPACES = " \u00a0\u2009\u202f"  # between thousands: also no-break and thin ones
_MINUS = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"))
_DIGITS = rf"\d{{1,3}}(?:,\d{{2,3}})*,\d{{3}}|\d{{1,3}}(?:[{_SPACES}]\d{{3}})+|\d+(?:_\d+)*"
_PLAIN = rf"(?:(?:{_DIGITS})\.?(?:\d+(?:_\d+)*)?|\.\d+)(?:[eE][+-]?\d+)?"
_CURRENCY = r"(?:[$€£¥]|\\\$)?"
_ALONE = re.compile(
    rf"(?P<sign>[+-]?)[{_SPACES}]?{_CURRENCY}(?P<inner>[+-]?)[{_SPACES}]?"
    rf"(?P<number>{_PLAIN})(?:[{_SPACES}]?/[{_SPACES}]?(?P<over>\d+))?[{_SPACES}]?(?:\\?%)?\.?"
)
# The last number of a longer text, with its commas; and what before it makes it a part of something
# else: a digit joined to it (1/2, 5-3, 1e3, 10:30, 9{,}500, 1 234), a sign or a point that the rule
# does not see.
_LAST = re.compile(r"\d+(?:,\d+)*(?:\.\d*)?")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d*)?")
_JOINED = re.compile(
    r"\d(?:[-.,/:^*×'’_+\u2010-\u2013\u2212]+|\s*/\s*|[eE][+-]?|\{,\}|\\[,!;:]|\^?\{|\}\{)$"
    r"|[\w)\]}]-$|-[$€£¥]$|(?<![\w.])\.$|[\u2010-\u2012\u2212\ufe63\uff0d]$|(?:^|\s)\u2013$|^\s*-\s+$"
)
_THOUSANDS_BEFORE = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:[{_SPACES}]\d{{3}})*[{_SPACES}]$")
# Several numbers and nothing else, of which the rule reads the last; a number in base 16 or 2.
_SEVERAL = re.compile(
    rf"\W*{_PLAIN}(?:\s*(?:[;&]|,\s|\bor\b|\band\b|\s)\s*[+-]?{_PLAIN})+\W*", re.IGNORECASE
)
_MARKED = re.compile(r"[\W_]*[A-E]\s*[).:\]]")  # an option's letter before its text
_BASE = re.compile(r"0[xXbBoO]$")
_LETTER = re.compile(r"(?<![^\W\d_])[A-E](?![^\W\d_])")


def exact_score(text: str, references: Sequence[str]) -> float:
    """1.0 if the text is one of the references but for white space."""
    return float(_trimmed(text) in map(_trimmed, references))


def number_of(text: str) -> float | None:
    r"""Return the last number of a text, None where there is none.

    Commas are dropped first ("1,234" is 1234; but "3, 4" is two numbers still, by its space), then
    the last match of ``-?\d+\.?\d*`` counts. So a full stop after a number does no harm, "$" and
    "%" are passed over, "1/2" is 2, "5-3" is -3, "1e3" is 3, and digits of any script count. What
    is too large for a float counts as no number.
    """
    found = _NUMBER.findall(text.replace(",", ""))
    number = float(found[-1]) if found else math.nan
    return number if math.isfinite(number) else None


def written_number(text: str) -> float | None:
    r"""Return the number that a reference stands for, None where it has none.

    A reference that is nothing but a number is read as people write one: ".5", "1e3", "1_000",
    "1/2", "1,234.5", "1 234", "\u22125" (a minus proper), "$5", "50%" (50), ``\boxed{9{,}500}``.
    Any other, such as a worked solution, gives what `number_of` finds in it.
    """
    bare = _unboxed(text).translate(_MINUS)
    found = _ALONE.fullmatch(bare)
    if found is None or (found["sign"] and found["inner"]):
        return number_of(text)
    digits = re.sub(rf"[,_{_SPACES}]", "", found["number"])
    number = float(digits)
    if found["over"] is not None:
        number = number / float(found["over"]) if float(found["over"]) else math.nan
    number = -number if "-" in (found["sign"], found["inner"]) else number
    return number if math.isfinite(number) else None


def choice_of(text: str) -> str | None:
    """Return the first capital letter from A to E anywhere in a text, None where there is none.

    This is AQuA's rule, and a crude one: "A train leaves ..." answers A, "Because" answers B.
    """
    found = _CHOICE.search(text)
    return found.group() if found else None


def number_score(text: str, references: Sequence[str]) -> float:
    """1.0 if the text's number is within 1e-3 of that of any reference, else 0.0.

    The text's is what `number_of` finds, a reference's is `written_number`. A text without a
    number is wrong, as is any against a reference without one.
    """
    answer = number_of(text)
    if answer is None:
        return 0.0
    known = [number for number in map(written_number, references) if number is not None]
    return float(any(abs(answer - number) <= _TOLERANCE for number in known))


def choice_score(text: str, references: Sequence[str]) -> float:
    """1.0 if the text's choice is that of any reference, else 0.0; no choice is wrong."""
    answer = choice_of(text)
    return float(answer is not None and answer in map(choice_of, references))


def check_references(names: Sequence[str], references: Sequence[str]) -> None:
    """Score the right answers themselves: a score that they cannot reach misleads.

    One word has no ROUGE-2; that counts only where it is the first of the metrics, the headline.

    Args:
        names: Metrics, as in `score`.
        references: The texts that are right, of which one is enough.

    Raises:
        ValueError: By one of the metrics no reference scores 1, or its rule finds another answer
            in it than what it says. The message has no place; `usable_rows` adds it.
    """
    for place, name in enumerate(names):
        if name == "rouge2" and place and any(map(seen_by_rouge, references)):
            continue
        misread = _MISREAD.get(name, lambda reference: "")
        reasons = [misread(reference) or _not_best(name, reference) for reference in references]
        if all(reasons):
            raise ValueError(
                f"the right answer {brief(references[0])} does not score 1 by the metric {name!r}: "
                f"{reasons[0]}; write it otherwise or name another metric"
            )


def _not_best(name: str, reference: str) -> str:
    """Say why a text does not score 1 against itself; empty if it does."""
    if score([name], reference, [reference])[name] > 1 - 1e-9:
        return ""
    if name in ROUGE and not seen_by_rouge(reference):
        return "ROUGE sees ASCII letters and digits alone"
    if name in ROUGE:
        return "it has no two words"
    return "it has " + {"number": "no number", "choice": "no capital from A to E"}.get(name, "none")


def _misread_number(text: str) -> str:
    """Say what `number_of` takes a reference for, where that is not what it says; else empty."""
    found, meant = number_of(text), written_number(text)
    if found is None:
        return ""
    if meant is not None and abs(found - meant) > _TOLERANCE:
        return f"its rule reads {found:.12g} there, not {meant:.12g}"
    if meant is None or (not _is_bare(text) and (_is_part(text) or _SEVERAL.fullmatch(text))):
        return f"its rule reads {found:.12g} there"
    return ""


def _is_part(text: str) -> bool:
    """Whether the last number of a text is a part of something else, such as a date or a power."""
    *_, last = _LAST.finditer(text)
    before, after = text[: last.start()], text[last.end() :]
    return (
        ("," in last.group() and not _THOUSANDS.fullmatch(last.group()))
        or _JOINED.search(before) is not None
        or _BASE.search(before) is not None
        or (_has_three_digits(last.group()) and _THOUSANDS_BEFORE.search(before) is not None)
        or after[:1].isnumeric()  # a half or a square
    )


def _has_three_digits(number: str) -> bool:
    return len(number.partition(".")[0]) == 3


def _is_bare(text: str) -> bool:
    return _ALONE.fullmatch(_unboxed(text).translate(_MINUS)) is not None


def _unboxed(text: str) -> str:
    r"""A text without ``\boxed{...}`` and ``$...$`` around it, LaTeX's own commas plain ones."""
    found = re.sub(r"\{,\}|\\[,!;:]", ",", text.strip())
    for around in (r"\$(.*[^$])\$", r"\\boxed\{(.*)\}", r"\\\((.*)\\\)"):
        inner = re.fullmatch(around, found)
        found = inner[1].strip() if inner else found
    return found


def _misread_choice(text: str) -> str:
    """Say what `choice_of` takes a reference for, where that is no letter alone; else empty."""
    found = _CHOICE.search(text)
    if found is None:
        return ""
    if _LETTER.match(text, found.start()):
        others = {letter for letter in _LETTER.findall(text) if letter != found.group()}
        if not others or _MARKED.match(text):
            return ""
        return f"its rule reads {found.group()!r} there, of several letters"
    return f"its rule reads the first capital from A to E, here {found.group()!r} in a word"


def _trimmed(text: str) -> str:
    return " ".join(text.split())


_RULES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact_score,
    "number": number_score,
    "choice": choice_score,
}
_MISREAD = {"number": _misread_number, "choice": _misread_choice}
_ANSWERS: dict[str, Callable[[str], Any]] = {"number": number_of, "choice": choice_of}
GENERATED = (*_RULES, *ROUGE)


def score(names: Sequence[str], text: str, references: Sequence[str]) -> dict[str, float]:
    """Score one generated text; of several references the best counts, for each name apart.

    Args:
        names: ``exact`` (the same text but for white space), ``number`` and ``choice``
            (LLM-Adapters' answer rules), or ``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``: F1
            by `rouge-score` with stemming. ROUGE sees ASCII letters and digits alone, and
            ``rougeLsum`` takes lines as sentences. A mean of these over rows is the plain mean;
            ``datasets`` and ``evaluate`` print the median of bootstrapped means, which differs by
            up to some hundredths of a point.
        text: What was generated; may be empty, which scores 0.
        references: One or more, none of them empty.

    Raises:
        UserError: Unknown name, no references or an empty one.
    """
    check_generated(names)
    if isinstance(references, str) or not references:
        raise UserError(f"references {brief(references)}: a list of one or more texts is needed")
    empty = next((reference for reference in references if not reference.strip()), None)
    if empty is not None:
        raise UserError(f"reference {empty!r} is empty: nothing can be scored against it")
    asked = tuple(name for name in names if name in ROUGE)
    rouge = _scorer(asked).score_multi(list(references), text) if asked else {}
    return {
        name: float(rouge[name].fmeasure) if name in rouge else _RULES[name](text, references)
        for name in names
    }


def answer_of(metric: str, text: str) -> Any:
    """What a metric takes for the answer in a text: a number, a letter, None, or the whole text."""
    return _ANSWERS.get(metric, str.strip)(text)


def commonest(metric: str, references: Iterable[str]) -> str | None:
    """The commonest right answer as a text; None for ROUGE, or where no answer is found.

    Answers are the same if the metric takes them so: "the answer is 5" and "5" by ``number``.
    """
    if metric in ROUGE:
        return None
    read = written_number if metric == "number" else functools.partial(answer_of, metric)
    counts = Counter(answer for answer in map(read, references) if answer is not None)
    if not counts:
        return None
    found = counts.most_common(1)[0][0]
    return f"{found:f}" if isinstance(found, float) else str(found)


def seen_by_rouge(text: str) -> bool:
    """Say whether a text has any word that ROUGE counts."""
    return re.search(r"[a-z0-9]", text.lower()) is not None


def check_generated(names: Sequence[str]) -> None:
    """Raise a UserError for no name, or for one that is no score of generated texts."""
    if not names or isinstance(names, str):
        raise UserError(f"metrics {names!r}: name one or more of {', '.join(GENERATED)}")
    for name in names:
        if name not in GENERATED:
            raise UserError(
                f"no score of generated texts is called {name!r}: {instead(name, GENERATED)}"
            )


@functools.cache
def _scorer(names: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 - it imports all of NLTK

    return RougeScorer(names, use_stemmer=True)
