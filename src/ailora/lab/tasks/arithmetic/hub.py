"""The sets by hub name, brought to the columns of local files.

None of these was ever reached from where this was written: names and columns are taken from the
repositories' pages and from public code that reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from ailora.errors import UserError
from ailora.lab.tasks.tables.read import Table

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class HubSet:
    """Where a set is, and how a row of it becomes instruction, output and answer."""

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
HUB: dict[str, HubSet] = {
    "gsm8k": HubSet(repository="openai/gsm8k", config="main", to_record=_gsm8k),
    "mawps": HubSet(repository="MU-NLPC/Calc-mawps", to_record=_calc_mawps),
    "multiarith": HubSet(
        repository=_TASKS, files="data/mawps/multiarith.jsonl", to_record=_mawps_part
    ),
    "addsub": HubSet(repository=_TASKS, files="data/mawps/addsub.jsonl", to_record=_mawps_part),
    "singleeq": HubSet(repository=_TASKS, files="data/mawps/singleeq.jsonl", to_record=_mawps_part),
    "svamp": HubSet(repository=_TASKS, files="data/svamp/test.jsonl", to_record=_svamp),
}


def hub_table(name: str, split: str) -> Table:
    """Load one split of a set.

    Args:
        name: Of ``HUB``.
        split: ``train`` or ``test``.

    Raises:
        UserError: No such set, the hub cannot be reached, or its columns are other ones by now.
    """
    if name not in HUB:
        raise UserError(
            f"arithmetic set {name!r} is read from local files only: give the folder that holds "
            f"{name}/{split}.jsonl as data (on the hub: {', '.join(HUB)})"
        )
    known = HUB[name]
    files = {split: known.files} if known.files else None
    try:
        rows = datasets.load_dataset(known.repository, known.config, data_files=files, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot load {known.repository!r} ({name}) from the hub: {reason}; check the network, "
            f"or give the folder that holds {name}/{split}.jsonl as data"
        ) from error
    return _table(f"{known.repository} ({name}, {split})", rows, known)


def _table(source: str, rows: datasets.Dataset, known: HubSet) -> Table:
    try:
        records = [known.to_record(row) for row in rows]
    except (KeyError, AttributeError) as error:
        raise UserError(f"{source}: its rows have changed: {error}; give local files") from error
    return Table(
        source=source,
        columns=("instruction", "output", "answer"),
        rows=tuple(enumerate(records, start=1)),
    )
