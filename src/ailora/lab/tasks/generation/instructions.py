"""Instructions and the answers to them, in files of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ailora.errors import UserError
from ailora.lab.tasks.generation.pairs import (
    Pair,
    ToPair,
    Writing,
    build_generation_task,
    instruction_in,
)
from ailora.lab.tasks.tables.sources import is_local, name_of, read_tables
from ailora.lab.tasks.tables.split import Sampling
from ailora.lab.tasks.tables.table import BrokenRows, OnBroken, Row, text_in
from ailora.lab.tasks.task import GenerationTask

# Alpaca's headings. A decoder that writes one of them itself has ended its answer.
TEMPLATE = "### Instruction:\n{source}\n\n### Response:\n"
METRICS = ("rougeL", "exact")
_INSTRUCTION, _INPUT, _OUTPUT = "instruction", "input", "output"


def load_instructions(
    train: Path | str,
    *,
    dev: Path | str | None = None,
    test: Path | str | None = None,
    text: Sequence[str] | None = None,
    label: str = _OUTPUT,
    template: str = TEMPLATE,
    metrics: Sequence[str] | None = None,
    max_new_tokens: int = 256,
    num_beams: int = 1,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> GenerationTask:
    """Read an instruction set; splits that are missing are made.

    Args:
        train: A csv, tsv, jsonl or json file (a list of objects, as Alpaca's), a folder with
            ``train.*``, or a hub name.
        dev: A file, beside a train file.
        test: A file, beside a train file.
        text: Names of the instruction's column and, if there is one, of its input's. None takes
            ``instruction`` and, where the table has it, ``input``. An input may be empty.
        label: Name of the column of the answers.
        template: What a decoder reads, with ``{source}`` once; an encoder-decoder reads the
            instruction, and its input below a heading, as they are.
        metrics: Names from `ailora.lab.tasks.generation.text_scores`, the headline first; by
            default rougeL, exact.
        max_new_tokens: Tokens of an answer at most.
        num_beams: Beams of the search; 1 is greedy.
        split_seed: Seed of the splits made here and of the rows that the limits keep.
        limit: Most rows to train on.
        eval_limit: Most rows of selection and of test each.
        on_broken: What a row does that has no instruction or no answer, or whose own answer does
            not score 1 by the metrics: "stop", with file and line, or "skip", counted in the notes.
            None stops at those of local files and skips the hub's.

    Raises:
        UserError: Anything wrong with files, columns, metrics or limits, in one line.
    """
    writing = Writing(
        template=template,
        metrics=tuple(METRICS if metrics is None else metrics),
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
    )
    broken = BrokenRows(on_broken, local=is_local(train))
    tables = read_tables(train, dev, test, label=label, report=broken.report)
    columns = _columns(text, [name for table in tables.values() for name in table.columns])
    needed = columns if text is not None else columns[:1]  # an input may be missing
    for table in tables.values():
        table.require(*needed, label)
    sampling = Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit)
    return build_generation_task(
        name_of(train),
        tables,
        _to_pair(columns, label),
        writing,
        sampling,
        broken,
        source=str(train),
        used={**dict(zip(("instruction", "input"), columns, strict=False)), "answer": label},
    )


def _columns(text: Sequence[str] | None, present: Sequence[str]) -> tuple[str, ...]:
    if text is None:
        return (_INSTRUCTION, _INPUT) if _INPUT in present else (_INSTRUCTION,)
    names = (text,) if isinstance(text, str) else tuple(text)
    if len(names) not in (1, 2):
        raise UserError(
            f"one column of instructions, and perhaps one of inputs, is needed; got {list(names)!r}"
        )
    return names


def _to_pair(columns: Sequence[str], label: str) -> ToPair:
    instruction, more = columns[0], columns[1] if len(columns) == 2 else None

    def pair(row: Row) -> Pair:
        source, target = instruction_in(row, instruction, more), text_in(row, label)
        return Pair(source=source, target=target, references=(target,))

    return pair
