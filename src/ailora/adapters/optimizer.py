"""Learning rates by role, as parameter groups."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle
from transformers.trainer_pt_utils import get_parameter_names

from ailora.adapters.config import positive
from ailora.errors import UserError

logger = logging.getLogger(__name__)

# What Trainer spares from weight decay by name (Trainer.get_decay_parameter_names).
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]

_watched: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # until their first step
_hook: RemovableHandle | None = None


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
    Trainer, spares biases and layer norms.

    Args:
        model: A model from `ailora.get_peft_model` or `ailora.load_adapter`.
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
            }
            for (ratio, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=lr,
        **kwargs,
    )


def rate_by_parameter(model: nn.Module) -> dict[str, float]:
    """Rate ratio of each factor's parameter, by the parameter's name."""
    return {
        f"{module_name}.{name}": module.lr_ratio
        for module_name, module in model.named_modules()
        if isinstance(getattr(module, "lr_ratio", None), float)
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


def warn_if_rates_are_ignored(model: nn.Module) -> None:
    """Warn once, at the first step of an optimiser that does not know this model's rates.

    A trainer that builds its own optimiser knows nothing of roles; nothing else would show it.
    """
    if set(rate_by_parameter(model).values()) <= {1.0}:
        return
    if _hook is None:
        _watch()
    _watched.add(model)


def _watch() -> None:
    # One hook for the process: a hook that removes itself breaks torch's loop over the others.
    global _hook
    _hook = register_optimizer_step_pre_hook(_check_rates)


def _check_rates(optimizer: Optimizer, *_: Any) -> None:
    for model in list(_watched):
        if not _trains(optimizer, model):
            continue
        _watched.discard(model)
        if _ignores_rates(optimizer, model):
            logger.warning(
                "this optimiser trains all roles at one rate, so their lr_ratio has no effect; "
                "pass Trainer(optimizers=(ailora.create_optimizer(model, lr=...), None)) or "
                "use lr_mode='baked'"
            )


def _trains(optimizer: Optimizer, model: nn.Module) -> bool:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return any(id(parameter) in held for parameter in model.parameters())


def _ignores_rates(optimizer: Optimizer, model: nn.Module) -> bool:
    rates = {
        id(parameter): group.get("initial_lr", group["lr"])  # warm-up starts at 0
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    parameters = dict(model.named_parameters())
    pairs = [
        (ratio, rates[id(parameters[name])])
        for name, ratio in rate_by_parameter(model).items()
        if id(parameters[name]) in rates
    ]
    ratios, used = {ratio for ratio, _ in pairs}, {rate for _, rate in pairs}
    if len(used) != 1 or ratios <= {1.0}:
        return False
    # One ratio for all is right at one rate, if that rate is not simply the optimiser's own.
    return len(ratios) > 1 or used == {optimizer.defaults.get("lr")}
