"""Experts that are one parameter, adapted through PEFT's ``target_parameters``.

PEFT's ``ParamWrapper`` adds s B_e A_e to each expert's matrix, with the factors of all experts in
two matrices (`ailora.adapters.factors.by_rank`). An anchored start fits in it as in a layer. Each
expert's matrix is decomposed on its own, those of a stack together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from ailora.adapters import peft_insides
from ailora.adapters.config import AILoRAConfig
from ailora.adapters.starts import STARTS, Factors, Wanted, decompose_once
from ailora.errors import UserError
from ailora.linalg import Triplets
from ailora.linalg.triplets import Part
from ailora.roles import Projection, RoleKey, Rows
from ailora.roles.architectures import layer_of, stack_of
from ailora.roles.experts import ExpertProjection, check_stack, roles_in


def targeted(model: nn.Module, config: AILoRAConfig) -> dict[str, list[ExpertProjection]]:
    """What the config adapts of each parameter that ``target_parameters`` selects as PEFT does.

    A role that is named takes its rows; ``"*"`` takes the other rows, or all of them where no role
    is named. A parameter that gets neither is left to PEFT (plain LoRA), with an empty list.

    Returns:
        By the path that PEFT's wrapper of the parameter will have in the model: where several
        parameters of a module are adapted, their wrappers lie in one another.

    Raises:
        UserError: an entry selects nothing, or a router; a parameter with a role that is no stack
            of experts, or whose rows of that role are not known; fields that PEFT's wrapper cannot
            have.
    """
    if not config.target_parameters:
        return {}
    _check_fields(config)
    found: dict[str, list[ExpertProjection]] = {}
    for owner, parameters in peft_insides.targeted_parameters(model, config).items():
        module = peft_insides.base_layer(model.get_submodule(owner))
        for depth, parameter in enumerate(reversed(parameters)):
            path = owner + depth * ".base_layer"
            found[path] = _projections(config, module, owner, parameter)
    if config.layers_to_transform is not None and any(found.values()):
        raise UserError(
            "layers_to_transform: PEFT adapts the parameters of every layer; leave it out, or name "
            "each parameter in target_parameters and each module in target_modules"
        )
    return found


def _check_fields(config: AILoRAConfig) -> None:
    for field in ("lora_dropout", "use_dora", "lora_bias", "fan_in_fan_out"):
        if getattr(config, field):
            raise UserError(
                f"{field}={getattr(config, field)!r}: PEFT has it for layers, not for parameters; "
                "leave it out, or leave out target_parameters"
            )


def _projections(
    config: AILoRAConfig, module: nn.Module, owner: str, parameter: str
) -> list[ExpertProjection]:
    name = f"{owner}.{parameter}"
    known = roles_in(module, parameter)
    asked: dict[RoleKey, Rows | None] = {}
    for role, rows in (known or {}).items():
        if role in config.named_roles:
            asked[role] = rows
        elif "*" in config.roles:
            asked[role if rows is not None else "*"] = rows
    if not set(asked) & set(config.named_roles):
        asked = {"*": None} if "*" in config.roles else {}
        if known is None and not asked:
            _check_not_meant(config, module, name)
    if not asked:
        return []
    check_stack(module, parameter, name)
    transposed = peft_insides.takes_as_transposed(module)
    if any(asked.values()) and transposed != bool(getattr(module, "is_transposed", False)):
        raise UserError(
            f"{name}: this version of PEFT takes its rows for columns, so that roles of its rows "
            'have no factors of their own; update peft, or give roles["*"] alone'
        )
    if not config.anchored and not all(STARTS[config.role_of(r).init].zero for r in asked):
        raise UserError(
            f"anchored=False: nothing is folded into {name}, a stack of experts; use anchored=True"
        )
    return [
        ExpertProjection(
            name=name,
            role=role,
            layer=layer_of(name),
            stack=stack_of(name),
            rows=rows,
            module=module,
            parameter=parameter,
            transposed=transposed,
        )
        for role, rows in asked.items()
    ]


def _check_not_meant(config: AILoRAConfig, module: nn.Module, name: str) -> None:
    """Refuse a parameter that may hold rows of a role that was asked for."""
    asked = [role for role in ("gate", "up", "down") if role in config.roles]
    if asked and not any(role.modules for role in config.named_roles.values()):
        raise UserError(
            f"{name} ({type(module).__name__}): which of its rows are "
            f'{", ".join(asked)} is not known; leave it out, or give roles["*"] for all of it'
        )


def make_stack(projection: ExpertProjection, init: str, wanted: Wanted) -> Factors:
    """The starting factors of every expert, A (E, r, n) and B (E, m, r)."""
    make = STARTS[init].make
    assert make is not None  # noqa: S101

    @cache
    def triplets(part: Part) -> Sequence[Triplets]:
        return decompose_once(projection.weight(), wanted.rank, part, wanted.tol)

    def start(number: int) -> Factors:
        return make(projection, replace(wanted, decomposed=lambda part: triplets(part)[number]))

    made = [start(number) for number in range(projection.count)]
    checks = [one.check for one in made if one.check is not None]
    return Factors(
        A=torch.stack([one.A for one in made]),
        B=torch.stack([one.B for one in made]),
        dead=sum(one.dead for one in made),
        check=max(checks, key=lambda check: check.residual) if checks else None,
    )


def stack_of_block(projection: Projection) -> dict[str, Any]:
    """The fields of a `ailora.adapters.factors.Block` that say which stack it is of."""
    if not isinstance(projection, ExpertProjection):
        return {}
    return {"parameter": projection.parameter, "experts": projection.count}
