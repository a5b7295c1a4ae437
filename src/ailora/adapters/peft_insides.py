"""Everything that this library takes for granted about PEFT's insides, and where it steps in.

Whatever is read, called or wrapped here is not PEFT's public API. It is looked for when something
of ``ailora.adapters`` is asked for first, so a PEFT that lacks it says so in one line; what each of
them does has a test in ``tests/adapters/test_peft_contract.py``. Where versions differ, this module
looks at what there is, not at the version's number.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from functools import lru_cache, wraps
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners import tuners_utils
from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.mixed import MixedModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import other
from torch import nn

from ailora.errors import UserError
from ailora.versions import misfit

T = TypeVar("T")

_NEEDED: tuple[tuple[Any, str, tuple[str, ...]], ...] = (
    (LoraModel, "inject_adapter", ("model", "adapter_name", "low_cpu_mem_usage", "state_dict")),
    (LoraModel, "_cast_adapter_dtype", ("adapter_name", "autocast_adapter_dtype")),
    (LoraModel, "_unload_and_optionally_merge", ("merge", "adapter_names")),
    (LoraModel, "delete_adapter", ("adapter_name",)),
    (LoraModel, "disable_adapter_layers", ()),
    (LoraModel, "add_weighted_adapter", ("adapters", "weights", "adapter_name")),
    (BaseTunerLayer, "enable_adapters", ("enabled",)),
    (MixedModel, "inject_adapter", ("model", "adapter_name")),
    (ParamWrapper, "get_delta_weight", ("adapter_name",)),
    (ParamWrapper, "get_param", ()),
    (PeftModel, "save_pretrained", ("path_initial_model_for_weight_conversion",)),
    (PeftModel, "add_adapter", ("adapter_name", "peft_config")),
    (PeftModel, "load_adapter", ("model_id", "adapter_name", "autocast_adapter_dtype")),
    (tuners_utils, "check_target_module_exists", ("config", "key")),
    (tuners_utils, "_maybe_include_all_linear_layers", ("peft_config", "model")),
    (other, "get_pattern_key", ("pattern_keys", "key_to_match")),
)


def _check_peft() -> None:
    for owner, name, parameters in _NEEDED:
        function = getattr(owner, name, None)
        found = inspect.signature(function).parameters if callable(function) else {}
        lacking = [p for p in parameters if p not in found]
        if not callable(function) or lacking:
            where = f"{getattr(owner, '__name__', owner)}.{name}"
            what = f"takes no {lacking[0]!r}" if callable(function) else "is not there"
            raise misfit("peft", f"{where} {what}")


_check_peft()

# From 0.19 on, `PeftModel.add_adapter` keeps factors over 16-bit weights in fp32, as
# `get_peft_model` always has.
ADDING_CASTS = "autocast_adapter_dtype" in inspect.signature(PeftModel.add_adapter).parameters


# --- Which modules PEFT adapts ---------------------------------------------------------------


def keeps(config: LoraConfig, name: str) -> bool:
    """Whether PEFT's exclusions and layer pattern let a module through that a role selects."""
    pattern = config.layers_pattern
    asked = SimpleNamespace(
        exclude_modules=config.exclude_modules,
        modules_to_save=config.modules_to_save,
        target_modules={name.rpartition(".")[2]},
        target_parameters=None,
        layers_to_transform=config.layers_to_transform if pattern else None,
        layers_pattern=pattern,
    )
    found = tuners_utils.check_target_module_exists(asked, name)
    return bool(found) and not _is_exclusion(found)


def _is_exclusion(found: object) -> bool:
    return type(found).__name__ == "_ExcludedModule"


def targets(config: LoraConfig, model: nn.Module) -> list[str]:
    """The names of the modules that PEFT's ``target_modules`` selects, in the model's order."""
    asked = copy(config)
    among = _keys(model)
    if isinstance(config.target_modules, str) and config.target_modules.lower() == "all-linear":
        asked = tuners_utils._maybe_include_all_linear_layers(asked, model)
        asked.target_modules = set(asked.target_modules) - set(_routers(model))
        # A layer at the top is the end of other modules' names too (wav2vec2's feature_extractor).
        among = [name for name in among if name in asked.target_modules]
    if isinstance(asked.target_modules, list | tuple):
        asked.target_modules = set(asked.target_modules)
    found = [(name, tuners_utils.check_target_module_exists(asked, name)) for name in among]
    names = [name for name, result in found if result and not _is_exclusion(result)]
    routers = set(names) & set(_routers(model))
    if routers:
        asked = f"target_modules={config.target_modules!r}"
        raise UserError(_ROUTER_ASKED.format(asked, min(routers)))
    if not names:
        raise UserError(
            f"target_modules={config.target_modules!r} selects no module of this "
            f"{type(model).__name__} (with exclude_modules, modules_to_save and "
            "layers_to_transform as they are)"
        )
    return names


