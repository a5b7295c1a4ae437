"""`AILoRAConfig`: PEFT's LoraConfig, and what each role's weights start from."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any, TypeGuard, get_args

from peft import LoraConfig, TaskType

from ailora.adapters.starts import STARTS, Scale, check_scale
from ailora.errors import UserError
from ailora.roles import RoleKey, RoleName
from ailora.roles.parts import PART_NAMES, PartName

# What becomes of each field of LoraConfig. Fields in neither table, as a future PEFT may have, are
# refused where they differ from their default.
HONOURED = frozenset(
    {
        "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path",
        "revision", "inference_mode", "runtime_config",
        "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora",
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
        "target_parameters", "fan_in_fan_out",
        "lora_dropout", "lora_bias", "bias", "use_dora", "alora_invocation_tokens",
        "modules_to_save", "trainable_token_indices", "ensure_weight_tying",
    }
)  # fmt: skip
REFUSED: Mapping[str, str] = {
    "init_lora_weights": "a Role's init says what its weights start from",
    "loftq_config": "LoftQ changes the base weights",
    "eva_config": "EVA is another start",
    "corda_config": "CorDA is another start",
    "lora_ga_config": "LoRA-GA is another start",
    "velora_config": "VeLoRA's backward pass is for plain factors",
    "kasa_config": "KaSA changes the base weights",
    "monteclora_config": "MonteCLoRA draws its factors anew at every step",
    "use_qalora": "QALoRA pools what the factors see",
    "qalora_group_size": "QALoRA pools what the factors see",
    "use_bdlora": "BD-LoRA has other factors",
    "arrow_config": "Arrow mixes trained adapters",
    "megatron_config": "Megatron splits the layers",
    "megatron_core": "Megatron splits the layers",
    "layer_replication": "replicated layers share their base weights",
}


@dataclass(frozen=True, kw_only=True, repr=False)
class Role:
    """How the factors of one role's weights start and how fast they learn.

    Attributes:
        init: A name in `ailora.adapters.starts.STARTS`. ``"principal"`` takes the r largest
            singular triplets (eq. 2 of the paper), ``"minor"`` the r smallest (eq. 5);
            ``"gaussian"`` starts as LoRA does: B zero and A normal with the standard deviation of
            PEFT's default start, (3 n)^-1/2; ``"orthonormal"`` has random directions of the
            principal part's sizes, ``"orthonormal_minor"`` of the minor part's: the controls of
            what the directions do. Some names are those of saved adapters only.
        scale: The size of the start, which cancels at step 0 whatever it is: ``"sigma"``, the
            singular values as in the paper; ``"unit"``, 1 in their place; ``"matched"``, all of
            them times the one number with which the first step of Adam moves the weight as far as
            it does from LoRA's start, so that a learning rate found for LoRA means the same here;
            or a number that multiplies them.
        r: Rank; None takes the config's (`rank_pattern`, then `r`).
        lora_alpha: The scale of the update is lora_alpha / r; None takes the config's
            (`alpha_pattern`, then `lora_alpha`).
        lr_ratio: This role's learning rate as a multiple of the optimiser's.
        modules: Module names by hand, as in PEFT's ``target_modules``: each matches modules with
            that dotted name or ending in it. None finds them from the model's architecture.

    Raises:
        UserError: a field out of its range, named with its value.
    """

    init: str
    scale: Scale = "sigma"
    r: int | None = None
    lora_alpha: float | None = None
    lr_ratio: float = 1.0
    modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _one_of("Role.init", self.init, STARTS)
        check_scale(self.init, self.scale)
        if self.r is not None:
            check_rank("Role.r", self.r)
        if self.lora_alpha is not None:
            _set(self, "lora_alpha", positive("Role.lora_alpha", self.lora_alpha))
        _set(self, "lr_ratio", positive("Role.lr_ratio", self.lr_ratio))
        _set(self, "modules", _names("Role.modules", self.modules))

    def __repr__(self) -> str:
        """The fields that differ from their defaults."""
        return f"Role({_shown(self, ('init',))})"


def _ailora_roles() -> dict[RoleKey, Role]:
    return {"q": Role(init="principal"), "v": Role(init="minor", lr_ratio=2.0)}


@dataclass(repr=False)
class AILoRAConfig(LoraConfig):  # type: ignore[misc]
    """A ``peft.LoraConfig`` whose factors start from the weights' own spectrum, per role.

    Whoever takes a PEFT config takes it: ``peft.get_peft_model``, ``PeftModel.add_adapter``,
    ``peft.inject_adapter_in_model``, ``add_adapter`` of transformers, diffusers and
    sentence-transformers, TRL's ``peft_config=``. Fields mean what they mean in PEFT, or are
    refused by name when the config meets a model. A start never changes the config it was given,
    so one config serves several models; each starts from its own weights.

    Attributes:
        roles: By role, what its weights start from: ``"q"``, ``"k"``, ``"v"``, ``"o"`` of
            attention, ``"gate"``, ``"up"``, ``"down"`` of the feed-forward block (``"up"`` is the
            first matrix of one without a gate). ``"*"`` is for every other layer that is selected;
            without it they start as plain LoRA does.
        anchored: True leaves the base weights as they are and saves a plain LoRA of rank 2r of
            the untouched base; False is the paper's own form, W <- W - (lora_alpha / r) B A.
        bake_rates: Put the roles' ``lr_ratio`` into the factors and the scale. Under Adam that
            does in any trainer what `ailora.create_optimizer` does by parameter groups, up to
            Adam's eps, decoupled weight decay and gradient clipping.
        target_modules: As in PEFT, in every part of the model; None selects the modules of the
            roles that are named, and those of every known role if ``"*"`` is.
        parts: Parts of a model of several modalities to adapt: ``"language"``, ``"vision"``,
            ``"audio"``, ``"projector"``. None is the language part, or with ``target_modules``
            whatever that selects; a model of one kind of input (ViT, Whisper) and one of two
            halves side by side (CLIP) are adapted whole. All linear layers of a projector, between
            a tower and the language part, take ``roles["*"]``.
        tol: Residual that the starts' decompositions may have, relative to the largest singular
            value, between 0 and 1; see `ailora.decompose`. A larger one is quicker, most of all
            for principal parts from 2e-5 on. At 1e-3 the singular values are those of the full SVD
            in fp32, to its own error, and training did not tell the starts from those at 1e-8
            (`benchmarks/tolerance.py`). Step 0 is exact whatever it is.
        lora_alpha: As in PEFT; None means each module's own rank, a scale of 1.
        r, rank_pattern, alpha_pattern: As in PEFT, of the factors that train; a Role's own value
            beats a pattern. The saved file of an anchored adapter has rank 2r.

    Raises:
        UserError: a field out of its range, named with its value.
    """

    lora_alpha: float | None = field(
        default=None, metadata={"help": "Scale is lora_alpha / r; None means each module's rank."}
    )
    roles: Mapping[RoleKey, Role] = field(
        default_factory=_ailora_roles,
        metadata={"help": "What each role's weights start from; '*' is for all other layers."},
    )
    anchored: bool = field(
        default=True, metadata={"help": "Leave the base weights as they are (False: W - s B A)."}
    )
    bake_rates: bool = field(
        default=False, metadata={"help": "Put the roles' lr_ratio into factors and scale."}
    )
    parts: Sequence[PartName] | None = field(
        default=None,
        metadata={"help": "Parts to adapt: language, vision, audio, projector (None: language)."},
    )
    tol: float = field(
        default=1e-3, metadata={"help": "Residual of the decompositions, relative to sigma_1."}
    )

    def __post_init__(self) -> None:
        if self.task_type is not None:
            _one_of("task_type", self.task_type, [kind.value for kind in TaskType])
        # PEFT would drop it with a warning; here it is refused when the config meets a model.
        loftq: Any = vars(self)["loftq_config"]
        super().__post_init__()
        self.loftq_config = loftq
        self.roles = _roles(self.roles)
        self.check_values()

    def check_values(self) -> None:
        """Raise a UserError for a field out of its range, also one that was written later."""
        check_rank("r", self.r)
        if self.lora_alpha is not None:
            _set(self, "lora_alpha", _plain(positive("lora_alpha", self.lora_alpha)))
        if not (is_number(self.lora_dropout) and 0 <= self.lora_dropout < 1):
            raise UserError(f"lora_dropout={self.lora_dropout!r}: must be in [0, 1)")
        _set(self, "lora_dropout", float(self.lora_dropout))
        if not (is_number(self.tol) and 0 < self.tol < 1):
            raise UserError(f"tol={self.tol!r}: must be between 0 and 1, such as 1e-8 or 1e-2")
        for name in ("anchored", "bake_rates", "use_rslora", "use_dora", "lora_bias"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name}={getattr(self, name)!r}: must be True or False")
        for name, value in (self.rank_pattern or {}).items():
            check_rank(f"rank_pattern[{name!r}]", value)
        alphas = {
            name: _plain(positive(f"alpha_pattern[{name!r}]", value))
            for name, value in (self.alpha_pattern or {}).items()
        }
        _set(self, "alpha_pattern", alphas)
        self.roles = _roles(self.roles)
        self.parts = _parts(self.parts)

    @property
    def named_roles(self) -> dict[RoleName, Role]:
        """The roles except ``"*"``."""
        return {name: role for name, role in self.roles.items() if name != "*"}

    def role_of(self, name: RoleKey) -> Role:
        """The role of that name; plain LoRA's for ``"*"`` where the config has none."""
        return self.roles.get(name) or Role(init="gaussian")

    @property
    def is_spectral(self) -> bool:
        """Whether any role's factors start as a product that is not zero."""
        return any(not STARTS[role.init].zero for role in self.roles.values())

    @classmethod
    def from_peft_type(cls, **kwargs: Any) -> AILoRAConfig:
        """The config of these fields; PEFT's own would make a plain LoraConfig of them."""
        return cls(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs: Any) -> AILoRAConfig:
        """Refuse: a saved adapter's config is a plain LoRA's.

        Raises:
            UserError: always, with what to call instead.
        """
        raise UserError(
            f"{pretrained_model_name_or_path}: a saved adapter has PEFT's own config; load it with "
            "ailora.load_adapter(model, folder), or give AILoRAConfig(...) to start a new one"
        )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Refuse: there is no adapter yet, and a saved one has a plain LoRA's config.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"cannot save to {save_directory}: this config has started no adapter yet; give it to "
            "peft.get_peft_model or a trainer's peft_config= and save the model"
        )

    def __repr__(self) -> str:
        """The fields that differ from their defaults, and the roles."""
        hidden = ("peft_type", "peft_version", "runtime_config", "base_model_name_or_path")
        return f"AILoRAConfig({_shown(self, ('r', 'roles'), hidden)})"


