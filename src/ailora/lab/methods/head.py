"""A task's new head: what every method trains in full beside its own parameters."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from ailora.roles import unwrapped


def head_names(model: nn.Module) -> list[str]:
    """Names of the modules that a task put on the pre-trained body, in the model's order.

    PEFT knows some by name (``classifier``, ``score``, ``qa_outputs``); by structure they are
    the children outside the body, so DeBERTa's pooler and BART's ``classification_head``, which
    start at random too, are among them. The head of a language model was pre-trained and is none.
    """
    whole = unwrapped(model)
    if not isinstance(whole, PreTrainedModel) or whole.get_output_embeddings() is not None:
        return []
    body = whole.base_model
    if body is whole:
        return []
    return [
        name
        for name, child in whole.named_children()
        if child is not body and next(child.parameters(), None) is not None
    ]


def head_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of a head that no adapter has wrapped."""
    for name in head_names(model):
        for inner, parameter in unwrapped(model).get_submodule(name).named_parameters():
            yield f"{name}.{inner}", parameter
