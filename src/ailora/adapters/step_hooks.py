"""What torch calls around the step of any optimiser, in any trainer, for the factors it trains.

* A rate ratio that the optimiser does not know of gives one warning, and so does one that is lost
  later, when somebody gives every group the same rate.
* The frozen half of anchored factors is put back after the step, where weight decay, an optimiser
  with rules of its own or the rounding of 16-bit factors would move it.
* In a fused layer the roles share a parameter: `ailora.adapters.optimizer.create_optimizer` gives
  it one rate, and the others' steps are made longer or shorter here.
* Optimisers that compute with A and B themselves are refused: they would see rank-2r matrices.
  So is what DeepSpeed's flat pieces of the parameters would do wrongly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ailora.adapters.factors import Factor, alive, by_rank, placed
from ailora.adapters.optimizer import RATES
from ailora.errors import UserError

logger = logging.getLogger(__name__)

# These move equal gradients alike, so that both halves of A' stay as far apart as they were.
_ELEMENTWISE = (
    torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.NAdam,
    torch.optim.RAdam, torch.optim.Adamax, torch.optim.Adagrad,
)  # fmt: skip
# Optimisers of PEFT that compute with A and B, by class name.
_LOOK_AT_FACTORS = ("RiemannianPreconditionedOptimizer", "LoraFAOptimizer")


@dataclass(frozen=True)
class _Held:
    """A factor whose parameter an optimiser has, and where."""

    factor: Factor
    group: int


@dataclass
class _Known:
    """What is remembered of an optimiser.

    Attributes:
        parameters: How many it has.
        held: Its factors.
        apart: Pairs of groups whose factors ask for different rates.
        warned: Whether it was said that the ratios have no effect.
        rates: Rate of each group in the last step.
    """

    parameters: int
    held: list[_Held]
    apart: set[tuple[int, int]] = field(default_factory=set)
    warned: bool = False
    rates: list[float] = field(default_factory=list)


_known: WeakKeyDictionary[Optimizer, _Known] = WeakKeyDictionary()
_before: WeakKeyDictionary[Optimizer, list[tuple[_Held, Tensor | None, Tensor | None]]] = (
    WeakKeyDictionary()
)


def watch() -> None:
    """Let torch call the hooks; once per process."""
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    known = _known.get(optimizer)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    if known is None or known.parameters != count:
        known = _Known(count, list(_factors_of(optimizer)))
        _known[optimizer] = known
        known.apart = _apart(known.held)
        if known.held:
            _check_optimizer(optimizer, known.held)
            known.warned = _warn_if(_ignores_rates(optimizer, known.held), _NOT_OURS)
        else:
            known.warned = _warn_if(_check_pieces(optimizer), _NOT_OURS)
    known.warned = known.warned or _warn_if(_are_alike(optimizer, known.apart), _SET_ALIKE)
    if known.held:  # schedulers change them before anybody logs
        known.rates = [float(group["lr"]) for group in optimizer.param_groups]
    noted = []
    for held in known.held:
        group = optimizer.param_groups[held.group]
        start = held.factor.weight if group.get(RATES) and _is_mixed(held.factor) else None
        anchor = _anchor(held) if _must_put_back(optimizer, group, held.factor) else None
        if start is not None or anchor is not None:
            noted.append((held, None if start is None else start.detach().clone(), anchor))
    if noted:
        _before[optimizer] = noted


def _must_put_back(optimizer: Optimizer, group: dict[str, Any], factor: Factor) -> bool:
    if not factor.is_anchored:
        return False
    alike = type(optimizer) in _ELEMENTWISE and factor.weight.dtype.itemsize >= 4
    return bool(group.get("weight_decay")) or not alike


@torch.no_grad()
def _after_step(optimizer: Optimizer, *_: Any) -> None:
    for held, start, anchor in _before.pop(optimizer, ()):
        if start is not None:
            _rescale(held.factor, start)
        if anchor is not None:
            _put_back(held.factor, anchor)


def _factors_of(optimizer: Optimizer) -> Iterator[_Held]:
    groups = {
        id(parameter): index
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    order = {key: place for place, key in enumerate(groups)}
    found = [factor for factor in alive if id(factor.weight) in groups]
    for factor in sorted(found, key=lambda factor: order[id(factor.weight)]):
        yield _Held(factor, groups[id(factor.weight)])


def _check_optimizer(optimizer: Optimizer, held: list[_Held]) -> None:
    name = type(optimizer).__name__
    if name in _LOOK_AT_FACTORS and any(one.factor.is_anchored for one in held):
        raise UserError(
            f"{name} computes with the factors A and B, where anchored ones are rank-2r matrices "
            "[A; A - A0] and [B - B0, B0]; use anchored=False with it, or another optimiser"
        )


def _check_pieces(optimizer: Optimizer) -> bool:
    """Whether an optimiser of ZeRO's flat pieces ignores the roles' rates.

    Raises:
        UserError: The pieces hide what has to be kept apart.
    """
    theirs = [factor for factor in alive if _is_deepspeeds(factor.weight)]
    decays = any(group.get("weight_decay") for group in optimizer.param_groups)
    if decays and any(factor.is_anchored for factor in theirs):
        raise UserError(
            "DeepSpeed ZeRO steps on flat pieces of the factors, where weight decay cannot leave "
            "their frozen half alone; set weight_decay=0, or use DDP or FSDP version 2"
        )
    rates = any(group.get(RATES) for group in optimizer.param_groups)
    if rates and any(_is_mixed(factor) for factor in theirs):
        raise UserError(
            "DeepSpeed ZeRO steps on flat pieces of the factors, where roles of one fused layer "
            "cannot have rates of their own; give them one lr_ratio, or use DDP or FSDP version 2"
        )
    # Which piece is whose cannot be told: at one rate for all, the ratios are lost for certain.
    trained = [factor for factor in theirs if factor.weight.requires_grad]
    ratios = {block.lr_ratio for factor in trained for block in factor.blocks}
    used = {float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups}
    return not rates and len(ratios) > 1 and len(used) == 1


def _is_deepspeeds(weight: Tensor) -> bool:
    """Whether ZeRO has the parameter: in pieces (stage 3), or linked to a piece (1 and 2)."""
    return hasattr(weight, "ds_id") or hasattr(weight, "_hp_mapping")


_NOT_OURS = (
    "pass Trainer(optimizers=(ailora.create_optimizer(model, lr=...), None)) or set bake_rates=True"
)
_SET_ALIKE = (
    'something gave groups with different rates the same one (a loop over group["lr"], or a '
    "schedule with one max_lr); scale each group's own, or set bake_rates=True"
)


def _warn_if(ignored: bool, mend: str) -> bool:
    if ignored:
        logger.warning(
            "this optimiser trains roles with different lr_ratio at one rate, so the ratio has no "
            "effect; %s",
            mend,
        )
    return ignored


def _apart(held: list[_Held]) -> set[tuple[int, int]]:
    """Pairs of groups that hold the same side of roles with different ratios."""
    first = {(one.factor.side, one.factor.blocks[0].lr_ratio, one.group) for one in held}
    return {
        (group, another)
        for side, ratio, group in first
        for other, its_ratio, another in first
        if side == other and ratio != its_ratio and group < another
    }


def _are_alike(optimizer: Optimizer, apart: set[tuple[int, int]]) -> bool:
    """Whether groups have one rate that asked for several; a rate of 0 is a warm-up's."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if any(rates[one] == rates[other] != 0 for one, other in apart):
        return True
    # One ratio of all roles is lost to the head's groups; True is what older checkpoints hold.
    asked = {group.get(RATES) for group in optimizer.param_groups}
    return len(asked) > 1 and None not in asked and len(set(rates)) == 1 and rates[0] != 0