def check_fields(config: AILoRAConfig) -> None:
    """Raise a UserError for fields of PEFT's that cannot be had with this start.

    Checked when the config meets a model, since trainers change configs before that.
    """
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        raise UserError(f"peft_type={config.peft_type!r}: an AILoRAConfig is a LORA config")
    known = HONOURED | {item.name for item in fields(AILoRAConfig)} - {
        item.name for item in fields(LoraConfig)
    }
    for item in fields(config):
        if item.name in known or _is_default(config, item):
            continue
        why = REFUSED.get(item.name, "it is not known to this version of ailora")
        raise UserError(
            f"{item.name}={getattr(config, item.name)!r} cannot be had with an AILoRAConfig: "
            f"{why}; leave it out, or use peft.LoraConfig"
        )
    if getattr(config, "_custom_modules", None):  # an attribute of PEFT's, no field
        names = ", ".join(layer.__name__ for layer in config._custom_modules.values())
        raise UserError(
            f"layers of your own ({names}, by _register_custom_module) cannot be had with an "
            "AILoRAConfig: they are not known to keep its anchors; use peft.LoraConfig"
        )
    if config.use_rslora and _lacks_alpha(config):
        raise UserError(
            "use_rslora=True: give lora_alpha as a number, the scale is alpha / sqrt(r)"
        )
    if not config.anchored:
        _check_foldable_fields(config)


