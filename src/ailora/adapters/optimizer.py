"""Learning rates by role, as parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from transformers.trainer_pt_utils import get_parameter_names

from ailora.adapters.config import positive
from ailora.adapters.factors import Factor
from ailora.adapters.steps import RATES
from ailora.errors import UserError

# What Trainer spares from weight decay by name (Trainer.get_decay_parameter_names).
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def create_optimizer(
    model: nn.Module,
    optimizer_cls: Callable[..., Optimizer] = AdamW,
    *,
    lr: float,
    weight_decay: float = 0.0,
    **kwargs: Any,
) -> Optimizer:
    """An optimiser in which every role learns at its own rate.

    Use it as ``Trainer(..., optimizers=(create_optimizer(model, lr=2e-4), None))``: schedulers
    scale every group alike. Named and called as PEFT's ``create_loraplus_optimizer``.

    Weight decay pulls anchored factors towards their start (folded ones towards zero) and, as in
    Trainer, spares biases and layer norms. In a fused layer the roles share a parameter, whose
    group has the first role's rate; the steps of the others are scaled to theirs.

    Args:
        model: A model with an adapter that an `AILoRAConfig` started.
        optimizer_cls: Any torch optimiser class.
        lr: Learning rate at ``lr_ratio=1``; task heads and ``modules_to_save`` have this one.
        weight_decay: For parameters that decay.
        **kwargs: Passed to the optimiser.

    Raises:
        UserError: the model has nothing to train, or lr is not a positive number.
    """
    lr = positive("lr", lr)
    ratios = rate_by_parameter(model)
    decaying = set(get_parameter_names(model, [nn.LayerNorm], _NO_DECAY))
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((ratios.get(name, 1.0), name in decaying), []).append(parameter)
    _assert_each_once(model, groups)
    return optimizer_cls(
        [
            {
                "params": parameters,
                "lr": lr * ratio,
                "weight_decay": weight_decay if decays else 0.0,
                RATES: True,
            }
            for (ratio, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=lr,
        **kwargs,
    )


def rate_by_parameter(model: nn.Module) -> dict[str, float]:
    """Rate ratio of each factor's parameter, by its name; in a fused layer the first role's."""
    return {
        f"{module_name}.{name}": module.blocks[0].lr_ratio
        for module_name, module in model.named_modules()
        if isinstance(module, Factor)
        for name, _ in module.named_parameters(recurse=False)
    }


def _assert_each_once(
    model: nn.Module, groups: dict[tuple[float, bool], list[nn.Parameter]]
) -> None:
    grouped = [id(parameter) for parameters in groups.values() for parameter in parameters]
    trainable = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise UserError("the model has no trainable parameter; load it with is_trainable=True")
    assert sorted(grouped) == sorted(trainable), "a parameter is in no group or in two"  # noqa: S101
