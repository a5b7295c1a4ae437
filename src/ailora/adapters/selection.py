"""Which layers an AILoRAConfig adapts in a model, in which role, at which rank and scale."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from ailora.adapters import experts, peft_insides
from ailora.adapters.config import AILoRAConfig, Role
from ailora.adapters.factors import Block
from ailora.adapters.starts import STARTS, Factors, Wanted
from ailora.errors import UserError
from ailora.roles import (
    FEED_FORWARD_ROLES,
    ROLE_NAMES,
    Projection,
    RoleName,
    assign_roles,
    find_projections,
    unwrapped,
)
from ailora.roles.architectures import matches
from ailora.roles.experts import ExpertProjection
from ailora.roles.feedforward import has_experts
from ailora.roles.find import in_parts
from ailora.roles.parts import PART_NAMES, PartName
from ailora.roles.projection import is_projection
from ailora.roles.walk import Place, model_type, walk

logger = logging.getLogger(__name__)

OnWeight = Callable[[int, int, str], None]
"""Called with the weights done, their number, and the name of the next one ("" at the end)."""


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
        found = _by_role(model, config, by_hand, {p.role for s in stacks.values() for p in s})
    else:
        found, others = _by_name(model, config, by_hand)
    _check_patterns(config, [p.name for p in found] + others)
    layers: dict[str, list[Chosen]] = {}
    for projection in found:
        layers.setdefault(projection.name, []).append(_chosen(projection, config))
    for name, stack in stacks.items():
        if stack:
            layers[name] = [_chosen(projection, config) for projection in stack]
    for name, layer in layers.items():
        _check_one_scale(name, layer, config)
    plain = {name: _rank_and_alpha(name, config, config.role_of("*")) for name in others}
    left = tuple(name for name, stack in stacks.items() if not stack)
    return Selection(layers=layers, others=plain, parameters=left)


def _by_role(
    model: nn.Module,
    config: AILoRAConfig,
    by_hand: dict[RoleName, Sequence[str]],
    of_experts: Collection[str],
) -> list[Projection]:
    """The layers of the roles; none need play those that ``target_parameters`` has for experts."""
    if not config.named_roles and config.target_parameters:
        return []
    named = list(config.named_roles)
    layers = config.layers_to_transform
    indices = None if layers is None else [layers] if isinstance(layers, int) else list(layers)
    places = in_parts(model, walk(model), config.parts)
    _say_the_parts(model, config)
    needed = [role for role in named if role in by_hand or role not in of_experts]
    found: list[Projection] = []
    if needed and any(place.part != "projector" for place in places):
        found = find_projections(model, needed, modules=by_hand, layers=indices, parts=config.parts)
    if of_experts:
        found = _with_dense(model, found, places, [role for role in named if role not in needed])
    found = _with_the_rest(model, found, places, config, indices)
    kept = [p for p in found if peft_insides.keeps(config, p.name)]
    _say_experts_are_left_out(model, config, of_experts)
    kept = _carried(model, config, kept)
    if not kept and not of_experts:
        raise UserError(
            "exclude_modules, modules_to_save and layers_pattern leave nothing of the roles "
            f"{', '.join(map(repr, config.roles))} to adapt"
        )
    _check_heads(config, found, kept)
    return kept


def _carried(
    model: nn.Module, config: AILoRAConfig, found: Sequence[Projection]
) -> list[Projection]:
    """The projections without those that PEFT would take for experts.

    Raises:
        UserError: one of them was asked for by name or role.
    """
    taken = set(peft_insides.taken_for_experts(model, [p.name for p in found]))
    if not taken:
        return list(found)
    asked = next((p for p in found if p.name in taken and p.role in config.named_roles), None)
    one = asked or next(p for p in found if p.name in taken)
    why = (
        f"PEFT takes the name {one.name.rpartition('.')[2]!r} for the experts of this "
        f"{type(model).__name__} (model type {model_type(model)!r}), so a saved adapter would "
        "adapt those instead"
    )
    if asked is not None or not _is_all(config):
        raise UserError(f"{one.name} ({one.role}) cannot be adapted: {why}; leave it out")
    logger.warning("%d layers are left out, such as %s: %s", len(taken), one.name, why)
    return [p for p in found if p.name not in taken]


def _is_all(config: AILoRAConfig) -> bool:
    """Whether the config asks for whatever there is, and names no modules."""
    asked = config.target_modules or "all-linear"
    return isinstance(asked, str) and asked.lower() == "all-linear"


def _say_experts_are_left_out(
    model: nn.Module, config: AILoRAConfig, of_experts: Collection[str]
) -> None:
    asked = [r for r in FEED_FORWARD_ROLES if r in config.roles and r not in of_experts]
    if asked and has_experts(walk(model)):
        logger.warning(
            "experts are left out: %s are roles of dense feed-forward blocks, unless "
            "target_parameters (or target_modules, where they are layers) selects experts",
            ", ".join(asked),
        )


def _with_dense(
    model: nn.Module, found: list[Projection], places: Sequence[Place], roles: Sequence[RoleName]
) -> list[Projection]:
    """The dense blocks' layers of these roles as well, in model order."""
    names = [place.name for place in places]
    more = [p for p in assign_roles(model, names, roles) if p.role in roles] if roles else []
    order = {place.name: index for index, place in enumerate(walk(model))}
    return sorted([*found, *more], key=lambda p: order[p.name])