def refused_field(config: LoraConfig) -> str | None:
    """A field of a saved adapter's config that no start has; None if there is none."""
    found = (item for item in fields(LoraConfig) if item.name in REFUSED)
    return next((item.name for item in found if not _is_default(config, item)), None)


def _check_foldable_fields(config: AILoRAConfig) -> None:
    for name, why in (
        ("lora_dropout", "would drop a part of W itself, so step 0 is not the pre-trained model"),
        ("use_dora", "would take norms of the residual for those of W"),
        ("lora_bias", "belongs to the untouched base"),
        ("alora_invocation_tokens", "leaves other tokens to the residual instead of W"),
    ):
        if getattr(config, name) and config.is_spectral:
            raise UserError(
                f"{name}={getattr(config, name)!r} with anchored=False {why}; use anchored=True"
            )


def _lacks_alpha(config: AILoRAConfig) -> bool:
    return config.lora_alpha is None and any(r.lora_alpha is None for r in config.roles.values())


def private_copy(config: AILoRAConfig) -> AILoRAConfig:
    """A copy whose fields PEFT and others may write into without changing the caller's."""
    copied = copy.copy(config)
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, list | set | dict):
            setattr(copied, item.name, copy.copy(value))
    return copied


def as_json(config: AILoRAConfig) -> dict[str, Any]:
    """The fields that differ from their defaults, for a file; `from_json` is the reverse."""
    stored = asdict(config)
    found = {
        item.name: stored[item.name]
        for item in fields(config)
        if item.name not in ("runtime_config", "peft_version", "peft_type")
        and (item.name in ("r", "roles") or not _is_default(config, item))
    }
    return {name: _listed(value) for name, value in found.items()}


