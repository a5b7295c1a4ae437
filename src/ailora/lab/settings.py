"""The settings of a run, each said once: its type, default, range and help.

The options of the commands, the checking of sweep files and the table in the documentation are
made from the fields of `RunConfig`; so a new setting is one line here, and the code that reads it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ailora.errors import UserError, nearest
from ailora.lab.setting_fields import RoleName, Setting, setting, settings_of

_FORMER_NAMES = {"alpha": "lora_alpha", "dropout": "lora_dropout"}

_method = functools.partial(setting, group="Method")
_training = functools.partial(setting, group="Training")
_trainer = functools.partial(setting, group="Training", passed_on=True)
_data = functools.partial(setting, group="Data")
_own_files = functools.partial(setting, group="Files of your own")
_text = functools.partial(setting, group="Tasks answered with text")
_qa = functools.partial(setting, group="Question answering")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of one training run; equal settings and data give an equal `run_id`.

    Raises:
        UserError: A value of the wrong type or out of its range, named.
    """

    method: str = _method(
        "ailora", "Method: ailora, lora, full, houlsby, ...: 'ailora params' lists them."
    )
    rank: int = _method(8, "Rank of the factors.", at_least=1)
    lora_alpha: float | None = _method(
        None, "Scale is lora_alpha / rank. Default: the rank.", above=0
    )
    lora_dropout: float = _method(0.0, "Dropout on the input of the update.", at_least=0, below=1)
    anchored: bool = _method(
        True, "Leave the base untouched, or fold the start into it (W - BA).", off="folded"
    )
    bake_rates: bool = _method(
        False, "Put the roles' rates into the factors, not into the optimiser."
    )
    ranks: Mapping[RoleName, int] | None = _method(
        None,
        "Roles to adapt and their ranks, such as q=8,k=8 (table 5 of the paper). Default: q and v.",
        at_least=1,
    )
    directions: Literal["own", "random"] = _method(
        "own", "Start from the method's directions, or from random ones of the same sizes."
    )
    scale: Literal["sigma", "unit", "matched"] | float = _method(
        "sigma",
        "Size of the start: the singular values; 1 in their place; what makes the first step as "
        "long as LoRA's; or a number that multiplies them.",
        above=0,
    )
    tol: float = _method(
        1e-8,
        "Residual of the starts' decompositions, relative to sigma_1 (the library's own: 1e-3).",
        above=0,
        below=1,
    )
    lr_ratio: float | None = _method(
        None,
        "Rate of v as a multiple of the other roles'. Default: the method's own, 2 for ailora and "
        "reailora, else 1.",
        above=0,
    )
    bottleneck: int = _method(64, "Width of Houlsby's adapters.", at_least=1)
    vera_rank: int = _method(256, "Rank of VeRA's shared matrices.", at_least=1)

    model: str = _training(
        "demo", "'demo' (the embedded encoder; a decoder for text), a folder, or a hub name."
    )
    lr: float = _training(2e-3, "Learning rate; AILoRA's v has twice this.", above=0)
    head_lr: float | None = _training(
        None,
        "Rate of the task's head, whatever the method's. Default: the rate, so that it moves with "
        "it.",
        above=0,
    )
    loraplus_lr_ratio: float = _training(
        1.0, "Rate of each factor B as a multiple of A's, as in LoRA+.", above=0
    )
    epochs: float = _training(2.0, "Passes over the training rows.", above=0)
    batch_size: int = _training(16, "Rows per step.", at_least=1)
    micro_batch_size: int | None = _training(
        None, "Rows held at once, a divisor of the batch size. Default: all of them.", at_least=1
    )
    warmup_ratio: float = _training(
        0.06, "Share of the steps over which the rate rises.", at_least=0, below=1
    )
    warmup_steps: int | None = _training(
        None, "Steps over which the rate rises, in place of that share.", at_least=0
    )
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant_with_warmup", "constant", "inverse_sqrt"
    ] = _trainer(
        "linear",
        "How the rate falls after that; constant_with_warmup keeps it, constant has no warm-up "
        "either.",
    )
    # Of Trainer's, those that take a rate for each group and none that look at whole matrices of
    # the model (GaLore, APOLLO, LOMO): an anchored factor is a matrix of its own kind.
    optim: Literal[
        "adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop",
        "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit", "lion_32bit",
    ] = _trainer(
        "adamw_torch_fused",
        "Optimiser by Trainer's name, of those in which each role keeps its rate.",
    )  # fmt: skip
    max_grad_norm: float = _trainer(
        1.0, "Longer gradients are cut to this norm; 0 cuts none.", at_least=0
    )
    weight_decay: float = _trainer(0.0, "Decoupled weight decay, as in AdamW.", at_least=0)
    evaluations: int | None = _training(
        None, "Evaluations spread over the run. Default: one per epoch.", at_least=1
    )
    monitor_rows: int | None = _training(
        None,
        "Rows of the selection split that those evaluations use; the final scores are of "
        "whole splits. Default: all.",
        at_least=1,
    )
    early_stopping: int | None = _training(
        None,
        "Stop after this many evaluations without a better score, and keep the best "
        "weights. Default: train to the end, keep the last.",
        at_least=1,
    )
    precision: Literal["auto", "fp32", "bf16"] = _training(
        "auto", "auto takes bf16 where the processor computes in it natively."
    )
    report_to: Sequence[str] | None = _training(
        None,
        "Trackers by Trainer's names, such as tensorboard,wandb. Default: none.",
        names_run=False,
    )
    logging_steps: int | None = _training(
        None,
        "Steps between two logs to the trackers. Default: those between evaluations.",
        at_least=1,
        names_run=False,
    )
    seed: int = _trainer(
        0,
        "Seed of the head's start, the order of the rows, dropout and random starts.",
        at_least=0,
        below=2**32,
    )

    task: str = _data(
        "movies",
        "'movies' or 'movies-regression' (embedded); cola, sst2, mrpc, stsb, qqp, mnli, "
        "qnli, rte, squad_v1, squad_v2, xquad_en, arithmetic, xsum, cnn_dailymail, dialogsum or "
        "scitldr; a csv, tsv, jsonl, json, parquet or arrow file or a folder with train.*, whose "
        "columns tell the kind of task; a Python file with load(**options); or a hub data set, as "
        "owner/set or owner/set:config.",
    )
    data: str | None = _data(
        None,
        "Folder with the paper's tasks, each in a folder of its name. Default: the hub.",
        names_run=False,  # the data counts by its fingerprint, wherever it was found
    )
    limit: int | None = _data(None, "Most rows to train on. Default: all.", at_least=1)
    eval_limit: int | None = _data(
        None, "Most rows to select by, and to test on. Default: all.", at_least=1
    )
    max_length: int | None = _data(
        None,
        "Tokens kept of a row, or of a window. Default: by the kind of task, 128 to 512.",
        at_least=1,
    )
    metrics: Sequence[str] | None = _data(
        None,
        "accuracy, f1, mcc; pearson, spearman; or number, exact, rouge1, rouge2, rougeL. "
        "The first is the headline.",
    )

    text: Sequence[str] | None = _own_files(
        None, "Text column, or two with a comma between. Default: by their usual names."
    )
    text_pair: str | None = _own_files(None, "Second text column, beside --text.")
    label: str | None = _own_files(None, "Label column. Default: label.", first="label")
    labels: Sequence[str] | None = _own_files(
        None,
        "Classes in the order of their numbers, such as negative,positive; the column holds "
        "these or the numbers. Default: those of the training rows, sorted.",
    )
    positive: str | None = _own_files(
        None, "The one of two classes that F1 is of. Default: the last."
    )
    dev: str | None = _own_files(
        None,
        "File, or split of a hub data set, with the rows to select by; without --test they are the "
        "test rows.",
    )
    test: str | None = _own_files(
        None, "File, or split of a hub data set, with the rows to test on."
    )
    regression: bool | None = _own_files(
        None, "Predict numbers, or classes. Default: by the labels.", off="classification"
    )
    on_broken: Literal["stop", "skip"] | None = _own_files(
        None,
        "What a broken row does: stop, with file and line, or skip, with a count. Default: "
        "local files stop, hub data skip.",
    )

    loss_on: Literal["answer", "sequence"] = _text(
        "answer", "Tokens that a decoder is trained on: the answer, or the prompt as well."
    )
    max_new_tokens: int | None = _text(
        None, "Most tokens of an answer. Default: the task's.", at_least=1
    )
    num_beams: int | None = _text(
        None, "Beams of the search; 1 is greedy. Default: the task's.", at_least=1
    )
    max_source_tokens: int | None = _text(
        None,
        "Tokens kept of a source. Default: the task's, or what --max-length leaves.",
        at_least=1,
    )
    answer_batch_size: int = _text(32, "Prompts answered at once.", at_least=1)
    chat_template: str | None = _text(
        None, "Conversations: jinja file that turns are put into. Default: the model's template."
    )
    train_file: str | None = _text(
        None, "Arithmetic: problems to learn instead of GSM8K's and MAWPS's, such as Math10K."
    )
    tests: Sequence[str] | None = _text(
        None, "Arithmetic: sets to test on, such as svamp,gsm8k. Default: the paper's five."
    )

    doc_stride: int = _qa(128, "Tokens that neighbouring windows share.", at_least=1)
    n_best: int = _qa(20, "Starts and ends considered in each window.", at_least=1)
    max_answer_length: int = _qa(30, "Most tokens of an answer.", at_least=1)
    null_threshold: float = _qa(0.0, "Margin by which no answer must beat the best answer.")

    def __post_init__(self) -> None:
        for name, one in SETTINGS.items():
            object.__setattr__(self, name, one.checked(getattr(self, name)))
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise UserError(
                f"micro_batch_size={self.micro_batch_size!r}: must divide the batch size, "
                f"{self.batch_size}"
            )
        if self.bake_rates and self.optim == "sgd":
            raise UserError(
                "bake_rates=True with optim='sgd': a rate that is baked in counts twice there, "
                "since plain gradients have the factors' size; leave bake_rates out"
            )

    @classmethod
    def from_json(cls, made_of: Mapping[str, Any]) -> RunConfig:
        """The settings that `dataclasses.asdict` and JSON made of one, in any version.

        Raises:
            UserError: Something is unknown, of the wrong type or out of its range.
        """
        found = current_settings(made_of)
        for name in found:
            check_name(name)
        return cls(**found)

    def task_options(self) -> dict[str, Any]:
        """What `ailora.lab.tasks.load_task` needs beside the task's name."""
        names = ("text", "text_pair", "label", "labels", "positive", "regression", "dev", "test")
        others = (
            "metrics",
            "limit",
            "eval_limit",
            "data",
            "on_broken",
            "train_file",
            "tests",
            "chat_template",
        )
        return {name: getattr(self, name) for name in (*names, *others)}

    def trainer_options(self) -> dict[str, Any]:
        """The settings that ``TrainingArguments`` take as they are."""
        return {name: getattr(self, name) for name, one in SETTINGS.items() if one.passed_on}

    def run_id(self, task_name: str, fingerprint: str) -> str:
        """Folder name ``<method>-<task>-<hash>`` of the run of these settings on this data."""
        return f"{self.method}-{task_name}-{self.identity(fingerprint)}"

    def identity(self, fingerprint: str) -> str:
        """Hash of the settings that differ from their first default, and of the data.

        Neither a new setting nor a new default changes it, and what is None is not said, nor what
        leaves the weights as they are.
        """
        differ = {
            name: value
            for name, value in asdict(self).items()
            if SETTINGS[name].names_run and value is not None and value != SETTINGS[name].first
        }
        made_of = json.dumps({**differ, "data": fingerprint}, sort_keys=True)
        return hashlib.sha256(made_of.encode()).hexdigest()[:10]


