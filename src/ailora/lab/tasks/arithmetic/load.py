"""The arithmetic task: solutions to learn from, five tests of final numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from ailora.errors import UserError
from ailora.lab.tasks.arithmetic.hub import hub_table
from ailora.lab.tasks.arithmetic.overlap import overlap_notes, without
from ailora.lab.tasks.arithmetic.problems import to_learn, to_test
from ailora.lab.tasks.arithmetic.template import TEMPLATE
from ailora.lab.tasks.base import GenerationTask
from ailora.lab.tasks.generation.pairs import ToPair, Writing, generation_task, to_rows
from ailora.lab.tasks.tables.broken import BrokenRows, OnBroken, rule_for
from ailora.lab.tasks.tables.read import Table, find_file
from ailora.lab.tasks.tables.sources import read_file
from ailora.lab.tasks.tables.split import at_most, hold_out

TRAIN = ("gsm8k", "mawps")
TESTS = ("multiarith", "gsm8k", "addsub", "singleeq", "svamp")
METRICS = ("number",)


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
    one's own, as Math10K; selection on GSM8K's dev rows where the folder has some, else on a tenth
    of the training rows. The rows of test have their set as ``group``, so what is reported is the
    mean over the sets.

    Args:
        data: Folder with a folder a set: ``gsm8k/train.jsonl.gz`` and so on; None for the hub.
        train_file: A json (a list of records), jsonl, csv or tsv file to train on instead.
        tests: Names of sets to be tested on; None for the five.
        metrics: From `ailora.lab.tasks.generation.generated`; by default ``number``, LLM-Adapters'
            rule. For sets of multiple choice, as AQuA, ``choice``.
        drop_overlap: Leave out training problems that are in a test or in selection. False learns
            them, as published results on Math10K do; the notes count them either way.
        split_seed: Of a split made here and of the rows the limits keep.
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
    broken = BrokenRows(rule_for(on_broken, local=data is not None))
    found = _Reader(None if data is None else Path(data).expanduser(), broken)
    own = None if train_file is None else Path(train_file).expanduser()
    learned, selection, notes = _learned(found, own, split_seed)
    held = {"selection": selection, **{name: found.test(name) for name in tests}}
    if drop_overlap:
        kept = without(learned, *held.values())
        notes.append(f"{len(learned) - len(kept)} training rows dropped that are in a held set")
        learned = kept
    learned = at_most(learned, limit, seed=split_seed, stratify=False)
    held = {
        name: at_most(rows, eval_limit, seed=split_seed, stratify=False)
        for name, rows in held.items()
    }
    notes += [*broken.notes(), *overlap_notes(learned, held)]
    selection, *scored = held.values()
    splits = (learned, selection, concatenate_datasets(scored))
    return generation_task("arithmetic", splits, writing, tuple(notes))


@dataclass(frozen=True)
class _Reader:
    """Sets by name, from a folder or the hub."""

    folder: Path | None
    broken: BrokenRows

    def rows(self, name: str, split: str, to_pair: ToPair) -> Dataset:
        return to_rows(self._table(name, split), to_pair, self.broken.report)

    def test(self, name: str) -> Dataset:
        rows = self.rows(name, "test", to_test)
        return rows.add_column("group", [name] * len(rows))

    def dev(self) -> Dataset | None:
        if self.folder is None or not (self.folder / "gsm8k").is_dir():
            return None
        path = find_file(self.folder / "gsm8k", ("dev",))
        return None if path is None else self.file(path)

    def file(self, path: Path) -> Dataset:
        return to_rows(read_file(path, self.broken.report), to_learn, self.broken.report)

    def _table(self, name: str, split: str) -> Table:
        if self.folder is None:
            return hub_table(name, split)
        place = self.folder / name
        path = find_file(place, (split,)) if place.is_dir() else None
        if path is None:
            raise UserError(
                f"{place} has no {split} file; data is the folder that holds {name}/{split}.jsonl"
            )
        return read_file(path, self.broken.report)


def _learned(found: _Reader, own: Path | None, seed: int) -> tuple[Dataset, Dataset, list[str]]:
    """Training rows, selection rows, and what was held out."""
    if own is None:
        parts = [found.rows(name, "train", to_learn) for name in TRAIN]
        learned = concatenate_datasets(parts)
    else:
        learned = found.file(own)
    dev = found.dev()
    if dev is not None:
        return learned, dev, []
    tenth = max(1, len(learned) // 10)
    cut = hold_out(learned, tenth, seed=seed, stratify=False)
    return cut.kept, cut.held_out, [f"selection split: {tenth} rows held out (seed {seed})"]
