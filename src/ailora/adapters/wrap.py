"""How a start gets into a model: around PEFT's ``LoraModel.inject_adapter``.

Before PEFT makes its layers, the config becomes a stock one (a copy: the caller's is left alone)
with the modules, ranks and scales that the start needs; afterwards the factors are put in. Every
refusal comes before anything is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel

from ailora.adapters import folding, peft_insides
from ailora.adapters.attach import NewAdapter, Wanted, put_blocks
from ailora.adapters.config import AILoRAConfig, private_copy
from ailora.adapters.factors import ExpertFactor, Factor
from ailora.adapters.one_scale import in_one_scale, reading
from ailora.adapters.peft_insides import (
    ADDING_CASTS,
    BaseTunerLayer,
    LoraModel,
    MixedModel,
    ParamWrapper,
    argument,
    around,
    is_called_by,
)
from ailora.adapters.plain_names import plainly_named
from ailora.adapters.record import Record, StartedConfig, say_start
from ailora.adapters.starting_factors import OnWeight
from ailora.errors import UserError
from ailora.roles.projection import is_in_pieces

logger = logging.getLogger(__name__)


def get_peft_model(
    model: nn.Module,
    config: AILoRAConfig,
    adapter_name: str = "default",
    *,
    autocast_adapter_dtype: bool = True,
    on_progress: OnWeight | None = None,
) -> PeftModel:
    """``peft.get_peft_model``, which also adds to a PeftModel, and can report its progress.

    Args:
        model: A transformers model, or a PeftModel that gets one more adapter beside its own.
        config: What each role starts from.
        adapter_name: Name of the adapter in the PEFT model.
        autocast_adapter_dtype: As in PEFT: factors over fp16 or bf16 weights are kept in fp32;
            False gives them the base's dtype.
        on_progress: Called with the weights done, their number, and the name of the next one, in
            place of the progress bar that appears after two seconds.

    Returns:
        A stock ``peft.PeftModel``. `ailora.create_optimizer` gives the roles their rates.

    Raises:
        UserError: before the model is changed, if it has no such projections, a rank is too high,
            a weight holds NaN or Inf, the adapter's name is taken, 4-bit weights were packed for
            inference, or a field cannot be had with a start.
    """
    wanted = Wanted(on_progress=on_progress)
    return wrap(model, config, adapter_name, wanted, autocast_adapter_dtype=autocast_adapter_dtype)


def wrap(
    model: nn.Module,
    config: AILoRAConfig,
    adapter_name: str = "default",
    wanted: Wanted | None = None,
    *,
    autocast_adapter_dtype: bool = True,
) -> PeftModel:
    """`get_peft_model` for callers that bring factors of their own.

    Raises:
        UserError: as there.
    """
    if not isinstance(config, AILoRAConfig):
        raise UserError(
            f"config is a {type(config).__name__}: give an ailora.AILoRAConfig, "
            "or call peft.get_peft_model for PEFT's own configs"
        )
    given = private_copy(config)
    given._wanted = replace(wanted or Wanted(), autocast_adapter_dtype=autocast_adapter_dtype)
    if isinstance(model, peft.PeftMixedModel):
        raise UserError(_MIXED)
    if not isinstance(model, PeftModel):
        return peft.get_peft_model(
            model, given, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype
        )
    check_name_is_free(model, adapter_name)
    add_adapter(model, given, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype)
    return model


def check_name_is_free(model: nn.Module, adapter_name: str) -> None:
    """Raise a UserError if a model has an adapter of that name."""
    if isinstance(model, PeftModel) and adapter_name in model.peft_config:
        raise UserError(
            f"adapter_name={adapter_name!r}: this model has that adapter; choose another name"
        )


def add_adapter(
    model: PeftModel, config: LoraConfig, adapter_name: str, *, autocast_adapter_dtype: bool
) -> None:
    """Add an adapter to a PEFT model; the only one it has is the active one."""
    alone = not model.peft_config
    options = {"autocast_adapter_dtype": autocast_adapter_dtype} if ADDING_CASTS else {}
    model.add_adapter(adapter_name, config, **options)
    if alone:  # PEFT activates the first adapter of a new model only
        model.set_adapter(adapter_name)


# --- Around PEFT's methods -------------------------------------------------------------------


def _inject(
    original: Any,
    tuner: LoraModel,
    model: nn.Module,
    adapter_name: str,
    *args: Any,
    **kwargs: Any,
) -> None:
    config = tuner.peft_config[adapter_name]
    if not isinstance(config, LoraConfig):  # AdaLoRA and others that derive from it
        original(tuner, model, adapter_name, *args, **kwargs)
        return
    try:
        if isinstance(config, StartedConfig):
            config = _again(tuner, adapter_name, config)
        if isinstance(config, AILoRAConfig):
            if kwargs.get("state_dict") is not None:
                raise UserError(
                    "an AILoRAConfig starts a new adapter; to load a saved one, call "
                    "ailora.load_adapter(model, folder)"
                )
            start = NewAdapter(model, adapter_name, private_copy(config), tuner.peft_config)
            start.check(low_cpu_mem_usage=bool(kwargs.get("low_cpu_mem_usage")) or _makes_meta())
            tuner.peft_config[adapter_name] = start.started
            original(tuner, model, adapter_name, *args, **kwargs)
            start.install(tuner)
        elif isinstance(config, StartedConfig):
            tuner.peft_config[adapter_name] = config
            original(tuner, model, adapter_name, *args, **kwargs)
            put_blocks(model, adapter_name, config, _carrier(tuner, adapter_name, config))
        else:
            _refuse_beside_folded(tuner, model, adapter_name)
            original(tuner, model, adapter_name, *args, **kwargs)
            folding.mark_stock(model, adapter_name, config.init_lora_weights)
    except Exception:  # nothing of a start that failed stays behind
        if isinstance(config, AILoRAConfig | StartedConfig):
            tuner.peft_config.pop(adapter_name, None)
            if "_hf_peft_config_loaded" in vars(model) and not hasattr(model, "peft_config"):
                del model._hf_peft_config_loaded  # set by add_adapter, before it calls PEFT
        raise


def _makes_meta() -> bool:
    """Whether new modules get no memory, as inside accelerate's init_empty_weights."""
    return bool(nn.Linear(1, 1).weight.is_meta)


