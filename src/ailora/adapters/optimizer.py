"""Learning rates by role: `create_optimizer` gives each role its own, as parameter groups.

What happens around an optimiser's steps, in any trainer, is in `ailora.adapters.step_hooks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from transformers.trainer_pt_utils import get_parameter_names

from ailora.adapters.config import positive
from ailora.adapters.factors import Factor
from ailora.errors import UserError

# What Trainer spares from weight decay by name (Trainer.get_decay_parameter_names).
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]

RATES = "ailora_rates"  # in a parameter group: the rate that its role (or the head) asks for
_OF_HEAD = ".modules_to_save."  # in the names that PEFT gives such parameters
_OF_B = re.compile(r"\.lora_(embedding_)?B\.(?!.*bias$)")  # ... and B, whose bias is none


def create_optimizer(
    model: nn.Module,
    optimizer_cls: Callable[..., Optimizer] = AdamW,
    *,
    lr: float,
    head_lr: float | None = None,
    loraplus_lr_ratio: float = 1.0,
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
        lr: Learning rate at ``lr_ratio=1``; biases and whatever else trains have this one.
        head_lr: Learning rate of the task's head and all ``modules_to_save``, which then does not
            move with the adapter's. None: they have ``lr``.
        loraplus_lr_ratio: LoRA+'s rate of B as a multiple of A's (Hayou et al. 2024); a role's
            ``lr_ratio`` multiplies both.
        weight_decay: Weight decay of the parameters that Trainer would decay.
        **kwargs: Passed to the optimiser.

    Raises:
        UserError: the model has nothing to train, a rate or ratio is not a positive number, or
            there is no head for ``head_lr`` or no B for ``loraplus_lr_ratio``.
    """
    groups = parameter_groups(
        model,
        lr=lr,
        head_lr=head_lr,
        loraplus_lr_ratio=loraplus_lr_ratio,
        weight_decay=weight_decay,
    )
    return optimizer_cls(groups, lr=lr, **kwargs)


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    head_lr: float | None = None,
    loraplus_lr_ratio: float = 1.0,
    weight_decay: float = 0.0,
    head: Collection[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """The groups of `create_optimizer`, lowest rate first.

    ``head`` are parameters of a head that is none of PEFT's ``modules_to_save``.

    Raises:
        UserError: As there.
    """
    rates = _rates(model, lr, head_lr, loraplus_lr_ratio, {id(one) for one in head})
    decaying = set(get_parameter_names(model, [nn.LayerNorm], _NO_DECAY))
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rates[name], name in decaying), []).append(parameter)
    _assert_each_once(model, groups)
    return [
        {
            "params": parameters,
            "lr": rate,
            "weight_decay": weight_decay if decays else 0.0,
            RATES: rate,
        }
        for (rate, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _rates(
    model: nn.Module, lr: float, head_lr: float | None, loraplus_lr_ratio: float, head: set[int]
) -> dict[str, float]:
    """The rate of each trainable parameter by its name."""
    lr, plus = positive("lr", lr), positive("loraplus_lr_ratio", loraplus_lr_ratio)
    of_head = None if head_lr is None else positive("head_lr", head_lr)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    heads = {name for name, p in trained.items() if _OF_HEAD in name or id(p) in head}
    factors_b = {name for name in trained if _OF_B.search(name)} - heads
    if trained and of_head is not None and not heads:
        raise UserError(
            f"head_lr={head_lr}: the model trains no head and no modules_to_save; leave it out"
        )
    if trained and plus != 1 and not factors_b:
        raise UserError(
            f"loraplus_lr_ratio={loraplus_lr_ratio}: the model trains no factor B; leave it out"
        )
    ratios = rate_by_parameter(model)
    rates = {
        name: lr * ratios.get(name, 1.0) * (plus if name in factors_b else 1.0) for name in trained
    }
    return rates if of_head is None else rates | dict.fromkeys(heads, of_head)


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