def _with_the_rest(
    model: nn.Module,
    found: list[Projection],
    places: Sequence[Place],
    config: AILoRAConfig,
    layers: Sequence[int] | None,
) -> list[Projection]:
    """The roles' own, and as ``"*"``, in the model's order, what else the config asks for.

    With ``"*"`` named these are all other known roles; where a projector is, its linear layers.

    Raises:
        UserError: ``"*"`` is named, and the model has none, or none in one of the layers.
    """
    named = list(config.named_roles)
    rest = [role for role in ROLE_NAMES if role not in named] if "*" in config.roles else []
    names = [place.name for place in places]
    others: list[Projection] = []
    if rest:
        others = [p for p in assign_roles(model, names, rest, strict=False) if p.role != "*"]
    if config.parts is not None:
        projector = [place.name for place in places if place.part == "projector"]
        others += assign_roles(model, projector, named, strict=False)
    if rest and not found and not others:
        raise UserError(
            f"this {type(model).__name__} has no attention or feed-forward block that is known: "
            "name the modules in target_modules"
        )
    taken = {p.name for p in found if p.rows is None}
    whole = [*found, *(_starred(p) for p in others if p.name not in taken)]
    if rest and layers is not None:
        missing = set(layers) - {p.layer for p in whole}
        if missing:
            raise UserError(
                f"layers_to_transform has {min(missing)}, where this {type(model).__name__} has "
                "nothing to adapt: layers are counted from 0"
            )
        whole = [p for p in whole if p.layer in layers]
    order = {place.name: index for index, place in enumerate(walk(model))}
    return sorted(whole, key=lambda p: order[p.name])


def _say_the_parts(model: nn.Module, config: AILoRAConfig) -> None:
    """Log which parts of a model of several are adapted where the config names none."""
    there = _several_parts(model)
    if config.parts is not None or not there:
        return
    halves = any(place.default and place.part != "language" for place in walk(model))
    logger.warning(
        "%s has several parts (%s): %s; parts=[...] chooses others",
        type(unwrapped(model)).__name__,
        ", ".join(there),
        "both halves are adapted" if halves else "the language part is adapted",
    )


def _say_the_parts_of(model: nn.Module, names: Collection[str], config: AILoRAConfig) -> None:
    """Log that ``target_modules`` selects in several parts, as it does in PEFT."""
    if not _several_parts(model):
        return
    selected = set(names)
    count = Counter(place.part for place in walk(model) if place.name in selected)
    if len(count) > 1:
        logger.warning(
            "target_modules=%r selects in several parts of %s, as in PEFT (%s); parts=[...] keeps "
            "some of them",
            config.target_modules,
            type(unwrapped(model)).__name__,
            ", ".join(f"{part} {count[part]}" for part in (*PART_NAMES, None) if count[part]),
        )


def _several_parts(model: nn.Module) -> list[PartName]:
    """The parts that have linear layers, of a model with a tower and more; none of any other."""
    linear = [place.part for place in walk(model) if is_projection(place.module)]
    there = [part for part in PART_NAMES if part in linear]
    return there if {"vision", "audio"} & set(there) and len(there) > 1 else []


