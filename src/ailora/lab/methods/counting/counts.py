"""How many parameters a method trains, with and without the task's head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ailora.adapters.factors import Factor
from ailora.lab.methods.head import head_names
from ailora.roles import unwrapped

_HEAD_OF_PEFT = ".modules_to_save."
_FROZEN_COPY = ".original_module."


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of parameters; shared ones count once.

    Attributes:
        adapter: Trainable ones outside the task's head; the frozen halves of anchored factors are
            none.
        head: Trainable ones of the head.
        all: Every parameter that the model computes with, frozen ones too.
    """

    adapter: int
    head: int
    all: int

    @property
    def trainable(self) -> int:
        """Adapter and head together."""
        return self.adapter + self.head


def count(model: nn.Module) -> Counts:
    """The parameters of a model that a method has adapted."""
    heads = {f"{name}." for name in head_names(model)}
    adapter = head = everything = 0
    trained = {
        id(factor.weight): factor.trained
        for factor in unwrapped(model).modules()
        if isinstance(factor, Factor)
    }
    for name, parameter in unwrapped(model).named_parameters():
        if _FROZEN_COPY in name:  # PEFT keeps the head's start beside the head
            continue
        number = trained.get(id(parameter), parameter.numel())
        everything += number
        if not parameter.requires_grad:
            continue
        if _HEAD_OF_PEFT in name or any(name.startswith(start) for start in heads):
            head += number
        else:
            adapter += number
    return Counts(adapter=adapter, head=head, all=everything)
