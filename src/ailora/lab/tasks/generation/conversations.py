"""Conversations in files of your own: turns of a user and an assistant, in three common shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Features, Value

from ailora.errors import UserError
from ailora.files import read_text
from ailora.lab.tasks.generation.pairs import (
    FEATURES,
    Pair,
    ToPair,
    Writing,
    build_generation_task,
)
from ailora.lab.tasks.tables.sources import is_local, name_of, read_tables
from ailora.lab.tasks.tables.split import Sampling
from ailora.lab.tasks.tables.table import BrokenRows, OnBroken, Row, Table, brief, text_in
from ailora.lab.tasks.task import ChatTask, GenerationTask

METRICS = ("rougeL", "exact")
_PLAIN = "{source}"  # no template of ours: a prompt as it is, or the model's own chat template
_MESSAGES, _SHAREGPT = "messages", "conversations"
_PROMPT, _COMPLETION = "prompt", "completion"
_TURNS = [{"role": Value("string"), "content": Value("string")}]
_FEATURES = Features({**FEATURES, "messages": _TURNS, "first_learned": Value("int64")})
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")
# Columns and keys of a turn that say more than text does, and what they hold.
_BEYOND_TEXT = {
    **dict.fromkeys(("tools", "tool_calls", "tool_call_id", "functions", "function_call"), "tools"),
    **dict.fromkeys(("image", "images"), "images"),
    **dict.fromkeys(("video", "videos"), "videos"),
    **dict.fromkeys(("audio", "audios"), "audio"),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "thoughts apart from answers"),
}


# Keys of a turn by which trainers tell how much of it is learned; 1 and true are the whole of it.
_WEIGHTS = ("weight", "train", "training", "loss", "train_detail", "training_detail")


@dataclass(frozen=True, kw_only=True)
class Conversation(Pair):
    """One row: all turns, the last of which is the assistant's and is what is scored.

    Attributes:
        messages: Turns, each with ``role`` (system, user or assistant) and ``content``.
        first_learned: Number of the first turn whose text may be learned, from 0.
    """

    messages: tuple[Mapping[str, str], ...]
    first_learned: int = 0


def load_conversations(
    train: Path | str,
    *,
    dev: Path | str | None = None,
    test: Path | str | None = None,
    metrics: Sequence[str] | None = None,
    chat_template: Path | str | None = None,
    max_new_tokens: int = 256,
    num_beams: int = 1,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> GenerationTask:
    """Read conversations; splits that are missing are made.

    A row has one of three shapes: ``messages``, a list of ``{"role", "content"}`` (system, user,
    assistant); ShareGPT's ``conversations``, a list of ``{"from", "value"}`` (system, human, gpt);
    or ``prompt`` and ``completion``, both such lists or both texts. A column ``system`` beside the
    first two is their first turn. The assistant's turns are learned (of a completion those in it);
    on selection and test the last one is generated after the turns before it.

    Args:
        train: A file, a folder with ``train.*``, or a hub name.
        dev: A file, beside a train file.
        test: A file, beside a train file.
        metrics: Names from `ailora.lab.tasks.generation.text_scores`, the headline first; by
            default rougeL, exact.
        chat_template: A jinja file to put the turns into, instead of the model's own template.
        max_new_tokens: Tokens of an answer at most.
        num_beams: Beams of the search; 1 is greedy.
        split_seed: Seed of the splits made here and of the rows that the limits keep.
        limit: Most rows to train on.
        eval_limit: Most rows of selection and of test each.
        on_broken: What a row does that cannot be used (no answer at its end, tools, images, an
            answer that does not score 1 by the metrics): "stop", with file and line, or "skip",
            counted in the notes. None stops at those of local files and skips the hub's.

    Returns:
        A `ChatTask`; for a prompt and a completion that are texts a `GenerationTask`, in which
        nothing is put around them.

    Raises:
        UserError: Anything wrong with files, columns, metrics or limits, in one line.
    """
    writing = Writing(
        template=_PLAIN,
        metrics=tuple(METRICS if metrics is None else metrics),
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        chat_template=None if chat_template is None else _read_template(Path(chat_template)),
    )
    broken = BrokenRows(on_broken, local=is_local(train))
    tables = read_tables(train, dev, test, label=_COMPLETION, report=broken.report)
    sampling = Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit)
    name = name_of(train)
    if _holds_texts(tables):
        if chat_template is not None:
            raise UserError(
                f"chat_template={str(chat_template)!r}: the prompts and completions of {name} are "
                "texts, which go into no template; leave it out, or give lists of turns"
            )
        used = {"prompt": _PROMPT, "answer": _COMPLETION}
        return build_generation_task(
            name, tables, _texts, writing, sampling, broken, source=str(train), used=used
        )
    to_pair, used = _shape(tables)
    task = build_generation_task(
        name,
        tables,
        to_pair,
        writing,
        sampling,
        broken,
        features=_FEATURES,
        source=str(train),
        used=used,
    )
    known = {field.name: getattr(task, field.name) for field in fields(task)}
    if task.statement is not None:
        known["statement"] = replace(task.statement, kind="conversations")
    return ChatTask(**known, chat_template=writing.chat_template)


def _read_template(path: Path) -> str:
    try:
        text = read_text(path.expanduser())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"chat_template={str(path)!r}: cannot be read: {error}") from error
    if not text.strip():
        raise UserError(f"chat_template={str(path)!r}: the file is empty")
    return text


def _holds_texts(tables: Mapping[str, Table]) -> bool:
    """Whether the rows are prompts and completions, and none of them is a list of turns."""
    if not {_PROMPT, _COMPLETION}.issubset(tables["train"].columns):
        return False
    return not any(
        isinstance(row.get(column), list)
        for table in tables.values()
        for _, row in table.rows
        for column in (_PROMPT, _COMPLETION, _MESSAGES, _SHAREGPT)
    )


def _texts(row: Row) -> Pair:
    _check_text_alone(row, "column")
    completion = text_in(row, _COMPLETION)
    return Pair(source=text_in(row, _PROMPT), target=completion, references=(completion,))


def _shape(tables: Mapping[str, Table]) -> tuple[ToPair, dict[str, str]]:
    """What makes conversations of rows with the columns of the training rows; columns by use."""
    columns = tables["train"].columns
    listed = next((column for column in (_MESSAGES, _SHAREGPT) if column in columns), None)
    used = {"turns": listed} if listed else {"prompt": _PROMPT, "answer": _COMPLETION}
    for table in tables.values():
        table.require(*used.values())
    if listed is None:
        return _prompted, used
    if "system" in columns:
        used["system"] = "system"
    return partial(_whole, column=listed), used


def _whole(row: Row, column: str) -> Conversation:
    """A row of which each answer is learned."""
    _check_text_alone(row, "column")
    turns = _turns(row, column)
    system = row.get("system")
    if system is not None and (not isinstance(system, str) or system.strip()):
        if turns[0]["role"] == "system":
            raise ValueError("column 'system' beside a first turn of system; keep one of them")
        turns.insert(0, {"role": "system", "content": text_in(row, "system")})
    return _conversation(turns, 0)


def _prompted(row: Row) -> Conversation:
    """A row of which the answers in ``completion`` are learned."""
    _check_text_alone(row, "column")
    prompt, completion = _turns(row, _PROMPT), _turns(row, _COMPLETION)
    return _conversation([*prompt, *completion], len(prompt))


def _conversation(turns: list[dict[str, str]], first_learned: int) -> Conversation:
    if turns[-1]["role"] != "assistant":
        raise ValueError(
            f"the last turn is of {turns[-1]['role']}, so nothing answers it; "
            "end with an assistant's turn"
        )
    if len(turns) == 1:
        raise ValueError("an assistant's turn alone: there is nothing that it answers")
    answer = turns[-1]["content"]
    return Conversation(
        source="\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns[:-1]),
        target=answer,
        references=(answer,),
        messages=tuple(turns),
        first_learned=first_learned,
    )


def _turns(row: Row, column: str) -> list[dict[str, str]]:
    value = row.get(column)
    if not isinstance(value, list) or not value:
        raise ValueError(f"column {column!r}: expected a list of turns, got {brief(value)}")
    found = []
    for number, turn in enumerate(value, start=1):
        try:
            found.append(_turn(turn))
        except ValueError as error:  # noqa: PERF203 - each turn may be the broken one
            raise ValueError(f"column {column!r}, turn {number}: {error}") from error
    return found


def _turn(turn: Any) -> dict[str, str]:
    """A turn by OpenAI's names or ShareGPT's, as a chat template takes it."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"expected an object with role and content, got {brief(turn)}")
    for ours, theirs in (("role", "from"), ("content", "value")):
        if turn.get(ours) is not None and turn.get(theirs) is not None:
            raise ValueError(f"both {ours!r} and {theirs!r}; keep one of them")
    said = turn["role"] if turn.get("role") is not None else turn.get("from")
    if said in _TOOL_ROLES:
        raise ValueError(f"role {said!r}: tools cannot be learned here")
    if said not in _ROLES:
        raise ValueError(f"role {brief(said)}: expected {', '.join(_ROLES)}")
    _check_text_alone(turn, "key")
    _check_learned(turn)
    role, name = _ROLES[said], "content" if turn.get("content") is not None else "value"
    content = turn.get(name)
    if isinstance(content, list):
        kinds = [part.get("type") for part in content if isinstance(part, Mapping)]
        held = "images or other parts" if set(kinds) - {"text"} else "parts"
        raise ValueError(f"its content is a list of {held}; text alone can be learned here")
    if role == "system" and content == "":
        return {"role": role, "content": ""}
    return {"role": role, "content": text_in({"content": content}, "content", numbers=False)}


def _check_learned(turn: Mapping[str, Any]) -> None:
    """Refuse a turn that is to be learned in part, or not at all, by what other trainers read."""
    for name in _WEIGHTS:
        value = turn.get(name)
        if value is None or (isinstance(value, int | float) and value == 1):
            continue
        raise ValueError(
            f"key {name!r} is {brief(value)}: a turn that is not to be learned (weight 0), or in "
            "part, cannot be told from others here"
        )


def _check_text_alone(holder: Mapping[str, Any], what: str) -> None:
    """Refuse what a chat template would need and what would else be lost without a word."""
    for name, held in _BEYOND_TEXT.items():
        if holder.get(name):
            raise ValueError(f"{what} {name!r}: {held} cannot be learned here")