def targeted_parameters(model: nn.Module, config: LoraConfig) -> dict[str, list[str]]:
    """The parameters that PEFT's ``target_parameters`` selects, by their module, in its order.

    Raises:
        UserError: an entry selects none, or the weights of a router.
    """
    found: dict[str, list[str]] = {}
    routers, unused = _routers(model), set(config.target_parameters)
    for name in _keys(model):
        module = base_layer(model.get_submodule(name))
        for parameter, _ in module.named_parameters(recurse=False):
            fitting = {t for t in config.target_parameters if _selects([t], f"{name}.{parameter}")}
            unused -= fitting
            if fitting and name in routers:
                raise UserError(_ROUTER_ASKED.format(f"target_parameters={min(fitting)!r}", name))
            if fitting:
                found.setdefault(name, []).append(parameter)
    if unused:
        raise UserError(
            f"target_parameters: no parameter is named {min(unused)!r} or ends with it in this "
            f"{type(model).__name__}"
        )
    return found


@lru_cache
def _knows_transposed() -> bool:
    """Whether PEFT takes a parameter for (E, m, n) unless its module says it is transposed.

    Before 0.20 it takes all for (E, n, m).
    """
    holder = nn.Module()
    holder.weight = nn.Parameter(torch.zeros(2, 1, 3))
    with torch.random.fork_rng(devices=[]):
        tiny = LoraModel(
            nn.ModuleDict({"experts": holder}),
            LoraConfig(r=1, target_modules=[], target_parameters=["experts.weight"]),
            "default",
        )
    return bool(lora_layer(tiny.model, "experts").lora_A["default"].in_features == 3)


def takes_as_transposed(module: nn.Module) -> bool:
    """Whether PEFT takes a module's stacks of experts for (E, n, m), with W m x n in y = W x."""
    return bool(getattr(module, "is_transposed", False)) if _knows_transposed() else True


def _keys(model: nn.Module) -> list[str]:
    """Names of all modules but those inside of PEFT's layers."""
    inside: list[str] = []
    found = []
    for name, module in model.named_modules():
        if not name or any(name.startswith(prefix) for prefix in inside):
            continue
        if isinstance(module, BaseTunerLayer):
            inside.append(f"{name}.")
        found.append(name)
    return found


_ROUTER = re.compile(r"(^|\.)router(\.|$)")
_GATE = re.compile(r"(^|\.)(gate|shared_expert_gate|wg)(\.|$)")  # a router if beside experts


def _routers(model: nn.Module) -> list[str]:
    """Modules that choose experts, by their names."""
    names = [name for name, _ in model.named_modules()]
    blocks = {name.rpartition(".experts")[0] for name in names if ".experts" in name}
    return [
        name
        for name in names
        if _ROUTER.search(name)
        or ((found := _GATE.search(name)) and name[: found.start()] in blocks)
    ]


_ROUTER_ASKED = (
    "{}: {} is a router, which chooses experts and is not adapted; leave it out, or train it whole "
    "with modules_to_save"
)


def selecting(model: nn.Module, names: Collection[str]) -> list[str] | str:
    """The shortest ``target_modules`` that select just these modules.

    Last parts of the names ("query"), else full names; a regular expression where a full name is
    also the end of another module's.
    """
    keys, wanted = _keys(model), set(names)
    for entries in ({name.rpartition(".")[2] for name in names}, wanted):
        if {key for key in keys if _selects(entries, key)} == wanted:
            return sorted(entries)
    return "|".join(re.escape(name) for name in sorted(wanted))


def _selects(entries: Collection[str], key: str) -> bool:
    return key in entries or any(key.endswith(f".{entry}") for entry in entries)


def pattern(
    values: Mapping[str, T], common: T, among: Collection[str] | None = None
) -> dict[str, T]:
    """The shortest ``rank_pattern`` or ``alpha_pattern`` that gives each module its value.

    Its keys fit no other module, of those in ``among`` if they are given.
    """
    special: dict[T, list[str]] = {}
    for name, value in values.items():
        if value != common:
            special.setdefault(value, []).append(name)
    every = values if among is None else among
    return {key: value for value, names in special.items() for key in _fitting(names, every)}