def _again(tuner: LoraModel, adapter: str, config: StartedConfig) -> LoraConfig:
    """What to do with a started adapter's config that is given to a model once more."""
    if config.record is None:  # made by dataclasses.replace
        if getattr(tuner, "_ailora_deriving", False):
            tuner.peft_config[adapter] = config.stock()
            return tuner.peft_config[adapter]
        raise UserError(
            "this config was made from that of a started adapter, whose rank and modules are "
            "those of its file; change the AILoRAConfig instead (config.record.origin) and give "
            "that"
        )
    if config.loading:
        return StartedConfig.like(config, config.record)
    if is_called_by("reduce_intruder_dimension"):
        tuner.peft_config[adapter] = config.stock()
        return tuner.peft_config[adapter]
    if _carrier(tuner, adapter, config) is not None:
        return StartedConfig.like(config, config.record)
    return config.record.origin  # another model: a start of its own


def _carrier(tuner: LoraModel, adapter: str, config: StartedConfig) -> str | None:
    """The adapter of this model that has the config's start."""
    assert config.record is not None  # noqa: S101
    if config.loading:
        return None
    carriers = (
        name
        for name, record in _records(tuner.peft_config).items()
        if name != adapter and record.key == config.record.key
    )
    return next(carriers, None)


def _refuse_beside_folded(tuner: LoraModel, model: nn.Module, adapter: str) -> None:
    """Raise a UserError for a stock adapter on a residual base: it would fit no other model."""
    if not _converting and any(
        r.is_folded for name, r in _records(tuner.peft_config).items() if name != adapter
    ):
        folding.check_whole(model)


def _cast(original: Any, tuner: LoraModel, adapter_name: str, *args: Any, **kwargs: Any) -> None:
    """PEFT keeps factors over 16-bit weights in fp32: then they start there, not rounded."""
    original(tuner, adapter_name, *args, **kwargs)
    pending = tuner.__dict__.pop("_ailora_pending", None)
    if pending is not None and pending.adapter == adapter_name:
        pending.fill()