def _ignores_rates(optimizer: Optimizer, held: list[_Held]) -> bool:
    """Whether factors of one side (LoRA+ gives B another rate) have one rate and several ratios."""
    for side in "AB":
        rates: dict[float, set[float]] = {}
        for one in held:
            group = optimizer.param_groups[one.group]
            if one.factor.side != side or group.get(RATES):
                continue
            for block in one.factor.blocks:
                rate = group.get("initial_lr", group["lr"])  # warm-up starts at 0
                rates.setdefault(block.lr_ratio, set()).add(float(rate))
        used = [rate for several in rates.values() for rate in several]
        if len(rates) > 1 and len(used) > len(set(used)):
            return True
        # One ratio for all is right at one rate, if that is not simply the optimiser's own.
        if set(rates) - {1.0} and len(rates) == 1 and set(used) == {optimizer.defaults.get("lr")}:
            return True
    return False


def rates_of_last_step(optimizer: Any) -> dict[str, float]:
    """The rate of each role in an optimiser's last step, by role.

    Where A and B have different ones (LoRA+) the names are ``role/A`` and ``role/B``; of a role
    with several rates, by groups of the user's own, it is the last. Empty before the first step,
    and for an optimiser whose steps torch does not announce.

    Args:
        optimizer: A torch optimiser, or accelerate's wrapper of one.
    """
    known = _known.get(getattr(optimizer, "optimizer", optimizer))
    if known is None or not known.rates:
        return {}
    found: dict[str, dict[str, float]] = {}
    for one in known.held:
        scaled = optimizer.param_groups[one.group].get(RATES)
        first = one.factor.blocks[0].lr_ratio
        for block in one.factor.blocks:
            rate = known.rates[one.group] * (block.lr_ratio / first if scaled else 1.0)
            found.setdefault(block.role, {})[one.factor.side] = rate
    rates: dict[str, float] = {}
    for role, sides in found.items():
        if sides.get("A") == sides.get("B"):
            rates[role] = sides["A"]
        else:
            rates |= {f"{role}/{side}": rate for side, rate in sides.items()}
    return rates