def _fitting(names: Iterable[str], adapted: Iterable[str]) -> list[str]:
    wanted, every = set(names), list(adapted)
    last = sorted({name.rpartition(".")[2] for name in wanted})
    if {name for name in every if any(pattern_fits(key, name) for key in last)} == wanted:
        return last
    return [
        name if [n for n in every if pattern_fits(name, n)] == [name] else f"^{re.escape(name)}"
        for name in sorted(wanted)
    ]


def pattern_fits(key: str, name: str) -> bool:
    """Whether a key of ``rank_pattern`` or ``alpha_pattern`` is for the module of that name."""
    # PEFT answers the name itself where no key fits, so a key that is the name fits either way.
    return bool(other.get_pattern_key([key], name) == key)


def from_pattern(values: Mapping[str, T] | None, name: str, default: T) -> T:
    """A module's value of a pattern, by PEFT's rule, or the default."""
    return (values or {}).get(other.get_pattern_key(list(values or {}), name), default)


# --- PEFT's layers ---------------------------------------------------------------------------


def lora_layers(model: nn.Module, adapter: str) -> dict[str, LoraLayer]:
    """The layers that the adapter has linear factors in, by name, of a model without wrapper."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
    }


def lora_layer(model: nn.Module, name: str) -> LoraLayer:
    """The LoRA layer that PEFT put around the module of that name."""
    return cast(LoraLayer, model.get_submodule(name))


def weight_of(layer: LoraLayer) -> Any:
    """The weight that a LoRA layer adapts: a layer's, or a parameter."""
    if isinstance(layer, ParamWrapper):
        return layer.get_param()
    return layer.get_base_layer().weight


def is_merged(model: nn.Module) -> bool:
    """Whether any adapter is merged into the weights."""
    return any(isinstance(layer, BaseTunerLayer) and layer.merged for layer in model.modules())


def merged_adapters(model: nn.Module) -> set[str]:
    """The adapters that are merged into the weights of every layer they have."""
    merged: set[str] = set()
    left_out: set[str] = set()
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            merged |= set(layer.merged_adapters)
            left_out |= set(layer.lora_A) - set(layer.merged_adapters)
    return merged - left_out


def base_layer(module: nn.Module) -> nn.Module:
    """The layer that PEFT wrapped, or the module itself."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


@lru_cache
def saves_lora_only_biases() -> bool:
    """Whether the biases that ``bias="lora_only"`` trains are saved; before PEFT 0.21 they are not.

    The caller's random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        tiny = LoraModel(
            nn.ModuleDict({"layer": nn.Linear(1, 1)}),
            LoraConfig(target_modules=["layer"], bias="lora_only"),
            "default",
        )
    return any(name.endswith("bias") for name in get_peft_model_state_dict(tiny))


# --- Where this library steps in -------------------------------------------------------------

Original = Callable[..., Any]


def around(owner: type, name: str, replacement: Callable[..., Any]) -> None:
    """Call ``replacement(original, self, ...)`` in place of a method; once per process.

    A method that `_NEEDED` does not list may be missing: then nothing happens.
    """
    original = getattr(owner, name, None)
    if original is None or getattr(original, "_ailora", False):
        return

    @wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return replacement(original, self, *args, **kwargs)

    method._ailora = True  # type: ignore[attr-defined]
    setattr(owner, name, method)


def argument(method: Original, name: str, self: Any, args: Any, kwargs: Any) -> Any:
    """What a call of a method gives for a parameter, or its default."""
    given = inspect.signature(method).bind(self, *args, **kwargs)
    given.apply_defaults()
    return given.arguments[name]


__all__ = [
    "ADDING_CASTS",
    "BaseTunerLayer",
    "LoraLayer",
    "LoraModel",
    "MixedModel",
    "ParamWrapper",
    "argument",
    "around",
    "base_layer",
    "from_pattern",
    "is_merged",
    "keeps",
    "lora_layer",
    "lora_layers",
    "merged_adapters",
    "pattern",
    "pattern_fits",
    "saves_lora_only_biases",
    "selecting",
    "takes_as_transposed",
    "targeted_parameters",
    "targets",
    "weight_of",
]


def is_called_by(name: str) -> bool:
    """Whether a function of that name is being called.

    PEFT's `reduce_intruder_dimension` adds an adapter as TRL does, by a config of the model, but
    then writes factors of its own into it.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == name:
            return True
    return False
