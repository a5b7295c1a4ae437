"""A finished run's folder, read back as the change of each weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
)

from ailora.checkpoints.structure import CLASS_OF_TASK
from ailora.errors import UserError
from ailora.files import parse_json, read_text
from ailora.lab import methods
from ailora.lab.analysis.changes import Change, adapter_changes, changes_between
from ailora.lab.methods.houlsby import houlsby
from ailora.lab.methods.saving import WEIGHTS, read_record
from ailora.lab.methods.variants import variant_of
from ailora.lab.settings import RunConfig
from ailora.lab.training.folder import RunFolder
from ailora.lab.training.model import load_pretrained
from ailora.pretrained import load_backbone
from ailora.roles.walk import body_name

_ADAPTER_CONFIG = "adapter_config.json"
# Questions on a model with segments are saved so (`ailora.lab.methods.targets.task_type_of`).
_HEADS = {**CLASS_OF_TASK, "FEATURE_EXTRACTION": CLASS_OF_TASK["QUESTION_ANS"]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        path: The run's folder.
        method, model, task, seed: Settings it was trained with; the method with its own as
            `ailora.lab.methods.variants` writes them.
        data: Fingerprint of the data.
        tuned: The model with what was learned: a PEFT model, or one of transformers'.
        changes: dW of each projection that the method can move, in model order; empty for Houlsby
            adapters, which are layers of their own and leave every weight as it is.
    """

    path: Path
    method: str
    model: str
    task: str
    seed: int
    data: str
    tuned: nn.Module
    changes: list[Change]


def is_run(path: Path) -> bool:
    """Whether a folder is, or was to become, a run's: a model's folder has a config.json too."""
    try:
        made_of = parse_json(read_text(path / "config.json"))
    except (OSError, ValueError):
        return RunFolder(path).result() is not None
    return isinstance(made_of, dict) and {"config", "data"} <= made_of.keys()


def read_run(path: Path) -> Run:
    """Load a run's base model and what was learned, without its data.

    Args:
        path: Folder with ``result.json`` and ``adapter``, as `ailora.lab.training.train` leaves it.

    Raises:
        UserError: The run is unfinished or damaged, or its base model cannot be loaded.
    """
    result = RunFolder(path).result()
    if result is None:
        raise UserError(f"{path}: no finished run (result.json cannot be read); finish it first")
    try:
        config, data = result["config"], result["data"]
        known = {name: config[name] for name in ("model", "task", "seed")}
        method = variant_of(config)
        fingerprint, labels = data["fingerprint"], data["labels"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path / 'result.json'}: lacks {error}; made by another version"
        ) from error
    tuned, changes = _learned(path / "adapter", known["model"], len(labels) if labels else 1)
    return Run(path=path, data=fingerprint, tuned=tuned, changes=changes, method=method, **known)


def check_comparable(run: Run, full: Run) -> list[str]:
    """How a full fine-tuning run differs from the run that it is compared with.

    Returns:
        One line per difference; none where only the method (and what it brings along) differs.

    Raises:
        UserError: It is no full fine-tuning, or of another base model.
    """
    if full.method != "full":
        raise UserError(f"{full.path}: its method is {full.method!r}; give a run of method 'full'")
    if full.model != run.model:
        raise UserError(
            f"{full.path}: tunes {full.model!r} and {run.path} {run.model!r}; "
            "give runs of one base model"
        )
    notes = []
    if full.data != run.data:
        notes.append(f"the full fine-tuning is on other data ({full.task}, not {run.task})")
    if full.seed != run.seed:
        notes.append(f"the full fine-tuning has seed {full.seed}, this run {run.seed}")
    return notes


def _learned(adapter: Path, model: str, outputs: int) -> tuple[nn.Module, list[Change]]:
    if (adapter / _ADAPTER_CONFIG).exists():
        tuned = methods.load(_base_of(adapter, model, outputs), adapter)
        assert isinstance(tuned, PeftModel)  # noqa: S101
        return tuned, adapter_changes(tuned)
    what, before = read_record(adapter), load_backbone(model)
    if what.method == "full":
        after = _whole(adapter)
        return after, changes_between(before, after)
    after = load_backbone(model)
    if what.method == "houlsby":
        after = houlsby(after, RunConfig(bottleneck=what.bottleneck or 1)).eval()
    _copy_saved(after, adapter / WEIGHTS)
    return after, [] if what.method == "houlsby" else changes_between(before, after)


def _whole(adapter: Path) -> PreTrainedModel:
    """The saved model; with its head where that predicts tokens, which was then trained too."""
    backbone = load_backbone(str(adapter))
    (architecture,) = backbone.config.architectures or [""]
    if not architecture.endswith("ForCausalLM"):
        return backbone
    found = AutoModelForCausalLM.from_pretrained(
        adapter, use_safetensors=True, trust_remote_code=False
    )
    return cast(PreTrainedModel, found)


def _base_of(adapter: Path, model: str, outputs: int) -> PreTrainedModel:
    """The base model with a head of the adapter's kind, which the adapter then fills."""
    kind = PeftConfig.from_pretrained(str(adapter)).task_type
    if kind not in _HEADS:
        raise UserError(f"{adapter}: task type {kind!r} is not one of {', '.join(_HEADS)}")
    head = {"num_labels": outputs} if str(kind).endswith("_CLS") else {}
    base, _ = load_pretrained(model, _HEADS[kind], seed=0, **head)
    return base


@torch.no_grad()
def _copy_saved(model: nn.Module, path: Path) -> None:
    """The saved parameters of the body; those of the head have no place in it."""
    own = {body_name(model, name): value for name, value in model.named_parameters()}
    for name, value in load_file(path).items():
        if body_name(model, name) in own:
            own[body_name(model, name)].copy_(value)
