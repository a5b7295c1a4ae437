"""What a method is to a run: a function that adapts a model, and what that function needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ailora.baselines.settings import Batches, Settings

Build = Callable[[nn.Module, Settings, Batches | None], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of a comparison.

    Attributes:
        name: As ``--method`` has it.
        label: As tables have it.
        build: Adapts a model with the task's head: ``build(model, settings, batches)``.
        sized_as: Has the same parameters but reads no weight and no data, so that they can be
            counted on the meta device; None where ``build`` itself can.
        needs_data: Whether ``build`` needs batches.
    """

    name: str
    label: str
    build: Build
    sized_as: Build | None = None
    needs_data: bool = False