def _listed(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    return list(value) if isinstance(value, tuple | range) else value


def from_json(stored: Mapping[str, Any]) -> AILoRAConfig:
    """The config that `as_json` wrote; fields that this version does not know are left out."""
    known = {item.name for item in fields(AILoRAConfig)}
    return AILoRAConfig(**{name: value for name, value in stored.items() if name in known})


def _shown(owner: Any, always: Collection[str], hidden: Collection[str] = ()) -> str:
    return ", ".join(
        f"{item.name}={_listed(getattr(owner, item.name))!r}"
        for item in fields(owner)
        if item.name not in hidden and (item.name in always or not _is_default(owner, item))
    )


def _is_default(owner: Any, item: Field[Any]) -> bool:
    value = getattr(owner, item.name)
    if item.default is not MISSING:
        return bool(value == item.default) or value is item.default
    if item.default_factory is not MISSING:
        return bool(value == item.default_factory()) or value is None
    return False


def _roles(roles: Mapping[RoleKey, Role | Mapping[str, Any]]) -> dict[RoleKey, Role]:
    if not isinstance(roles, Mapping) or not roles:
        raise UserError(
            f"roles={roles!r}: name at least one of {', '.join(get_args(RoleName))}, "
            'such as roles={"q": Role(init="principal")}'
        )
    found: dict[RoleKey, Role] = {}
    for name, role in roles.items():
        _one_of("roles", name, get_args(RoleKey))
        made = Role(**role) if isinstance(role, Mapping) else role
        if not isinstance(made, Role):
            raise UserError(f"roles[{name!r}]={role!r}: must be an ailora.Role")
        if name == "*" and made.modules is not None:
            raise UserError('roles["*"].modules: it is for the layers that target_modules selects')
        found[name] = made
    return found


def _parts(parts: Collection[Any] | None) -> tuple[PartName, ...] | None:
    if parts is None:
        return None
    if isinstance(parts, str) or not isinstance(parts, Collection) or not parts:
        raise UserError(f'parts={parts!r}: give a list of parts, such as parts=["vision"], or None')
    for name in parts:
        _one_of("parts", name, PART_NAMES)
    return tuple(name for name in PART_NAMES if name in parts)


def _one_of(what: str, value: object, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise UserError(f"{what}={value!r}: must be one of {', '.join(allowed)}")


def _names(what: str, values: Collection[Any] | None) -> tuple[str, ...] | None:
    """The names as a tuple, so that they cannot change later."""
    if values is None:
        return None
    whole = not isinstance(values, str) and isinstance(values, Collection) and len(values) > 0
    if not whole or not all(isinstance(value, str) for value in values):
        raise UserError(f"{what}={values!r}: give a non-empty list of module names, or None")
    return tuple(values)


def _set(owner: Any, name: str, value: object) -> None:
    object.__setattr__(owner, name, value)  # works on frozen dataclasses too


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def positive(what: str, value: object) -> float:
    """The value as a float; UserError that names it unless it is a finite number above zero."""
    if not (is_number(value) and 0 < value < float("inf")):
        raise UserError(f"{what}={value!r}: must be a positive number")
    return float(value)


def _plain(value: float) -> float:
    """An integer where it is one, as PEFT's configs have it; no type of NumPy's."""
    return int(value) if value == int(value) else value


def check_rank(what: str, r: object) -> None:
    """Raise a UserError that names the value unless it is an integer of at least 1."""
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise UserError(f"{what}={r!r}: the rank must be an integer of at least 1")
