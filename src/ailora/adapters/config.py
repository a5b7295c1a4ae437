"""What a low-rank adapter starts from, per role of the weight."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, TypeGuard, get_args

from peft import TaskType

from ailora.errors import UserError
from ailora.roles import RoleName

Init = Literal["principal", "minor", "gaussian"]
Foreign = Literal["olora", "lora_ga", "corda"]  # PEFT's starts, which it would subtract
Base = Literal["anchored", "folded"]
LrMode = Literal["groups", "baked"]

_NOT_PEFTS = (
    "PEFT was given an AILoRAConfig: call ailora.get_peft_model(model, config, adapter_name), or "
    "give peft.get_peft_model and trainers ailora.peft_config(config)"
)


@dataclass(frozen=True, kw_only=True)
class Role:
    """How the factors of one role's weights start and how fast they learn.

    Attributes:
        init: ``"principal"`` takes the r largest singular triplets (eq. 2 of the paper),
            ``"minor"`` the r smallest (eq. 5), ``"gaussian"`` starts as LoRA does: B zero and A
            normal with the standard deviation of PEFT's default start, (3 n)^-1/2. Saved adapters
            may have ``"olora"``, ``"lora_ga"`` or ``"corda"``: anchored factors that came from
            PEFT's start of that name, through `ailora.baselines`, and come from the files again.
        r: Rank; None takes the config's.
        alpha: Scale of the update is alpha / r; None takes the config's, and without one the rank.
        lr_ratio: This role's learning rate as a multiple of the optimiser's.
        modules: Module names by hand, as in PEFT's ``target_modules``: each matches modules with
            that dotted name or ending in it. None finds them from the model's architecture.
    """

    init: Init | Foreign
    r: int | None = None
    alpha: float | None = None
    lr_ratio: float = 1.0
    modules: Sequence[str] | None = None

    @property
    def spectral(self) -> bool:
        """Whether the factors start as a product that is not zero, and so is taken off again."""
        return self.init != "gaussian"

    def __post_init__(self) -> None:
        if self.init not in get_args(Foreign):
            _one_of("Role.init", self.init, get_args(Init))
        if self.r is not None:
            _rank("Role.r", self.r)
        _freeze(self, "alpha", _alpha("Role.alpha", self.alpha))
        _freeze(self, "lr_ratio", positive("Role.lr_ratio", self.lr_ratio))
        _freeze(self, "modules", _tuple_of(str, "Role.modules", self.modules, "module names"))


def _ailora_roles() -> dict[RoleName, Role]:
    return {"q": Role(init="principal"), "v": Role(init="minor", lr_ratio=2.0)}


@dataclass(frozen=True, kw_only=True, repr=False)
class AILoRAConfig:
    """One config for every start: AILoRA by default, PiSSA, MiLoRA, LoRA and mixtures by roles.

    Attributes:
        r: Rank of the factors, lora_A (r x n) and lora_B (m x r).
        alpha: Scale of the update is alpha / r; None means alpha = r, a scale of 1. No scale moves
            step 0, since it is divided out of the factors.
        dropout: Dropout on the adapter's input, 0 <= dropout < 1. The anchored form drops only
            the *update's* input; the folded form drops a part of W itself, so step 0 moves.
        base: ``"anchored"`` leaves the base weights untouched; ``"folded"`` is the paper's form,
            W <- W - (alpha / r) B A.
        lr_mode: ``"groups"`` gives roles their rates through `ailora.create_optimizer`;
            ``"baked"`` puts the ratio into the factors and the scale, which under Adam does the
            same in any trainer, up to Adam's eps, decoupled weight decay and gradient clipping.
        use_rslora: As in PEFT: the scale is alpha / sqrt(r) (rsLoRA, arXiv 2312.03732).
        use_dora: As in PEFT: norms of W + dW learn apart from directions (DoRA, arXiv 2402.09353).
            Not in fused layers, where the norms of other roles' rows would learn too.
        roles: What each role's weights start from; roles not named are not adapted.
        task_type: As in PEFT (``"SEQ_CLS"``, ``"CAUSAL_LM"``, ...).
        modules_to_save: As in PEFT: modules trained in full and saved with the adapter.
        layers: Indices of the layers to adapt; None means all (PEFT's layers_to_transform).

    Raises:
        UserError: a field out of its range, named with its value.
    """

    r: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    base: Base = "anchored"
    lr_mode: LrMode = "groups"
    use_rslora: bool = False
    use_dora: bool = False
    roles: Mapping[RoleName, Role] = field(default_factory=_ailora_roles)
    task_type: str | None = None
    modules_to_save: Sequence[str] | None = None
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        _rank("AILoRAConfig.r", self.r)
        _freeze(self, "alpha", _alpha("AILoRAConfig.alpha", self.alpha))
        if not (_is_number(self.dropout) and 0 <= self.dropout < 1):
            raise UserError(f"AILoRAConfig.dropout={self.dropout!r}: must be in [0, 1)")
        _freeze(self, "dropout", float(self.dropout))
        _one_of("AILoRAConfig.base", self.base, get_args(Base))
        _one_of("AILoRAConfig.lr_mode", self.lr_mode, get_args(LrMode))
        if self.task_type is not None:
            _one_of("AILoRAConfig.task_type", self.task_type, [kind.value for kind in TaskType])
            _freeze(self, "task_type", TaskType(self.task_type).value)
        for name in ("use_rslora", "use_dora"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(
                    f"AILoRAConfig.{name}={getattr(self, name)!r}: must be True or False"
                )
        _freeze(self, "roles", _roles(self.roles))
        for name, kind, content in (
            ("modules_to_save", str, "module names"),
            ("layers", int, "layer indices from 0"),
        ):
            values = _tuple_of(kind, f"AILoRAConfig.{name}", getattr(self, name), content)
            _freeze(self, name, values)

    @property
    def base_model_name_or_path(self) -> str:
        """What ``peft.get_peft_model`` looks at first: it takes another kind of config."""
        raise UserError(_NOT_PEFTS)

    @property
    def peft_type(self) -> str:
        """What ``PeftModel`` and ``add_adapter`` look at first, see above."""
        raise UserError(_NOT_PEFTS)

    def rank_of(self, role: RoleName) -> int:
        """Rank of one role's factors."""
        return self.roles[role].r or self.r

    def is_anchored(self, role: RoleName) -> bool:
        """Whether one role's factors are an anchor and differences rather than plain ones."""
        return self.base == "anchored" and self.roles[role].spectral

    def stock_rank_of(self, role: RoleName) -> int:
        """Rank that one role's factors have for PEFT: 2r if they are anchored."""
        return self.rank_of(role) * (2 if self.is_anchored(role) else 1)

    def scaling_of(self, role: RoleName) -> float:
        """Scale of one role's update: alpha / r, or alpha / sqrt(r) with rsLoRA."""
        rank = self.rank_of(role)
        alpha = self.roles[role].alpha or self.alpha or float(rank)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def __repr__(self) -> str:
        """Say in words what each role does."""
        says = [
            f"{name}: {role.init} r={self.rank_of(name)} "
            f"scale={self.scaling_of(name):g} lr x{role.lr_ratio:g}"
            for name, role in self.roles.items()
        ]
        rest = [f"base={self.base}", f"lr_mode={self.lr_mode}"]
        for name in ("dropout", "use_rslora", "use_dora", "task_type", "modules_to_save", "layers"):
            value = getattr(self, name)
            if value not in (None, 0.0, False):
                rest.append(f"{name}={value!r}")
        return f"AILoRAConfig({'; '.join(says)}; {', '.join(rest)})"


def _one_of(what: str, value: object, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise UserError(f"{what}={value!r}: must be one of {', '.join(allowed)}")


def _roles(roles: Mapping[RoleName, Role]) -> dict[RoleName, Role]:
    if not isinstance(roles, Mapping) or not roles:
        raise UserError(
            f"AILoRAConfig.roles={roles!r}: name at least one of q, k, v, o, "
            'such as roles={"q": Role(init="principal")}'
        )
    for name, role in roles.items():
        _one_of("AILoRAConfig.roles", name, get_args(RoleName))
        if not isinstance(role, Role):
            raise UserError(f"AILoRAConfig.roles[{name!r}]={role!r}: must be an ailora.Role")
    return dict(roles)


def _tuple_of(
    kind: type, what: str, values: Collection[Any] | None, content: str
) -> tuple[Any, ...] | None:
    """The values as a tuple, so that they can neither change later nor fail to become JSON."""
    if values is None:
        return None
    whole = not isinstance(values, str) and isinstance(values, Collection) and len(values) > 0
    if not whole or not all(type(value) is kind for value in values):
        raise UserError(f"{what}={values!r}: give a non-empty list of {content}, or None")
    return tuple(values)


def _freeze(owner: Any, name: str, value: object) -> None:
    object.__setattr__(owner, name, value)  # the way around frozen that the standard library names


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def positive(what: str, value: object) -> float:
    """The value as a float; UserError that names it unless it is a finite number above zero."""
    if not (_is_number(value) and 0 < value < float("inf")):
        raise UserError(f"{what}={value!r}: must be a positive number")
    return float(value)


def _alpha(what: str, value: float | None) -> float | None:
    return None if value is None else positive(what, value)


def _rank(what: str, r: int) -> None:
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise UserError(f"{what}={r!r}: the rank must be an integer of at least 1")
