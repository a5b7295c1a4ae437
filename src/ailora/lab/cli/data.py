"""``ailora data``: what a file would be trained on, without training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.lab.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.lab.tasks import Task
    from ailora.lab.training.data_report import Compared, SplitLengths
    from ailora.lab.training.kinds import Kind

_LOOKING = (
    *("model", "data", "limit", "eval_limit", "max_length", "metrics", "text", "text_pair"),
    *("label", "labels", "positive", "dev", "test", "regression", "on_broken", "loss_on"),
    *("max_new_tokens", "max_source_tokens", "chat_template", "train_file", "tests", "doc_stride"),
)
_CLASSES = 20  # in the table


@options.settings_as_options(_LOOKING)
def data(
    settings: options.Given,
    task: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="What --task takes: a file, a folder, a task with a name."
        ),
    ],
) -> None:
    """Say what would be trained on: rows, classes, lengths in tokens, repeats, odd rows.

    Nothing is trained and of the model only the tokenizer is loaded. What training would refuse is
    refused here. A file of a million rows takes minutes, and little memory: rows are read a few at
    a time and kept in temporary files.

    Examples: `ailora data tickets.csv --text message --label team` ·
    `ailora data chat.jsonl --model Qwen/Qwen2.5-0.5B-Instruct --max-length 2048`
    """
    from ailora.cli.console import console, quiet_libraries, say, show
    from ailora.lab.tasks import load_task
    from ailora.lab.training import data_report as report
    from ailora.lab.training.kinds import kind_of

    quiet_libraries()
    config = options.run_config({**settings, "task": task})
    with _progress():
        found = load_task(config.task, **config.task_options())
    for line in found.said():
        say(line)
    kind = kind_of(found, config)
    with _progress():
        lengths = report.measure(kind)
        compared = report.compared(found)
        odd = list(report.odd_rows(found, lengths, kind.max_length))
    console.print()
    show(_lengths(kind, lengths), whole=("split", "tokens of", "longest", "cut"), drop=_DROP)
    balance = _balance(kind)
    if balance is not None:
        console.print()
        show(balance, whole=("class", "train", "share"), drop=("test", "selection"))
    _say_constant(kind)
    console.print()
    lines = (*_cut(found, lengths), *_repeats(found, compared), *odd)
    for line in lines or ("no row is cut, repeated or odd",):
        say(line)


_DROP = ("mean", "rows", "90%", "median")


@contextmanager
def _progress() -> Iterator[None]:
    """One bar for each thing that takes long; they are gone once all is done."""
    from ailora.cli.console import progress
    from ailora.lab.tasks.tables.watching import watching

    with progress(transient=True) as bars:
        lines: dict[str, Any] = {}

        def show(doing: str, done: int, total: int) -> None:
            if doing not in lines:
                lines[doing] = bars.add_task(doing, total=total)
            elif done == 0:  # once more from the beginning
                bars.reset(lines[doing], total=total)
            bars.update(lines[doing], completed=done, total=total)

        with watching(show):
            yield


def _lengths(kind: Kind[Any], lengths: Sequence[SplitLengths]) -> Table:
    import numpy as np
    from rich.table import Table

    table = Table(
        title=f"lengths, by the tokenizer of {kind.model_name}",
        title_justify="left",
        caption=f"{kind.max_length} tokens are kept (max_length).",
        caption_justify="left",
    )
    table.add_column("split", no_wrap=True)
    table.add_column("tokens of", no_wrap=True)
    for column in ("rows", "mean", "median", "90%", "99%", "longest", "cut"):
        table.add_column(column, justify="right", no_wrap=True)
    for measured in lengths:
        split, cut = measured.split, int(measured.cut.sum())
        for what, counts in measured.parts.items():
            middle = np.percentile(counts, (50, 90, 99), method="higher")
            table.add_row(
                split,
                what if what != "windows" else "(windows)",
                f"{len(counts):,}",
                f"{counts.mean():.1f}",
                *(f"{int(value):,}" for value in middle),
                f"{counts.max():,}",
                "" if not split else _share(cut, len(counts)) if cut else "0",
            )
            split = ""
    return table


def _balance(kind: Kind[Any]) -> Table | None:
    """Rows of each class; None where answers are no classes."""
    import numpy as np
    from rich.markup import escape
    from rich.table import Table

    from ailora.lab.training.data_report import splits_of

    names = kind.class_names
    if names is None:
        return None
    splits = splits_of(kind.task)
    counts = {
        split: np.bincount(np.asarray(rows["label"][:]), minlength=len(names))
        for split, rows in splits.items()
    }
    table = Table(title="classes", title_justify="left")
    table.add_column("class", no_wrap=True)
    for column in ("train", "share", "selection", "test"):
        table.add_column(column, justify="right", no_wrap=True)
    order = sorted(range(len(names)), key=lambda index: -counts["train"][index])
    for index in order[:_CLASSES]:
        train = int(counts["train"][index])
        table.add_row(
            escape(names[index]),
            f"{train:,}",
            f"{train / len(splits['train']):.1%}",
            *(f"{counts[split][index]:,}" for split in ("selection", "test")),
        )
    if len(names) > _CLASSES:
        table.caption = f"and {len(names) - _CLASSES} smaller classes"
        table.caption_justify = "left"
    return table


def _say_constant(kind: Kind[Any]) -> None:
    from ailora.cli.console import say

    score = kind.majority()
    if score is not None:
        metric = kind.task.metrics[0]
        say(f"always the commonest answer of train: {metric} {score:.4f} on test")


def _cut(task: Task, lengths: Sequence[SplitLengths]) -> Iterator[str]:
    """Where the rows are that lose tokens, the longest first."""
    import numpy as np

    from ailora.lab.training.data_report import named

    for measured in lengths:
        rows = np.flatnonzero(measured.cut)
        if len(rows):
            first = next(iter(measured.parts.values()))
            longest = rows[np.argsort(-first[rows], kind="stable")]
            yield (
                f"{measured.split}: {_some(len(rows), len(first))} lose tokens, the longest "
                f"first: {named(task, measured.split, longest)}"
            )


def _repeats(task: Task, compared: dict[str, Compared]) -> Iterator[str]:
    """Texts that a split repeats, perhaps with another answer, and texts that splits share."""
    from itertools import combinations

    from ailora.lab.tasks import GenerationTask, QATask, TextTask
    from ailora.lab.training.data_report import leaks, pairs_named, repeats

    # As the statement compares texts: see `compared`.
    spelling = isinstance(task, GenerationTask)
    answer = "label" if isinstance(task, TextTask) else "answer"
    unlike = "case, spacing and punctuation" if spelling else "case and spaces"
    for split, rows in compared.items():
        found = repeats(rows)
        count = len(found.pairs.rows)
        if count:
            aside = f" ({count - found.exact:,} but for {unlike})" * (count > found.exact)
            yield (
                f"{split}: {_some(count, len(rows.shared))} with the text of an earlier one"
                f"{aside}: "
                f"{pairs_named(task, split, found.pairs, split)}"
            )
        if len(found.contradictions.rows):
            yield (
                f"{split}: {len(found.contradictions.rows):,} of these with another {answer}: "
                f"{pairs_named(task, split, found.contradictions, split)}"
            )
    for earlier, later in combinations(compared, 2):
        both = leaks(compared[earlier], compared[later])
        if len(both.rows):
            yield (
                f"{later}: {_some(len(both.rows), len(compared[later].shared))} with a "
                f"{'context' if isinstance(task, QATask) else 'text'} of {earlier}: "
                f"{pairs_named(task, later, both, earlier)}"
            )


def _some(count: int, of: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'} ({count / of:.1%})"


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})"
