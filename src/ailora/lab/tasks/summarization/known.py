"""XSum, CNN/DailyMail, DialogSum and SciTLDR."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from ailora.errors import UserError
from ailora.lab.tasks.base import GenerationTask
from ailora.lab.tasks.generation.pairs import Writing, build_generation_task
from ailora.lab.tasks.summarization import rows
from ailora.lab.tasks.summarization.sets import SETS, SummarySet
from ailora.lab.tasks.tables.broken import BrokenRows, OnBroken, rule_for
from ailora.lab.tasks.tables.sources import folder_of, read_tables
from ailora.lab.tasks.tables.split import Sampling


def load_summarization(
    name: str,
    *,
    data: Path | str | None = None,
    template: str = rows.TEMPLATE,
    metrics: Sequence[str] | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> GenerationTask:
    """Load ``xsum``, ``cnn_dailymail``, ``dialogsum`` or ``scitldr``.

    Args:
        name: The set.
        data: Folder with a folder of that name in it: ``train.jsonl.gz`` and perhaps ``dev`` and
            ``test``, with the columns ``document``, ``summary`` and perhaps ``references``. None
            takes the hub, which has the first two sets as plain data.
        template: What a decoder reads, with ``{source}`` once; an encoder-decoder reads the
            document as it is.
        metrics: Names from `ailora.lab.tasks.generation.generated`, the headline first; by default
            ROUGE-1, 2, L.
        split_seed: Of the rows the limits keep, and of splits that had to be made.
        limit: Most rows to train on.
        eval_limit: Most rows of selection and of test each.
        on_broken: What a row without a document or a summary does: "stop", with file and line, or
            "skip", counted in the notes. None stops at those of local files and skips the hub's.

    Raises:
        UserError: Unknown set, no such folder, a set that the hub does not have as plain data, or
            anything wrong with rows, metrics or limits, in one line.
    """
    known = _called(name)
    source, document, summary = _place(name, known, data)
    broken = BrokenRows(rule_for(on_broken, local=data is not None))
    tables = read_tables(source, None, None, label=summary, report=broken.report)
    rows.check(tables, document, summary)
    return build_generation_task(
        name,
        tables,
        rows.to_pair(document, summary),
        Writing(
            template=template,
            metrics=tuple(rows.METRICS if metrics is None else metrics),
            max_new_tokens=known.max_new_tokens,
            num_beams=known.num_beams,
            max_source_tokens=known.max_source_tokens,
        ),
        Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit),
        broken,
    )


def _called(name: str) -> SummarySet:
    if name in SETS:
        return SETS[name]
    near = difflib.get_close_matches(name, SETS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"no summarisation set is called {name!r}: {hint}there are {', '.join(SETS)}")


def _place(name: str, known: SummarySet, data: Path | str | None) -> tuple[str, str, str]:
    """Where the set is, and the columns of its documents and summaries there."""
    if data is None:
        if known.hub is None:
            raise UserError(
                f"task {name!r} is read from local files only; give the folder that holds "
                f"{name}/train.jsonl.gz as data"
            )
        return known.hub, known.document, known.summary
    return str(folder_of(data, name)), "document", "summary"
