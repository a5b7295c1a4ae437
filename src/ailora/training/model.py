"""A classifier and its tokeniser, and rows as that model reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from ailora import demo
from ailora.errors import UserError
from ailora.tasks import TextTask


def load_model(
    name: str, task: TextTask, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a pre-trained encoder with a new head for the task.

    Weights are read from safetensors alone and no code of the model's folder is run.

    Args:
        name: ``"demo"``, a local folder or a hub name.
        task: Decides the head's outputs and the loss (squared error for regression).
        seed: Of the head's start: methods with one seed share it.

    Raises:
        UserError: No such model, or one that cannot be loaded so.
    """
    path = _resolve(name)
    with _named_in_errors(name):
        config = AutoConfig.from_pretrained(path, **_head(task))
        tokenizer = AutoTokenizer.from_pretrained(path)
        set_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, use_safetensors=True
        )
    _give_padding(model, tokenizer)
    return model, tokenizer


def load_backbone(name: str) -> PreTrainedModel:
    """Load a model without a head, to look at its weights.

    Raises:
        UserError: As `load_model`.
    """
    with _named_in_errors(name):
        return AutoModel.from_pretrained(_resolve(name), use_safetensors=True)


@contextmanager
def _named_in_errors(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"model {name!r} cannot be loaded: {reason[0]} (give 'demo', a folder with config, "
            "tokenizer and safetensors, or a hub name that is cached or reachable)"
        ) from error


def tokenize(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Token ids, their number and the label of each row; padding waits for the batch."""
    texts = [list(rows["text"])]
    if "text_pair" in rows.column_names:
        texts.append(list(rows["text_pair"]))
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    columns: dict[str, Any] = dict(encoded)
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    columns["labels"] = list(rows["label"])
    return Dataset.from_dict(columns)


def _resolve(name: str) -> str:
    if name == "demo":
        return str(demo.encoder_dir())
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    if name.startswith((".", "/", "~")):
        raise UserError(f"model {name!r}: no such folder; give 'demo', a folder or a hub name")
    return name


def _head(task: TextTask) -> dict[str, Any]:
    if task.labels is None:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(task.labels),
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(task.labels)),
        "label2id": {label: index for index, label in enumerate(task.labels)},
    }


def _give_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Decoders without a padding token pad with their end token, and read the last real one."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
