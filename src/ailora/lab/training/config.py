"""One run, in full: everything that its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ailora.errors import UserError
from ailora.lab.methods import Settings
from ailora.lab.methods.settings import Base, LrMode
from ailora.lab.training.settings import QA, Generation, at_least_one
from ailora.roles import RoleName

Precision = Literal["auto", "fp32", "bf16"]

_COUNTS = (
    *("rank", "batch_size", "micro_batch_size", "max_length", "limit", "eval_limit"),
    *("evaluations", "monitor_rows", "early_stopping"),
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of one training run; equal settings and data give an equal `run_id`.

    Attributes:
        method: Name in `ailora.lab.methods.METHODS`: ailora, lora, full, houlsby, ...
        model: ``"demo"`` (the embedded encoder, or decoder where text is generated), a local
            folder or a hub name.
        task: ``"movies"``, a task of the paper, a file, a folder or a hub name
            (`ailora.lab.tasks.load_task`).
        data: Folder that holds the paper's tasks, each in a folder of its name; None for the hub.
        rank, alpha, dropout, base, lr_mode, ranks, bottleneck, vera_rank: Those that the method
            has a use for, as in `ailora.lab.methods.Settings`.
        lr: Learning rate at ``lr_ratio=1``; the task's head has this one.
        epochs: Passes over the training rows; fractions are allowed.
        batch_size: Rows a step.
        micro_batch_size: Rows held at once, a divisor of ``batch_size``; None for all of them.
        warmup_ratio: Share of the steps over which the rate rises; then it falls linearly to 0.
        weight_decay: Decoupled, as in AdamW.
        max_length: Tokens kept of a row, or of a window of a context; None for the kind's usual:
            128 for classification, 384 for question answering, 512 for generation (or what the
            task's own ``max_source_tokens`` need).
        limit: Most rows to train on; None for all.
        eval_limit: Most rows of the selection and of the test split; None for all.
        evaluations: Evaluations spread over the run; None for one each epoch.
        monitor_rows: Rows of the selection split that those evaluations use, for a curve at little
            cost; None for all. The final scores are always of the whole splits.
        early_stopping: Evaluations without a better selection score before the run ends; the best
            weights are kept. None trains to the end and keeps the last weights.
        precision: "auto" takes bf16 where the processor computes in it natively.
        seed: Of the head's start, the order of the rows, dropout and Gaussian starts.
        generation, qa: What only tasks of that kind have.
        text, label, dev, test, regression, metrics, on_broken: Where a task of the user's own
            keeps its columns and splits, as in `ailora.lab.tasks.load_text_task`.
        train_file, tests: Of the arithmetic task: what is learned instead of its own sets, and
            the sets that are tested on.

    Raises:
        UserError: A value out of its range, named.
    """

    method: str = "ailora"
    model: str = "demo"
    task: str = "movies"
    data: str | None = None
    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    base: Base = "anchored"
    lr_mode: LrMode = "groups"
    ranks: Mapping[RoleName, int] | None = None
    bottleneck: int = 64
    vera_rank: int = 256
    lr: float = 2e-3
    epochs: float = 2
    batch_size: int = 16
    micro_batch_size: int | None = None
    warmup_ratio: float = 0.06
    weight_decay: float = 0.0
    max_length: int | None = None
    limit: int | None = None
    eval_limit: int | None = None
    evaluations: int | None = None
    monitor_rows: int | None = None
    early_stopping: int | None = None
    precision: Precision = "auto"
    seed: int = 0
    generation: Generation = field(default_factory=Generation)
    qa: QA = field(default_factory=QA)
    text: Sequence[str] | None = None
    label: str = "label"
    dev: str | None = None
    test: str | None = None
    regression: bool | None = None
    metrics: Sequence[str] | None = None
    on_broken: str | None = None
    train_file: str | None = None
    tests: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "epochs"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UserError(f"{name}={value!r}: must be a positive number")
        for name in _COUNTS:
            at_least_one(name, getattr(self, name))
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise UserError(
                f"micro_batch_size={self.micro_batch_size!r}: must divide the batch size, "
                f"{self.batch_size}"
            )
        if not 0 <= self.warmup_ratio < 1:
            raise UserError(f"warmup_ratio={self.warmup_ratio!r}: must be in [0, 1)")
        if not 0 <= self.weight_decay < float("inf"):
            raise UserError(f"weight_decay={self.weight_decay!r}: must be at least 0")
        if self.precision not in get_args(Precision):
            raise UserError(f"precision={self.precision!r}: must be auto, fp32 or bf16")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed!r}: must be in [0, 2**32)")
        self._settle()

    def _settle(self) -> None:
        """Check what the adapter checks; 2 and 2.0 are one setting, and so must be one run."""
        settings = self.method_settings()
        object.__setattr__(self, "dropout", float(settings.dropout))
        if settings.alpha is not None:
            object.__setattr__(self, "alpha", float(settings.alpha))
        for name in ("lr", "epochs", "warmup_ratio", "weight_decay"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @classmethod
    def from_json(cls, made_of: Mapping[str, Any]) -> RunConfig:
        """The settings that `dataclasses.asdict` and JSON made of one.

        Raises:
            UserError: Something is missing, unknown or out of its range.
        """
        try:
            nested = {"generation": Generation(**made_of["generation"]), "qa": QA(**made_of["qa"])}
            return cls(**{**made_of, **nested})
        except (TypeError, KeyError) as error:
            raise UserError(f"these are no settings of a run of this version: {error}") from error

    def method_settings(self, task_type: str | None = None) -> Settings:
        """What the method is told: the fields that both have by one name."""
        names = {field.name for field in fields(Settings)} - {"task_type"}
        return Settings(**{name: getattr(self, name) for name in names}, task_type=task_type)

    def task_options(self) -> dict[str, Any]:
        """What `ailora.lab.tasks.load_task` needs beside the task's name."""
        names = ("text", "label", "dev", "test", "regression", "metrics", "limit", "eval_limit")
        others = ("data", "on_broken", "train_file", "tests")
        return {name: getattr(self, name) for name in (*names, *others)}

    def run_id(self, task_name: str, fingerprint: str) -> str:
        """Folder name ``<method>-<task>-<hash of the settings and of the data>``.

        The data counts by its fingerprint, not by the folder it was found in.
        """
        made_of = json.dumps({**asdict(self), "data": fingerprint}, sort_keys=True)
        return f"{self.method}-{task_name}-{hashlib.sha256(made_of.encode()).hexdigest()[:10]}"
