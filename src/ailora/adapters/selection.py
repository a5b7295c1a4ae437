"""Which layers an AILoRAConfig adapts in a model, in which role, at which rank and scale."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from ailora.adapters import experts, peft_insides
from ailora.adapters.config import AILoRAConfig, Role
from ailora.adapters.factors import Block
from ailora.adapters.left_out import asks_for_all
from ailora.adapters.selected_by_name import select_by_name
from ailora.adapters.selected_by_role import select_by_role
from ailora.adapters.starts import STARTS
from ailora.errors import UserError
from ailora.roles import Projection, RoleName
from ailora.roles.experts import ExpertProjection

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One projection that is adapted.

    Attributes:
        projection: The layer, or the rows of a fused one.
        role: The role, which says what its factors start from.
        rank: r of the factors that train.
        scaling: s of the factors as stored: lora_alpha / r (rsLoRA: / sqrt(r)), times c^2 where a
            rate ratio c is baked in.
        lr_ratio: The part of the role's ratio that is left to parameter groups.
        baked: The baked-in ratio c; 1 where nothing is.
        anchored: Whether its factors are an anchor and differences.
        tol: Residual that its decomposition may have, relative to sigma_1.
    """

    projection: Projection
    role: Role
    rank: int
    scaling: float
    lr_ratio: float
    baked: float
    anchored: bool
    tol: float

    @property
    def is_spectral(self) -> bool:
        """Whether its factors start as a product that is not zero."""
        return not STARTS[self.role.init].zero

    @property
    def is_of_parameter(self) -> bool:
        """Whether it is a stack of experts, and no layer."""
        return isinstance(self.projection, ExpertProjection)

    @property
    def block(self) -> Block:
        """Its share of the layer's factors."""
        return Block(
            role=self.projection.role,
            init=self.role.init,
            rank=self.rank,
            anchored=self.anchored,
            lr_ratio=self.lr_ratio,
            rows=self.projection.rows,
            **experts.stack_of_block(self.projection),
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a config adapts in a model.

    Attributes:
        layers: By the name that PEFT's layer has in the model, what is adapted in it: several
            projections where it is fused.
        others: Selected modules that are no linear layers (embeddings, convolutions), which start
            as PEFT has it, with their rank and lora_alpha.
        parameters: Likewise PEFT's layers of selected parameters (``target_parameters``) that no
            role is for; their rank is the config's own.
    """

    layers: dict[str, list[Chosen]]
    others: dict[str, tuple[int, float]]
    parameters: tuple[str, ...] = ()

    @property
    def chosen(self) -> list[Chosen]:
        """Every projection, in the model's order."""
        return [one for layer in self.layers.values() for one in layer]


def select(model: nn.Module, config: AILoRAConfig) -> Selection:
    """What the config adapts in the model.

    ``target_modules`` selects what PEFT selects (``"all-linear"``: but for routers of experts, and
    layers that PEFT itself would take for experts); without it the roles' own modules are selected,
    found by the model's structure.

    Raises:
        UserError: as `ailora.roles.find_projections`; a name in ``target_modules``,
            ``rank_pattern`` or ``alpha_pattern`` that matches nothing; roles of one fused layer
            that need different scales.
    """
    by_hand: dict[RoleName, Sequence[str]] = {
        name: role.modules for name, role in config.named_roles.items() if role.modules
    }
    others: list[str] = []
    stacks = experts.targeted(model, config)
    if config.target_modules in (None, [], set()):  # PEFT makes a set of a list
        found = select_by_role(model, config, by_hand, {p.role for s in stacks.values() for p in s})
    else:
        found, others = select_by_name(model, config, by_hand)
    _check_patterns(config, [p.name for p in found] + others)
    layers: dict[str, list[Chosen]] = {}
    for one in _without_small(config, [_chosen(projection, config) for projection in found]):
        layers.setdefault(one.projection.name, []).append(one)
    for name, stack in stacks.items():
        if stack:
            layers[name] = [_chosen(projection, config) for projection in stack]
    for name, layer in layers.items():
        _check_one_scale(name, layer, config)
    plain = {name: _rank_and_alpha(name, config, config.role_of("*")) for name in others}
    left = tuple(name for name, stack in stacks.items() if not stack)
    return Selection(layers=layers, others=plain, parameters=left)


def _without_small(config: AILoRAConfig, chosen: list[Chosen]) -> list[Chosen]:
    """Without layers that "all-linear" selects and that have fewer directions than a start needs.

    Such is the head of a classifier with few classes.
    """
    if not (config.target_modules and asks_for_all(config)):
        return chosen
    kept: list[Chosen] = []
    small: list[Chosen] = []
    for one in chosen:
        may_go = one.projection.role not in config.named_roles and one.is_spectral
        (small if may_go and one.rank > min(one.projection.shape) else kept).append(one)
    if not small:
        return kept
    m, n = small[0].projection.shape
    logger.warning(
        "%d layers are left out, such as %s: its weight is %d x %d, too small for a start of rank "
        "%d",
        len(small), small[0].projection.name, m, n, small[0].rank,
    )  # fmt: skip
    return kept


def _check_patterns(config: AILoRAConfig, names: Iterable[str]) -> None:
    names = list(names)
    for field in ("rank_pattern", "alpha_pattern"):
        for key in getattr(config, field) or {}:
            if not any(peft_insides.pattern_fits(key, name) for name in names):
                if config.target_parameters:
                    continue
                raise UserError(f"{field}: {key!r} fits none of the modules that are adapted")


def _chosen(projection: Projection, config: AILoRAConfig) -> Chosen:
    role = config.role_of(projection.role if projection.role in config.roles else "*")
    rank, alpha = _rank_and_alpha(projection.name, config, role)
    baked = role.lr_ratio if config.bake_rates else 1.0
    return Chosen(
        projection=projection,
        role=role,
        rank=rank,
        # Under Adam a step has the size of the rate whatever the gradient's: A / c moved by lr
        # is A moved by c lr, and c^2 in the scale puts the size back.
        scaling=alpha / (math.sqrt(rank) if config.use_rslora else rank) * baked**2,
        lr_ratio=role.lr_ratio / baked,
        baked=baked,
        anchored=config.anchored and not STARTS[role.init].zero,
        tol=config.tol,
    )


def _rank_and_alpha(name: str, config: AILoRAConfig, role: Role) -> tuple[int, float]:
    """A role's own value beats a pattern, a pattern the config's field."""
    rank = role.r or peft_insides.from_pattern(config.rank_pattern, name, config.r)
    alpha = role.lora_alpha or peft_insides.from_pattern(
        config.alpha_pattern, name, config.lora_alpha
    )
    return rank, float(rank if alpha is None else alpha)


def _check_one_scale(name: str, layer: Sequence[Chosen], config: AILoRAConfig) -> None:
    """One LoRA has one scale: a fused layer's roles must agree on it."""
    if layer[0].projection.rows is None:
        return
    scales = {one.projection.role: one.scaling for one in layer}
    if max(scales.values()) > min(scales.values()) * (1 + 1e-12):
        listed = " and ".join(f"{role!r} {scale:g}" for role, scale in scales.items())
        why = (
            "bake_rates=True gives different rates different scales; leave it out and use "
            "ailora.create_optimizer"
            if config.bake_rates
            else "give them the same lora_alpha / r"
        )
        raise UserError(
            f"{name} holds several roles in one weight, and a LoRA of it has one scale, where "
            f"{listed} are asked for: {why}"
        )
    for field in ("use_dora", "lora_bias"):
        if getattr(config, field):
            raise UserError(
                f"{field}=True: {name} is a fused layer, where other roles' rows would train as "
                "well; leave it out for this model"
            )