def _add(
    original: Any,
    model: PeftModel,
    adapter_name: str,
    peft_config: Any,
    *args: Any,
    **kwargs: Any,
) -> None:
    """Where PEFT does not cast what it adds: as asked, and no later cast brings the start back."""
    original(model, adapter_name, peft_config, *args, **kwargs)
    if isinstance(peft_config, AILoRAConfig | StartedConfig):
        wanted = getattr(peft_config, "_wanted", None)
        autocast = wanted is not None and wanted.autocast_adapter_dtype
        model.base_model._cast_adapter_dtype(adapter_name, autocast)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _update(original: Any, layer: ParamWrapper, adapter_name: str, *a: Any, **k: Any) -> Any:
    """Where PEFT computes the update of a stack of experts, from its factors' weights.

    Not compiled: Dynamo reads past the property `ExpertFactor.weight`, to what has another
    gradient.
    """
    factors = [side[adapter_name] for side in (layer.lora_A, layer.lora_B)]
    factors = [factor for factor in factors if isinstance(factor, ExpertFactor)]
    for factor in factors:
        factor.in_update = True
    try:
        return original(layer, adapter_name, *a, **k)
    finally:
        for factor in factors:
            factor.in_update = False


def _unload(original: Any, tuner: LoraModel, *args: Any, **kwargs: Any) -> nn.Module:
    merge, adapter_names = (
        argument(original, name, tuner, args, kwargs) for name in ("merge", "adapter_names")
    )
    merged = set(adapter_names or tuner.active_adapters) if merge else set()
    merged |= peft_insides.merged_adapters(tuner.model)
    for name, record in _records(tuner.peft_config).items():
        if record.is_folded and name not in merged:
            raise UserError(
                f"adapter {name!r} is folded into the base weights (anchored=False): without it "
                "they are a residual and no model; merge_and_unload() it, or load the base anew"
            )
    whole: nn.Module = original(tuner, *args, **kwargs)
    if merged:
        folding.unmark(whole)
    return whole


def _delete(original: Any, tuner: LoraModel, adapter_name: str, *args: Any, **kwargs: Any) -> None:
    record = _records(tuner.peft_config).get(adapter_name)
    if record is not None and record.is_folded:
        others = _records(tuner.peft_config).items()
        if not any(n != adapter_name and r.key == record.key for n, r in others):
            raise UserError(
                f"adapter {adapter_name!r} is folded into the base weights (anchored=False): "
                "without it they are a residual and no model; load the base anew"
            )
    original(tuner, adapter_name, *args, **kwargs)


def _enable(original: Any, layer: BaseTunerLayer, enabled: bool, *args: Any, **kwargs: Any) -> None:
    if not enabled and folding.is_ours(peft_insides.base_layer(layer)):
        raise UserError(
            "an adapter is folded into the base weights (anchored=False): disabling it leaves a "
            "residual, not the pre-trained model that a reference must be; use anchored=True"
        )
    original(layer, enabled, *args, **kwargs)


def _disable(original: Any, tuner: LoraModel, *args: Any, **kwargs: Any) -> None:
    for name in _records(tuner.peft_config):
        bias = tuner.peft_config[name].bias
        if bias != "none" and tuner.training:
            raise UserError(
                f"bias={bias!r} trains the base's own biases, so the disabled adapter is no "
                "reference model; use bias='none'"
            )
    original(tuner, *args, **kwargs)


def _derive(original: Any, tuner: LoraModel, *args: Any, **kwargs: Any) -> None:
    """``add_weighted_adapter`` replaces fields of a config: what it makes is a stock adapter."""
    if any(record.is_folded for record in _records(tuner.peft_config).values()):
        raise UserError(
            "a folded adapter (anchored=False) cannot be weighted: its base is a residual that "
            "needs all of it; use anchored=True"
        )
    tuner._ailora_deriving = True
    try:
        original(tuner, *args, **kwargs)
    finally:
        tuner._ailora_deriving = False


_converting: list[PeftModel] = []


def _save(original: Any, model: PeftModel, *args: Any, **kwargs: Any) -> None:
    """In the files all modules have one scale, and no wrapper has left its name.

    While PEFT converts a folded adapter, it loads the start beside it for a moment; the scales of
    what it makes stay as they are.
    """
    if kwargs.get("state_dict") is None:
        _check_whole(model)
    with plainly_named(model, kwargs):
        if kwargs.get("path_initial_model_for_weight_conversion") is None:
            with in_one_scale(model, kwargs):
                original(model, *args, **kwargs)
            return
        _converting.append(model)
        try:
            original(model, *args, **kwargs)
        finally:
            _converting.pop()
    if any(config.alpha_pattern for config in model.peft_config.values()):
        logger.warning(
            "what PEFT converted keeps its scales in alpha_pattern, which vLLM and llama.cpp do "
            "not read: before serving it there, write it with one scale (ailora export FOLDER "
            "--out PLAIN)"
        )


