"""Arithmetic word problems: learned from some sets, tested on others by the last number.

Sets of this kind are known to leak their tests: LLM-Adapters' authors withdrew three of theirs,
since MAWPS, which Math10K holds, contains them. So training problems that are in a test are left
out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from ailora.errors import UserError
from ailora.lab.tasks.generation.pairs import (
    Pair,
    Writing,
    generation_task,
    instruction_in,
    source_keys,
    to_dataset,
    unmet_notes,
)
from ailora.lab.tasks.generation.text_scores import check_references, written_number
from ailora.lab.tasks.tables.hub import load_from_hub
from ailora.lab.tasks.tables.read import find_file, read_table
from ailora.lab.tasks.tables.repeats import shared
from ailora.lab.tasks.tables.sources import file_of, folder_of
from ailora.lab.tasks.tables.split import at_most, hold_out
from ailora.lab.tasks.tables.stored import taken
from ailora.lab.tasks.tables.table import (
    BrokenRows,
    OnBroken,
    Report,
    Row,
    Rows,
    Table,
    brief,
    text_in,
)
from ailora.lab.tasks.task import GenerationTask

TRAIN = ("gsm8k", "mawps")
TESTS = ("multiarith", "gsm8k", "addsub", "singleeq", "svamp")
METRICS = ("number",)
# Alpaca's prompt, as LLM-Adapters uses it. LLM-Adapters indents all lines after the first by 16
# spaces, by the layout of its source code; here they are not. The format words the first sentence
# otherwise where there is an input; a task has one template, and these problems have no input.
TEMPLATE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{source}\n\n### Response:\n"
)
_CHOICE = re.compile(r"[A-E]")


def load_arithmetic(
    *,
    data: Path | str | None = None,
    train_file: Path | str | None = None,
    tests: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    drop_overlap: bool = True,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> GenerationTask:
    """Load training problems and the five tests of the paper's Table 3.

    Rows are records with ``instruction``, perhaps ``input``, ``output`` (the worked solution) and
    ``answer`` (a number, or a letter from A to E). Training is on GSM8K and MAWPS or on a file of
    your own, such as Math10K; selection on GSM8K's dev rows where the folder has some, else on a
    tenth of the training rows. The rows of test have their set as ``group``, so what is reported
    is the mean over the sets.

    An ``answer`` is read as the number that it is (".5" is a half), as LLM-Adapters does; what a
    model writes is read by its rule (`ailora.lab.tasks.generation.text_scores.number_of`). A row of
    test that no text can answer by one of the metrics, such as a letter by ``number``, is broken;
    such rows of selection are counted in the notes.

    Args:
        data: Folder with one folder per set: ``gsm8k/train.jsonl.gz`` and so on; None for the hub.
        train_file: A json (a list of records), jsonl, csv or tsv file to train on instead.
        tests: Names of sets to be tested on; None for the five.
        metrics: From `ailora.lab.tasks.generation.text_scores`; by default ``number``, the rule of
            LLM-Adapters. For sets of multiple choice, as AQuA, ``choice``.
        drop_overlap: Leave out training problems that are in a test or in selection. False learns
            them, as published results on Math10K do; the notes count them either way.
        split_seed: Seed of a split made here and of the rows that the limits keep.
        limit: Most rows to train on.
        eval_limit: Most rows of selection, and of each test.
        on_broken: What a row without problem, solution or answer does: "stop", with file and line,
            or "skip", counted in the notes. None stops at those of local files and skips the hub's.

    Raises:
        UserError: Missing files or sets, and anything wrong with rows, metrics or limits.
    """
    # A prompt, a rationale and 256 new tokens: as LLM-Adapters; its 4 beams are for the run to ask.
    writing = Writing(
        template=TEMPLATE,
        metrics=tuple(METRICS if metrics is None else metrics),
        max_new_tokens=256,
        num_beams=1,
    )
    tests = TESTS if tests is None else tests
    if not tests or isinstance(tests, str):
        raise UserError(f"tests={tests!r}: name one set or more, such as {', '.join(TESTS)}")
    broken = BrokenRows(on_broken, local=data is not None)
    sets = _Sets(data, broken.report, writing.metrics)
    train, selection, notes = sets.to_learn(train_file, split_seed)
    held = {"selection": selection, **{name: sets.test(name) for name in tests}}
    if drop_overlap:
        kept = _without(train, *held.values())
        notes.append(f"{len(train) - len(kept)} training rows dropped that are in a held set")
        train = kept
    train = at_most(train, limit, seed=split_seed)
    held = {name: at_most(rows, eval_limit, seed=split_seed) for name, rows in held.items()}
    notes += [*broken.notes(), *_overlap_notes(train, held)]
    selection, *scored = held.values()
    rights = [_as_written(references) for references in selection["references"]]
    notes += unmet_notes(writing.metrics, {"selection": rights})
    splits = (train, selection, concatenate_datasets(scored))
    return generation_task("arithmetic", splits, writing, tuple(notes))


@dataclass(frozen=True)
class _Sets:
    """Sets by name, from a folder or the hub."""

    data: Path | str | None
    report: Report
    metrics: tuple[str, ...]

    def test(self, name: str) -> Dataset:
        """The rows of a test, with its name as their group."""
        rows = to_dataset(self._table(name, "test"), self._to_test, self.report)
        return rows.add_column("group", [name] * len(rows))

    def to_learn(
        self, own_file: Path | str | None, seed: int
    ) -> tuple[Dataset, Dataset, list[str]]:
        """Rows to train on, rows for selection, and what was held out for those."""
        if own_file is None:
            parts = [
                to_dataset(self._table(name, "train"), _to_learn, self.report) for name in TRAIN
            ]
            train = concatenate_datasets(parts)
        else:
            train = self._file(Path(own_file).expanduser())
        folder = None if self.data is None else Path(self.data).expanduser() / "gsm8k"
        dev = find_file(folder, ("dev",)) if folder is not None and folder.is_dir() else None
        if dev is not None:
            return train, self._file(dev), []
        tenth = max(1, len(train) // 10)
        cut = hold_out(train, tenth, seed=seed)
        return cut.kept, cut.held_out, [f"selection split: {tenth} rows held out (seed {seed})"]

    def _to_test(self, row: Row) -> Pair:
        """A row to be scored on: the reference is the ``answer``, whatever the output says.

        Raises:
            ValueError: No instruction, no answer, or one that a metric cannot meet.
        """
        answer = _answer(row)
        check_references(self.metrics, _as_written((answer,)))
        target = f"The answer is {answer}."
        return Pair(source=instruction_in(row), target=target, references=(answer,))

    def _file(self, path: Path) -> Dataset:
        return to_dataset(read_table(path, self.report), _to_learn, self.report)

    def _table(self, name: str, split: str) -> Table:
        if self.data is None:
            return hub_table(name, split)
        return read_table(file_of(folder_of(self.data, name), split), self.report)


def _without(train: Dataset, *held: Dataset) -> Dataset:
    """The training rows whose problem is in none of the held sets."""
    held_out = np.concatenate([source_keys(rows) for rows in held])
    return taken(train, np.flatnonzero(~np.isin(source_keys(train), held_out)).tolist())


def _overlap_notes(train: Dataset, held: Mapping[str, Dataset]) -> list[str]:
    """Say for each held set how many of its rows are training problems too, 0 included."""
    problems = {name: source_keys(rows) for name, rows in {"train": train, **held}.items()}
    return [
        f"{found.repeated} of {found.rows} {found.later} rows are training problems "
        "(case, spacing and punctuation aside)"
        for found in shared(problems)
        if found.earlier == "train"
    ]


def _to_learn(row: Row) -> Pair:
    """A row to train on: the target is the ``output``; the ``answer`` may be missing.

    Raises:
        ValueError: No instruction, no output, or an answer that is none.
    """
    target = text_in(row, "output")
    answer = target if row.get("answer") is None else _answer(row)
    return Pair(source=instruction_in(row), target=target, references=(answer,))


def _as_written(answers: Sequence[str]) -> tuple[str, ...]:
    """Answers that are nothing but a number, as a model would write them: .5 as 0.5."""
    return tuple(
        f"{written_number(answer)!r}" if _number_in(answer) is not None else answer
        for answer in answers
    )


def _answer(row: Row) -> str:
    text = text_in(row, "answer").strip()
    if _CHOICE.fullmatch(text):
        return text
    if _number_in(text) is None:
        raise ValueError(
            f"column 'answer': expected a number, or a letter from A to E, got {brief(text)}"
        )
    return text


def _number_in(text: str) -> float | None:
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True, kw_only=True)
class _HubSet:
    """Where a set is on the hub, and how a row of it becomes instruction, output and answer.

    None of these was ever reached from where this was written: names and columns are taken from the
    repositories' pages and from public code that reads them.
    """

    repository: str
    to_record: Callable[[Row], Row]
    config: str | None = None
    files: str | None = None


def _gsm8k(row: Row) -> Row:
    solution, _, answer = row["answer"].rpartition("####")
    steps, answer = re.sub(r"<<.*?>>", "", solution).strip(), answer.strip()
    output = f"{steps}\nThe answer is {answer}."
    return {"instruction": row["question"], "output": output, "answer": answer}


def _calc_mawps(row: Row) -> Row:
    answer = row["result"]
    output = f"{row['expression']} = {answer}\nThe answer is {answer}."
    return {"instruction": row["question"], "output": output, "answer": answer}


def _mawps_part(row: Row) -> Row:
    return {"instruction": row["input"], "answer": row["target"]}


def _svamp(row: Row) -> Row:
    return {"instruction": f"{row['Body']} {row['Question']}", "answer": row["Answer"]}


_TASKS = "HuggingFaceTB/math_tasks"
_HUB: dict[str, _HubSet] = {
    "gsm8k": _HubSet(repository="openai/gsm8k", config="main", to_record=_gsm8k),
    "mawps": _HubSet(repository="MU-NLPC/Calc-mawps", to_record=_calc_mawps),
    "multiarith": _HubSet(
        repository=_TASKS, files="data/mawps/multiarith.jsonl", to_record=_mawps_part
    ),
    "addsub": _HubSet(repository=_TASKS, files="data/mawps/addsub.jsonl", to_record=_mawps_part),
    "singleeq": _HubSet(
        repository=_TASKS, files="data/mawps/singleeq.jsonl", to_record=_mawps_part
    ),
    "svamp": _HubSet(repository=_TASKS, files="data/svamp/test.jsonl", to_record=_svamp),
}


def hub_table(name: str, split: str) -> Table:
    """Load one split of a set.

    Args:
        name: A set that is on the hub.
        split: ``train`` or ``test``.

    Raises:
        UserError: No such set, the hub cannot be reached, or its columns are other ones by now.
    """
    if name not in _HUB:
        raise UserError(
            f"arithmetic set {name!r} is read from local files only: give the folder that holds "
            f"{name}/{split}.jsonl as data (on the hub: {', '.join(_HUB)})"
        )
    known = _HUB[name]
    files = {split: known.files} if known.files else None
    rows = load_from_hub(
        known.repository,
        known.config,
        called=f"{known.repository!r} ({name})",
        instead=f"the folder that holds {name}/{split}.jsonl as data",
        data_files=files,
        split=split,
    )
    return _hub_records(f"{known.repository} ({name}, {split})", rows, known)


def _hub_records(source: str, rows: Dataset, known: _HubSet) -> Table:
    try:
        records = [known.to_record(row) for row in rows]
    except (KeyError, AttributeError) as error:
        raise UserError(f"{source}: its rows have changed: {error}; give local files") from error
    return Table(
        source=source,
        columns=("instruction", "output", "answer"),
        rows=Rows(lambda: enumerate(records, start=1), len(records)),
    )