def current_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run as any version wrote them, in today's names, all of them.

    Until results had schema 3, ``alpha`` and ``dropout`` had no ``lora_``, ``base`` and ``lr_mode``
    were texts, and ``generation`` and ``qa`` were tables within. What a run says nothing of had its
    first default. A name that no version had stays, for `check_name` to refuse.
    """
    found = {_FORMER_NAMES.get(name, name): value for name, value in config.items()}
    if "base" in found:
        found["anchored"] = found.pop("base") == "anchored"
    if "text_pair" not in found and found.get("label", "label") == "label":
        found["label"] = None  # until there was that setting, "label" could be the default
    if "lr_mode" in found:
        found["bake_rates"] = found.pop("lr_mode") == "baked"
    for table in ("generation", "qa"):
        if isinstance(found.get(table), Mapping):
            found |= {
                "answer_batch_size" if name == "batch_size" else name: value
                for name, value in found.pop(table).items()
            }
    return {**_FIRST, **found}


def check_name(name: str, known: Sequence[str] | None = None, where: str = "") -> None:
    """Raise a UserError that suggests the nearest known name if a name is unknown.

    Args:
        name: What was given.
        known: The names there are; None for those of the settings.
        where: Goes before the name in the message.
    """
    known = tuple(SETTINGS) if known is None else known
    if name in known:
        return
    hint = nearest(name, known) or f"there are {', '.join(known)}"
    raise UserError(f"{where}{name!r} is no setting; {hint}")


SETTINGS: Mapping[str, Setting] = settings_of(RunConfig)
_FIRST = {name: one.first for name, one in SETTINGS.items()}