def _check_whole(model: PeftModel) -> None:
    if any(isinstance(m, Factor) and is_in_pieces(m.weight) for m in model.modules()):
        raise UserError(
            "DeepSpeed ZeRO-3 holds the adapter in pieces, and save_pretrained would write empty "
            "tensors: call trainer.save_model (with stage3_gather_16bit_weights_on_model_save), or "
            "pass state_dict=accelerator.get_state_dict(model_wrapped)"
        )


def _save_with_model(original: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """The same where transformers saves the adapters that its own ``add_adapter`` made."""
    if not getattr(model, "_hf_peft_config_loaded", False):
        return original(model, *args, **kwargs)
    with plainly_named(model, kwargs), in_one_scale(model, kwargs):
        return original(model, *args, **kwargs)


def _load(
    original: Any, model: PeftModel, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any
) -> Any:
    """Files have one scale, the layers in memory each their own."""
    config = model.peft_config.get(adapter_name)
    if getattr(config, "record", None) is None or not config.ratios():
        return original(model, model_id, adapter_name, *args, **kwargs)
    names = ("subfolder", "revision", "cache_dir", "token", "local_files_only")
    where = {name: kwargs[name] for name in names if name in kwargs}
    files = LoraConfig.from_pretrained(model_id, **where)
    with reading(model, adapter_name, config.ratios(files)):
        return original(model, model_id, adapter_name, *args, **kwargs)


_MIXED = (
    "a PeftMixedModel mixes kinds of adapters and starts none: leave out mixed=True, or start from "
    "the plain model"
)


def _mixed(
    original: Any, tuner: MixedModel, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
) -> None:
    config = tuner.peft_config[adapter_name]
    if isinstance(config, AILoRAConfig) or getattr(config, "record", None) is not None:
        raise UserError(_MIXED)
    original(tuner, model, adapter_name, *args, **kwargs)


def _card(original: Any, model: PeftModel, output_dir: str, *args: Any, **kwargs: Any) -> None:
    """The model card says how an adapter started, also where Trainer or the hub write it anew."""
    original(model, output_dir, *args, **kwargs)
    for record in _records(model.peft_config).values():
        if not _converting:  # what PEFT converts to is a plain LoRA
            say_start(Path(output_dir) / "README.md", record)


def _upload(original: Any, model: PeftModel, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
    if _records(model.peft_config):
        model.create_or_update_model_card(working_dir)
    return original(model, working_dir, *args, **kwargs)


def _records(configs: Mapping[str, Any]) -> dict[str, Record]:
    """The records of a model's started adapters."""
    found = {name: getattr(config, "record", None) for name, config in configs.items()}
    return {name: record for name, record in found.items() if record is not None}


def step_in() -> None:
    """Step into PEFT's methods; once per process, when `AILoRAConfig` is imported."""
    around(LoraModel, "inject_adapter", _inject)
    around(LoraModel, "_cast_adapter_dtype", _cast)
    around(LoraModel, "_unload_and_optionally_merge", _unload)
    around(LoraModel, "delete_adapter", _delete)
    around(LoraModel, "disable_adapter_layers", _disable)
    around(BaseTunerLayer, "enable_adapters", _enable)
    around(ParamWrapper, "get_delta_factors", _update)
    around(ParamWrapper, "get_delta_weight", _update)
    around(LoraModel, "add_weighted_adapter", _derive)
    around(MixedModel, "inject_adapter", _mixed)
    if not ADDING_CASTS:
        around(PeftModel, "add_adapter", _add)
    around(PeftModel, "save_pretrained", _save)
    around(PreTrainedModel, "save_pretrained", _save_with_model)
    around(PeftModel, "load_adapter", _load)
    around(PeftModel, "create_or_update_model_card", _card)
    around(PeftModel, "_upload_modified_files", _upload)


__all__ = ["Wanted", "add_adapter", "check_name_is_free", "get_peft_model", "step_in", "wrap"]