def _is_mixed(factor: Factor) -> bool:
    return len({block.lr_ratio for block in factor.blocks}) > 1


def _rescale(factor: Factor, start: Tensor) -> None:
    """Each role's step times its ratio over that of the group, which is the first role's."""
    first = factor.blocks[0].lr_ratio
    scale = torch.cat(
        [torch.full((block.width,), block.lr_ratio / first) for block in factor.blocks]
    ).to(start.device, start.dtype)
    weight = factor.weight
    ranks = by_rank(weight, factor.side, factor.experts) if factor.experts > 1 else None
    if ranks is not None:
        scale = scale[None, :, None].expand(ranks.shape).reshape(weight.shape)
    else:
        scale = scale[:, None] if factor.side == "A" else scale[None]
    if isinstance(weight, DTensor):
        full = scale.expand(weight.shape).contiguous()
        scale = distribute_tensor(full, weight.device_mesh, weight.placements)
    weight.copy_(start + scale * (weight - start))


def gathered(weight: Tensor) -> Tensor:
    """The matrix; gathered from all ranks (a collective call) where FSDP2 holds it in shards."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


@torch.no_grad()
def _anchor(held: _Held) -> Tensor:
    """What does not train, as `by_rank` has it: A0 = A - D_A of each anchored block, or B0.

    The subtraction rounds, and in 16 bits that adds up: what is known of A0 is used as long as it
    explains the matrix exactly.
    """
    factor = held.factor
    matrix = gathered(factor.weight.detach())
    if matrix.ndim != 2:
        raise UserError(
            "these factors lie in pieces of one flat parameter (FSDP version 1), where weight "
            "decay cannot leave their frozen half alone; set weight_decay=0, or use FSDP version 2"
        )
    ranks, pieces = by_rank(matrix, factor.side, factor.experts), []
    for block, start in placed(factor.blocks):
        if block.anchored:
            middle, stop = start + block.rank, start + block.width
            pieces.append((ranks[:, start:middle], ranks[:, middle:stop]))
    upper, lower = (torch.cat(halves, dim=1) for halves in zip(*pieces, strict=True))
    if factor.side == "B":
        return lower
    known = factor.anchor
    if known is not None and known.numel() == upper.numel():
        known = known.to(upper).view_as(upper)
        if torch.equal(known + lower, upper):  # or somebody wrote other factors
            return known
    factor.anchor = upper - lower
    return factor.anchor


def _put_back(factor: Factor, anchor: Tensor) -> None:
    whole = gathered(factor.weight.detach())
    matrix = whole.clone() if whole is not factor.weight else whole
    ranks, done = by_rank(matrix, factor.side, factor.experts), 0
    for block, start in placed(factor.blocks):
        middle, stop = start + block.rank, start + block.width
        if not block.anchored:
            continue
        piece = slice(done, done + block.rank)
        if factor.side == "A":
            ranks[:, start:middle] = anchor[:, piece] + ranks[:, middle:stop]
        else:
            ranks[:, middle:stop] = anchor[:, piece]
        done += block.rank
    weight = factor.weight
    if isinstance(weight, DTensor):
        matrix = distribute_tensor(matrix, weight.device_mesh, weight.placements)
    weight.copy_(matrix)
