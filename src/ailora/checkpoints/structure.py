"""A model without its weights, and which stored tensor is which of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ailora.checkpoints.checkpoint import Checkpoint, open_checkpoint
from ailora.checkpoints.header import FLOATS, Entry
from ailora.checkpoints.stored_names import stored_names
from ailora.errors import UserError
from ailora.pretrained import check_config

# PEFT's name of a task, and the class of transformers with its head.
CLASS_OF_TASK: dict[str, Any] = {
    "CAUSAL_LM": hf.AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": hf.AutoModelForSeq2SeqLM,
    "SEQ_CLS": hf.AutoModelForSequenceClassification,
    "TOKEN_CLS": hf.AutoModelForTokenClassification,
    "QUESTION_ANS": hf.AutoModelForQuestionAnswering,
    "FEATURE_EXTRACTION": hf.AutoModel,
}


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A checkpoint and the model whose weights it holds.

    Attributes:
        checkpoint: The files.
        model: The model on the meta device: modules and shapes, no values.
        stored: Name of the stored tensor by name of the model's parameter.
        converted: Parameters that transformers computes from what is stored.
    """

    checkpoint: Checkpoint
    model: nn.Module = field(repr=False)
    stored: Mapping[str, str] = field(repr=False)
    converted: frozenset[str] = field(repr=False)

    def weight_of(self, module: str) -> str:
        """Name of the stored tensor that holds a module's weight as it is.

        Raises:
            UserError: There is none: it is missing, stored in another form, of another shape
                than config.json says, or not floating-point.
        """
        return self.tensor_of(f"{module}.weight")

    def tensor_of(self, parameter: str) -> str:
        """As `weight_of`, for a parameter by its full name."""
        folder = self.checkpoint.folder
        if parameter in self.converted:
            raise UserError(
                f"{folder}: transformers builds {parameter!r} from tensors stored otherwise, "
                "which cannot be streamed; load the model and use ailora.get_peft_model"
            )
        if parameter not in self.stored:
            raise UserError(
                f"{folder}: the tensor of {parameter!r} is missing; copy the checkpoint again, or "
                "name another --task-type if the model is of another kind"
            )
        entry = self.checkpoint.entry(self.stored[parameter])
        if entry.dtype not in FLOATS:
            raise UserError(
                f"{folder}: {entry.name!r} is stored as {entry.dtype}, which cannot be streamed; "
                "load the quantised model and use ailora.get_peft_model"
            )
        _check_shape(folder, entry, self.model.get_parameter(parameter))
        return entry.name

    def sharer(self, module: str) -> str | None:
        """Another module that has the same weight (tied embeddings, layers used twice), if any."""
        weight = self.model.get_submodule(module).weight
        _, names = self._by_weight.get(id(weight), (weight, []))
        return next((name for name in names if name != module), None)

    @cached_property
    def _by_weight(self) -> dict[int, tuple[Any, list[str]]]:
        """Each weight by its ``id``, which holds while it is kept, and the modules that have it."""
        found: dict[int, tuple[Any, list[str]]] = {}
        for name, module in self.model.named_modules():
            weight = getattr(module, "weight", None)
            if weight is not None:
                found.setdefault(id(weight), (weight, []))[1].append(name)
        return found

    def is_transposed(self, module: str) -> bool:
        """Whether W of y = W x is stored as its transpose (GPT-2's Conv1D)."""
        return isinstance(self.model.get_submodule(module), Conv1D)


def _check_shape(folder: Path, entry: Entry, parameter: Tensor) -> None:
    needed = tuple(parameter.shape)
    if entry.shape != needed:
        raise UserError(
            f"{folder}: {entry.name!r} is {entry.shape}, where its config.json says {needed}; "
            "config and weights are not of one model"
        )


def task_type_of(model: nn.Module) -> str | None:
    """PEFT's name (``SEQ_CLS``, ...) of what the model's class is for; None for a bare body.

    A model that answers questions and tells two texts apart by segment counts as one that extracts
    features. PEFT 0.21's ``PeftModelForQuestionAnswering.forward`` takes ``token_type_ids`` and
    does not hand them on, so that BERT would read question and context as one text: another model
    than the base at step 0, and than the merged one. The other class differs in that alone; the
    head is named in ``modules_to_save``.
    """
    headed = [task for task in CLASS_OF_TASK if task != "FEATURE_EXTRACTION"]
    task = next((name for name in headed if type(model) in _classes(name, model)), None)
    segments = getattr(getattr(model, "config", None), "type_vocab_size", None) or 0
    return "FEATURE_EXTRACTION" if task == "QUESTION_ANS" and segments > 1 else task