def _by_name(
    model: nn.Module, config: AILoRAConfig, by_hand: dict[RoleName, Sequence[str]]
) -> tuple[list[Projection], list[str]]:
    names = peft_insides.targets(config, model)
    _check_names(config, model)
    if config.parts is not None:
        names = _names_in_parts(model, names, config)
    else:
        _say_the_parts_of(model, names, config)
    alike = set(map(_without_modules, config.roles.values()))
    roles = list(config.named_roles)
    uniform = "*" in config.roles and len(alike) == 1
    found = assign_roles(model, names, roles, modules=by_hand, strict=not uniform, experts=True)
    if "*" in config.roles:
        found = _fused_rest(model, found, roles)
    linear = {p.name for p in found}
    others = [name for name in names if name not in linear]
    found = _carried(model, config, found)
    _say_the_rest(config, found)
    _say_others(others)
    if others and not STARTS[config.role_of("*").init].zero:
        raise UserError(
            f'roles["*"] starts from the spectrum, and {others[0]} is no linear layer; leave it '
            'out of target_modules, or give roles["*"] the init "gaussian"'
        )
    if config.is_spectral and all(STARTS[config.role_of(p.role).init].zero for p in found):
        logger.warning(
            "target_modules=%r: no module that it selects plays %s, so all start as plain LoRA; "
            'roles={"*": ailora.Role(init="principal")} gives them a start of their own',
            config.target_modules,
            " or ".join(roles),
        )
    return found, others


def _names_in_parts(model: nn.Module, names: Sequence[str], config: AILoRAConfig) -> list[str]:
    there = {place.name for place in in_parts(model, walk(model), config.parts)}
    kept = [name for name in names if name in there]
    if not kept:
        raise UserError(
            f"target_modules={config.target_modules!r} selects no module of "
            f"parts={config.parts!r}; leave one of them out"
        )
    return kept


def _say_the_rest(config: AILoRAConfig, found: Sequence[Projection]) -> None:
    """Log which layers take ``roles["*"]``, by the last part of their names."""
    rest = Counter(p.name.rpartition(".")[2] for p in found if p.role not in config.named_roles)
    if rest:
        logger.info(
            'roles["*"] (%s) takes %d layers that play none of the roles %s: %s',
            config.role_of("*").init,
            rest.total(),
            ", ".join(config.named_roles) or "named",
            ", ".join(f"{name} {count}" for name, count in rest.items()),
        )


def _say_others(others: Sequence[str]) -> None:
    """Log which selected modules have no spectrum of theirs taken (convolutions, embeddings)."""
    if others:
        count = Counter(name.rpartition(".")[2] for name in others)
        listed = ", ".join(f"{name} {number}" for name, number in count.items())
        logger.info(
            "%d modules are no linear layers and start as plain LoRA: %s", len(others), listed
        )


def _fused_rest(
    model: nn.Module, found: list[Projection], roles: Sequence[RoleName]
) -> list[Projection]:
    """With ``"*"`` named, the other roles of a fused layer take it, rather than nothing."""
    fused = {p.name for p in found if p.rows is not None}
    rest = [role for role in ROLE_NAMES if role not in roles]
    if not fused or not rest:
        return found
    more = [_starred(p) for p in assign_roles(model, fused, rest, strict=False) if p.rows]
    return [
        p
        for name in dict.fromkeys(p.name for p in found)
        for p in (*(p for p in found if p.name == name), *(p for p in more if p.name == name))
    ]


def _starred(projection: Projection) -> Projection:
    """The projection with the role ``"*"``; rows of a fused layer keep their own name."""
    if projection.rows is not None:
        return projection
    return Projection(**{**vars(projection), "role": "*"})


def _without_modules(role: Role) -> tuple[object, ...]:
    return role.init, role.scale, role.r, role.lora_alpha, role.lr_ratio


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


def _check_names(config: AILoRAConfig, model: nn.Module) -> None:
    if isinstance(config.target_modules, str):
        return
    paths = [place.name for place in walk(model)]
    for entry in sorted(config.target_modules):
        if not any(matches(path, entry) for path in paths):
            raise UserError(f"target_modules: no module is named {entry!r} or ends with it")


def _check_patterns(config: AILoRAConfig, names: Iterable[str]) -> None:
    names = list(names)
    for field in ("rank_pattern", "alpha_pattern"):
        for key in getattr(config, field) or {}:
            if not any(peft_insides.pattern_fits(key, name) for name in names):
                if config.target_parameters:
                    continue
                raise UserError(f"{field}: {key!r} fits none of the modules that are adapted")


