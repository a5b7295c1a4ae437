"""One case: files of a kind, one or two of them changed, and how reading them ended."""

from __future__ import annotations

import random
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ailora.errors import UserError
from tests.hostile.guard import BrokenPromiseError, install, watched
from tests.hostile.mutations import PAYLOAD, change, parses
from tests.hostile.subjects import SUBJECTS

FINE = "a right answer"


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a case ended.

    Attributes:
        number: Its number, which with the seed decides everything.
        subject: What was read.
        file: The file that was changed.
        ending: "a right answer", the error's words without names and numbers, or what is broken.
        is_broken: Whether that is anything but the library's own error or a right answer.
        parsed: Whether the form of the changed file was whole.
    """

    number: int
    subject: str
    file: str
    ending: str
    is_broken: bool
    parsed: bool


@cache
def _whole(subject: str, scratch: Path) -> Path:
    """A folder of whole files, made once in a process."""
    folder = scratch / "whole" / re.sub(r"\W", "_", subject)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    SUBJECTS[subject].make(folder)
    SUBJECTS[subject].read(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    SUBJECTS[subject].make(folder)
    return folder


def run_case(number: int, seed: int, scratch: Path) -> Case:
    """Change, read, and look how it ended.

    Args:
        number: Number of the case.
        seed: Of all cases.
        scratch: A folder for whole and changed files.
    """
    rng = random.Random(f"{seed}:{number}")  # noqa: S311 - not a secret
    weights = [subject.weight for subject in SUBJECTS.values()]
    name = rng.choices(list(SUBJECTS), weights)[0]
    whole, folder = _whole(name, scratch), scratch / "case"
    outside = scratch / "outside.json"
    outside.write_text("{}")
    shutil.copytree(whole, folder)
    try:
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md")
        chosen = rng.sample(files, min(len(files), rng.choice((1, 1, 1, 2))))
        for path in chosen:
            change(rng, path, outside)
        parsed = all(map(parses, chosen))
        ending, broken = _ending(name, folder)
    finally:
        shutil.rmtree(folder)
    file = chosen[0].relative_to(folder).name
    return Case(
        number=number, subject=name, file=file, ending=ending, is_broken=broken, parsed=parsed
    )


def _ending(name: str, folder: Path) -> tuple[str, bool]:
    try:
        with watched(folder, Path(PAYLOAD)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            SUBJECTS[name].read(folder)
    except BrokenPromiseError as error:
        return f"broken: {error}", True
    except UserError as error:
        if isinstance(error.__cause__, BrokenPromiseError):
            return f"broken: {error.__cause__}", True
        many = "\n" in str(error)
        return _shape(str(error), folder) + " (several lines)" * many, many
    except Exception as error:
        frames, trace = "", error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if "ailora" in code.co_filename and "tests" not in code.co_filename:
                frames = f"{Path(code.co_filename).name}:{code.co_name}"
            trace = trace.tb_next
        return f"{type(error).__name__} from {frames}: {_shape(str(error), folder)}", True
    return FINE, False


def _shape(words: str, folder: Path) -> str:
    """An error's words without what is of one case alone."""
    words = words.replace(str(folder), "DIR")[:400]
    words = re.sub(r"'[^']*'|\"[^\"]*\"|\([^()]*\)", "_", words)
    return re.sub(r"[\w./-]*\d[\w./-]*", "N", words)[:160]


def run_cases(numbers: Iterable[int], seed: int, scratch: Path) -> Iterator[Case]:
    """The cases of these numbers."""
    install()
    for number in numbers:
        yield run_case(number, seed, scratch)


def endings(cases: Iterable[Case]) -> Counter[tuple[str, str]]:
    """How many cases ended in which way, by subject."""
    return Counter((case.subject, case.ending) for case in cases)