def _classes(task_type: str, model: nn.Module) -> tuple[type, ...]:
    """The classes with the head of a task for models of this one's config, and no others.

    To ask for all classes of a task would import every model of transformers.
    """
    mapping, config = CLASS_OF_TASK[task_type]._model_mapping, type(getattr(model, "config", None))
    found = mapping.get(config, ())
    return found if isinstance(found, tuple) else (found,)


def read_structure(
    checkpoint: Checkpoint,
    task_type: str | None = None,
    num_labels: int | None = None,
    kind: type[nn.Module] | None = None,
) -> Structure:
    """Build the model of a checkpoint from its config.json alone.

    Args:
        checkpoint: The files.
        task_type: PEFT's name of the task, which decides the model's class and so the names of
            its modules; None takes the class that config.json names.
        num_labels: Number of labels of the task's head; None takes config.json's.
        kind: The model's class, in place of the task's.

    Raises:
        UserError: config.json does not describe a model that transformers can build, or one whose
            weights are stored quantised.
    """
    check_config(checkpoint.folder, len(checkpoint.where))
    model = build_model(checkpoint.folder, task_type, num_labels, kind)
    stored, converted = stored_names(model, checkpoint.where)
    return Structure(checkpoint=checkpoint, model=model, stored=stored, converted=converted)


def read_outline(name: str | Path) -> nn.Module:
    """The body of a model on the meta device: modules, shapes and stored dtypes, no values.

    Weights that are stored quantised or computed from others have the dtype of their config.json.

    Args:
        name: As for `ailora.checkpoints.open_checkpoint`.

    Raises:
        UserError: The files cannot be read, transformers builds no model of config.json, or a
            stored weight is of another shape.
    """
    checkpoint = open_checkpoint(name)
    check_config(checkpoint.folder, len(checkpoint.where))
    model = _built(checkpoint.folder, "FEATURE_EXTRACTION")
    stored, _ = stored_names(model, checkpoint.where)
    for key, parameter in model.named_parameters():
        entry = checkpoint.entry(stored[key]) if key in stored else None
        if entry is not None and entry.dtype in FLOATS:
            _check_shape(checkpoint.folder, entry, parameter)
            parameter.data = parameter.data.to(FLOATS[entry.dtype])
    return model


def build_model(
    folder: Path,
    task_type: str | None = None,
    num_labels: int | None = None,
    kind: type[nn.Module] | None = None,
) -> nn.Module:
    """The model on the meta device. Raises ``UserError`` as `read_structure`."""
    model = _built(folder, task_type, num_labels, kind)
    if getattr(model.config, "quantization_config", None) is not None:
        raise UserError(
            f"{folder}: its weights are stored quantised, which cannot be streamed; load it and "
            "use ailora.get_peft_model, which leaves them as they are"
        )
    return model


def _built(
    folder: Path,
    task_type: str | None = None,
    num_labels: int | None = None,
    kind: type[nn.Module] | None = None,
) -> nn.Module:
    check_config(folder)
    try:
        labels = {} if num_labels is None else {"num_labels": num_labels}
        config = hf.AutoConfig.from_pretrained(folder, trust_remote_code=False, **labels)
        return _build(config, task_type, kind)
    except Exception as error:  # config.json may hold anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{folder / 'config.json'}: transformers builds no model of it ({reason}); models "
            "with code of their own are not supported"
        ) from error


def _build(config: Any, task_type: str | None, kind: type[nn.Module] | None) -> nn.Module:
    named = (getattr(config, "architectures", None) or [""])[0]
    stored_class = getattr(hf, named, None)
    with torch.device("meta"):
        if kind is not None:
            model = kind(config)
        elif task_type is not None and task_type in CLASS_OF_TASK:
            model = CLASS_OF_TASK[task_type].from_config(config)
        elif isinstance(stored_class, type) and issubclass(stored_class, hf.PreTrainedModel):
            model = stored_class(config)
        else:
            model = hf.AutoModel.from_config(config)
    built: nn.Module = model.eval()
    return built
