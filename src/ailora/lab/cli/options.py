"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ailora.errors import UserError

_TEXT, _QA, _METHOD = "Tasks answered with text", "Question answering", "Methods"
_OWN = "Files of your own"
_LOCAL, _RAY = "Local engine", "Ray"

Model = Annotated[
    str,
    typer.Option(
        help="'demo' (the embedded encoder; a decoder for text), a folder, or a hub name."
    ),
]
Task = Annotated[
    str,
    typer.Option(
        help="'movies' or 'movies-regression' (embedded); cola, sst2, mrpc, stsb, qqp, mnli, qnli, "
        "rte, squad_v1, squad_v2, xquad_en, arithmetic, xsum, cnn_dailymail, dialogsum or scitldr; "
        "a csv, tsv, jsonl or json file or a folder with train.*, whose columns tell the kind of "
        "task; a Python file with load(**options); or a hub data set."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="Folder with the paper's tasks, each in one of its name. Default: the hub."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="'paper': the settings published for this task and model, where you give none."
    ),
]
MicroBatchSize = Annotated[
    int | None, typer.Option(help="Rows held at once, a divisor of the batch size.")
]

LossOn = Annotated[
    str | None,
    typer.Option(help="answer, or sequence: the prompt as well.", rich_help_panel=_TEXT),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(help="Tokens of an answer. Default: the task's.", rich_help_panel=_TEXT),
]
NumBeams = Annotated[
    int | None,
    typer.Option(help="1 is greedy. Default: the task's.", rich_help_panel=_TEXT),
]
MaxSourceTokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens kept of a source. Default: the task's, or what --max-length leaves.",
        rich_help_panel=_TEXT,
    ),
]
TrainFile = Annotated[
    str | None,
    typer.Option(
        help="Arithmetic: problems to learn instead of GSM8K's and MAWPS's, such as Math10K.",
        rich_help_panel=_TEXT,
    ),
]
Tests = Annotated[
    str | None,
    typer.Option(
        help="Arithmetic: sets to test on, such as svamp,gsm8k. Default: the paper's five.",
        rich_help_panel=_TEXT,
    ),
]
DocStride = Annotated[
    int | None,
    typer.Option(help="Tokens that windows share. Default: 128.", rich_help_panel=_QA),
]
NullThreshold = Annotated[
    float | None,
    typer.Option(
        help="How much better than the best answer no answer must score. Default: 0.",
        rich_help_panel=_QA,
    ),
]
Ranks = Annotated[
    str | None,
    typer.Option(
        help="Roles and their ranks, such as q=8,k=8 (table 5 of the paper). Default: q and v.",
        rich_help_panel=_METHOD,
    ),
]
Bottleneck = Annotated[
    int, typer.Option(help="Width of Houlsby's adapters.", rich_help_panel=_METHOD)
]
VeraRank = Annotated[int, typer.Option(help="Of VeRA's matrices.", rich_help_panel=_METHOD)]
Rank = Annotated[int, typer.Option(help="Rank of the factors.")]
Alpha = Annotated[float | None, typer.Option(help="Scale is alpha / rank. Default: the rank.")]
Epochs = Annotated[float, typer.Option(help="Passes over the training rows.")]
BatchSize = Annotated[int, typer.Option(help="Rows a step.")]
Limit = Annotated[int | None, typer.Option(help="Most rows to train on.")]
EvalLimit = Annotated[int | None, typer.Option(help="Most rows to select by, and to test on.")]
MaxLength = Annotated[
    int | None, typer.Option(help="Tokens kept of a row. Default: by the kind of task, 128 to 512.")
]
Text = Annotated[
    str | None,
    typer.Option(
        help="Text column, or two with a comma between. Default: by their usual names.",
        rich_help_panel=_OWN,
    ),
]
Label = Annotated[str, typer.Option(help="Label column.", rich_help_panel=_OWN)]
Dev = Annotated[
    str | None, typer.Option(help="File with the rows to select by.", rich_help_panel=_OWN)
]
Test = Annotated[
    str | None, typer.Option(help="File with the rows to test on.", rich_help_panel=_OWN)
]
Regression = Annotated[
    bool | None,
    typer.Option(
        "--regression/--classification", help="Default: by the labels.", rich_help_panel=_OWN
    ),
]
OnBroken = Annotated[
    str | None,
    typer.Option(
        help="What a broken row does: stop, with file and line, or skip, with a count. Default: "
        "local files stop, hub data skip.",
        rich_help_panel=_OWN,
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        help="accuracy, f1, mcc; pearson, spearman; or number, exact, rouge1, rouge2, rougeL. "
        "The first is the headline."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]

Estimate = Annotated[
    bool, typer.Option(help="Do a few steps of each kind of run first, to say how long it is.")
]
RetryFailed = Annotated[bool, typer.Option(help="Try again what failed before.")]
Engine = Annotated[str, typer.Option(help="local: processes on this machine; ray: a Ray cluster.")]
Workers = Annotated[
    int | None, typer.Option(help="Runs at a time. Default: the fastest.", rich_help_panel=_LOCAL)
]
Threads = Annotated[
    int | None, typer.Option(help="Of each worker. Default: the fastest.", rich_help_panel=_LOCAL)
]
Address = Annotated[
    str | None,
    typer.Option(help="Of the cluster. Default: one on this machine.", rich_help_panel=_RAY),
]
CpusPerRun = Annotated[float, typer.Option(help="Cores that each run gets.", rich_help_panel=_RAY)]
GpusPerRun = Annotated[
    float, typer.Option(help="Accelerators that each run gets.", rich_help_panel=_RAY)
]


def names(option: str, value: str) -> tuple[str, ...]:
    """The comma-separated names of an option."""
    found = tuple(part.strip() for part in value.split(",") if part.strip())
    if not found:
        raise UserError(f"{option} {value!r}: give at least one name")
    return found


def optional_names(option: str, value: str | None) -> tuple[str, ...] | None:
    """The comma-separated names of an option that may be left out."""
    return None if value is None else names(option, value)


def numbers(option: str, value: str, kind: type[int] | type[float]) -> tuple[float, ...]:
    """The comma-separated numbers of an option."""
    try:
        return tuple(kind(part) for part in names(option, value))
    except ValueError as error:
        word = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{option} {value!r}: must be {word} with commas between") from error