def _check_heads(
    config: AILoRAConfig, found: Sequence[Projection], kept: Sequence[Projection]
) -> None:
    """Raise a UserError if modules named by hand lie in a module that is trained in full."""
    left_out = {p.name for p in found} - {p.name for p in kept}
    for name in sorted(left_out):
        for role in config.named_roles.values():
            inside = [w for w in config.modules_to_save or () if f".{w}." in f".{name}."]
            if inside and any(matches(name, entry) for entry in role.modules or ()):
                raise UserError(
                    f"modules_to_save has {inside[0]!r}, which {name} is a part of; a module is "
                    "either trained in full or adapted"
                )


def make_factors(selection: Selection, on_progress: OnWeight | None = None) -> dict[str, Factors]:
    """The starting factors of every chosen projection, by its key; the model is only read.

    A progress bar with the time left appears when this takes more than two seconds, unless
    `on_progress` shows it: it is called with the weights done, their number, and the next one's
    name ("" at the end).

    Raises:
        UserError: a start that can only be given, a rank above a weight's size, a weight with NaN
            or Inf, or without values (meta device).
    """
    for one in selection.chosen:
        if STARTS[one.role.init].make is None:
            raise UserError(
                f"Role.init={one.role.init!r}: only saved adapters have it; to start one so, call "
                f"ailora.lab.methods.METHODS[{one.role.init!r}].build(model, settings, batches)"
            )
    chosen = selection.chosen
    found = {one.projection.key: _make(one) for one in _reported(chosen, on_progress)}
    _report_dead(chosen, found)
    return found


def _make(one: Chosen) -> Factors:
    projection, make = one.projection, STARTS[one.role.init].make
    assert make is not None  # noqa: S101
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if one.is_spectral and not several and not one.is_of_parameter:
        # With several, rank 0 alone needs the values; those of parameters are looked at before.
        check_values(projection.module, projection.name)
    try:
        if isinstance(projection, ExpertProjection):
            made = experts.make_stack(projection, one.role.init, _wanted(one))
        else:
            made = make(projection, _wanted(one))
    except UserError as error:
        if projection.key in str(error):
            raise
        raise UserError(f"{projection.key} ({projection.role}): {error}") from error
    if one.baked == 1:
        return made
    return Factors(A=made.A / one.baked, B=made.B / one.baked, dead=made.dead, check=made.check)


def _wanted(one: Chosen) -> Wanted:
    scaling = one.scaling / one.baked**2
    return Wanted(rank=one.rank, scaling=scaling, scale=one.role.scale, tol=one.tol)


def check_values(module: nn.Module, name: str) -> None:
    """Raise a UserError if a layer's weight has no values in it."""
    weight = module.weight
    if not (isinstance(weight, Tensor) and weight.is_meta):
        return
    if hasattr(module, "_hf_hook"):
        raise UserError(
            f"accelerate keeps the weight of {name} elsewhere until it is needed (cpu_offload, "
            "disk_offload, a device_map): add the adapter first, and offload the model then"
        )
    raise UserError(
        f"{name} is on the meta device and has no values: load the model's weights first"
    )


def _reported(chosen: list[Chosen], on_progress: OnWeight | None) -> Iterator[Chosen]:
    if on_progress is None:
        yield from tqdm(
            chosen, "starting factors", unit="weight", delay=2, leave=False, disable=None
        )
        return
    for done, one in enumerate(chosen):
        on_progress(done, len(chosen), one.projection.key)
        yield one
    on_progress(len(chosen), len(chosen), "")


def _report_dead(chosen: Sequence[Chosen], found: dict[str, Factors]) -> None:
    dead = [(one, found[one.projection.key].dead) for one in chosen]
    dead = [(one, count) for one, count in dead if count]
    if dead:
        listed = ", ".join(f"{one.projection.key} {count} of {one.rank}" for one, count in dead[:8])
        more = f" and {len(dead) - 8} more" if len(dead) > 8 else ""
        logger.warning(
            "dead triplets: the weight has singular values of zero there, so these factors start "
            "at zero and never learn: %s%s. A smaller r or init='gaussian' avoids it.",
            listed,
            more,
        )
