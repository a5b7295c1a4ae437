"""A new adapter on its way into a model: checked, then attached around PEFT's own injection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ailora.adapters import folding, peft_conversion, peft_insides
from ailora.adapters.compatibility import check_compatible, check_diffusers, keep_gradients
from ailora.adapters.config import AILoRAConfig, check_fields
from ailora.adapters.factors import Block, ExpertFactor, Factor, cut, joined
from ailora.adapters.fingerprints import Base
from ailora.adapters.peft_insides import LoraLayer, LoraModel, ParamWrapper
from ailora.adapters.record import Record, Sketch, StartedConfig, alpha_of
from ailora.adapters.selection import Selection, select
from ailora.adapters.starting_factors import OnWeight, make_factors
from ailora.adapters.starts import STARTS, Factors
from ailora.errors import UserError
from ailora.roles import Projection
from ailora.roles.architectures import attention_of, layer_of, stack_of
from ailora.roles.experts import ExpertProjection


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What this library's own calls ask for beside the config; PEFT's calls ask for nothing.

    Attributes:
        factors: Starting factors by projection, in place of those the roles would make.
        fold: Whether ``anchored=False`` takes the start out of the weights; a checkpoint's files
            have it taken out already.
        on_progress: See `ailora.adapters.starting_factors.make_factors`.
        autocast_adapter_dtype: As in PEFT, for a PEFT whose `add_adapter` does not take it.
    """

    factors: Mapping[str, Factors] | None = None
    fold: bool = True
    on_progress: OnWeight | None = None
    autocast_adapter_dtype: bool = False


# PEFT adds the heads of these two tasks to the caller's config after the injection.
HEADS_ADDED_LATE = {"QUESTION_ANS": ["qa_outputs"], "TOKEN_CLS": ["classifier", "score"]}


def check_room(model: nn.Module, adapter: str) -> None:
    """Raise a UserError if no adapter of that name fits on the weights of a model as they are."""
    if not adapter or "." in adapter:
        raise UserError(f"adapter_name={adapter!r}: must be a name without dots")
    if peft_insides.is_merged(model):
        raise UserError("an adapter is merged into this model's weights; unmerge_adapter() first")
    folding.check_whole(model)


def check_targets(
    model: nn.Module, targets: Collection[str] | str, parameters: Collection[str] | None = None
) -> None:
    """Refuse targets that PEFT would rewrite for this model, here and in every later load."""
    if not peft_conversion.stays(model, targets, parameters):
        raise UserError(
            f"PEFT would rewrite the target_modules {targets!r} of the saved adapter for this "
            f"{type(model).__name__}, and adapt other modules; choose fewer of them"
        )


class NewAdapter:
    """One start of one model: `check` reads and refuses, `install` writes."""

    def __init__(
        self, model: nn.Module, adapter: str, config: AILoRAConfig, existing: Mapping[str, Any]
    ) -> None:
        self.model, self.adapter, self.config, self.existing = model, adapter, config, existing
        self.wanted: Wanted = config.__dict__.pop("_wanted", None) or Wanted()
        self.selection: Selection
        self.factors: dict[str, Factors]
        self.started: StartedConfig

    def check(self, *, low_cpu_mem_usage: bool) -> None:
        """Find what is to be adapted and its factors; the model is only read.

        Raises:
            UserError: whatever does not fit, see `get_peft_model`.
        """
        config = self.config
        config.check_values()
        check_fields(config)
        check_compatible(config)
        config.modules_to_save = self._modules_to_save()
        self._check_room()
        self.selection = select(self.model, config)
        check_diffusers(self.model, config, self.selection)
        if config.ensure_weight_tying:
            self._check_untied()
        if low_cpu_mem_usage:
            self._check_filled()
        if not config.anchored and self.wanted.fold:
            spectral = [one.projection for one in self.selection.chosen if one.is_spectral]
            folding.check_weights(self.model, spectral)
        keep_gradients(self.model)
        self.factors = self._make()
        self.started = self._stock()
        targets = self.started.target_modules
        check_targets(self.model, targets, self.started.target_parameters)

    def _check_untied(self) -> None:
        """Refuse what PEFT would adapt by the embedding's own factors: a start would untie them."""
        weights = Counter(id(module._parameters.get("weight")) for module in self.model.modules())
        for name in (*self.selection.layers, *self.selection.others):
            module = peft_insides.base_layer(self.model.get_submodule(name))
            weight = module._parameters.get("weight")
            if weight is not None and weights[id(weight)] > 1:
                raise UserError(
                    f"ensure_weight_tying=True: {name} shares its weight with another module, and "
                    "a start gives it factors of its own; leave it out of target_modules, or name "
                    "it in modules_to_save"
                )

    def _check_room(self) -> None:
        check_room(self.model, self.adapter)
        others = [name for name in self.existing if name != self.adapter]
        for name in others:
            init = getattr(self.existing[name], "init_lora_weights", None)
            if isinstance(init, str) and init.startswith(folding.CHANGE_THE_BASE):
                raise UserError(
                    f"adapter {name!r} was started by PEFT's {init!r}, which changes the base "
                    "weights; start on a model of its own"
                )
        if others and not self.config.anchored and self.config.is_spectral:
            raise UserError(
                "anchored=False would change the base weights under the adapters this model has; "
                "use anchored=True"
            )

    def _check_filled(self) -> None:
        """Refuse low_cpu_mem_usage where PEFT's own values would be needed and have no memory."""
        config = self.config
        if all(parameter.is_meta for parameter in self.model.parameters()):
            return  # nothing of the model has values
        if self.selection.others or config.target_parameters or config.use_dora or config.lora_bias:
            raise UserError(
                "low_cpu_mem_usage=True would leave what only PEFT gives values (DoRA's norms, "
                "biases, factors of what is no linear layer) without any; leave it out"
            )

    def _make(self) -> dict[str, Factors]:
        given = self.wanted.factors
        if given is None:
            return make_factors(self.selection, self.wanted.on_progress)
        return {one.projection.key: given[one.projection.key] for one in self.selection.chosen}

    def _stock(self) -> StartedConfig:
        """The stock config of the file to be, with what it remembers.

        ``init_lora_weights`` stays True: a saved "pissa" would run its SVD again at load and
        overwrite the base. Anchored factors have twice the rank, and an alpha that leaves PEFT's
        scale as it is; a fused layer has the sum of its roles' ranks.
        """
        config, layers = self.config, self.selection.layers
        scaling = {name: layer[0].scaling for name, layer in layers.items()}
        # By the names that PEFT looks up in its patterns: of a parameter not its wrapper's.
        ranks = {
            layer[0].projection.name: sum(one.block.width for one in layer)
            for layer in layers.values()
        }
        alphas: dict[str, float] = {
            layer[0].projection.name: alpha_of(
                layer[0].scaling, ranks[layer[0].projection.name], use_rslora=config.use_rslora
            )
            for layer in layers.values()
        }
        modules = [name for name, layer in layers.items() if not layer[0].is_of_parameter]
        others = {name: alpha for name, (_, alpha) in self.selection.others.items()}
        ranks |= {name: rank for name, (rank, _) in self.selection.others.items()}
        rank, alpha = self._common(ranks), self._common(alphas | others)
        if self.selection.parameters or not ranks:  # their rank is the config's own
            rank, alpha = config.r, config.lora_alpha or config.r
        stock = LoraConfig(
            **{
                name: getattr(config, name)
                for name in LoraConfig.__dataclass_fields__
                if name not in ("peft_type", "layers_to_transform", "layers_pattern")
            }
            | {
                "r": rank,
                "lora_alpha": alpha,
                "rank_pattern": self._rest("rank_pattern") | peft_insides.pattern(ranks, rank),
                # Apart, since the files leave out those of started layers.
                "alpha_pattern": self._rest("alpha_pattern")
                | peft_insides.pattern(alphas, alpha, among=ranks)
                | peft_insides.pattern(others, alpha, among=ranks),
                "target_modules": peft_insides.selecting(self.model, [*modules, *others]),
                "exclude_modules": None,
                "fan_in_fan_out": config.fan_in_fan_out or self._all_conv1d(),
            }
        )
        for name, value in vars(config).items():  # attributes that are not fields
            if name not in vars(stock) and name not in AILoRAConfig.__dataclass_fields__:
                setattr(stock, name, value)
        return StartedConfig.like(stock, self._record(scaling))

    def _rest(self, field: str) -> dict[str, Any]:
        """The entries of a pattern that are for parameters instead of modules."""
        names = [one.projection.name for one in self.selection.chosen]
        names += self.selection.others
        return {
            key: value
            for key, value in (getattr(self.config, field) or {}).items()
            if not any(peft_insides.pattern_fits(key, name) for name in names)
        }

    def _common(self, values: Mapping[str, Any]) -> Any:
        found = list(values.values())
        return max(dict.fromkeys(found), key=found.count, default=None)

    def _all_conv1d(self) -> bool:
        modules = [one.projection.module for one in self.selection.chosen]
        return bool(modules) and all(isinstance(module, Conv1D) for module in modules)

    def _modules_to_save(self) -> list[str] | None:
        """The caller's modules, and those that PEFT adds after the injection."""
        task = str(getattr(self.config.task_type, "value", self.config.task_type))
        names = [*(self.config.modules_to_save or []), *HEADS_ADDED_LATE.get(task, [])]
        return list(dict.fromkeys(names)) or None

    def _record(self, scaling: Mapping[str, float]) -> Record:
        anchors: dict[str, Tensor] = {}
        sketches: dict[str, Sketch] = {}
        within: dict[str, float] = {}
        for one in self.selection.chosen:
            if not one.is_spectral:
                continue
            made, key = self.factors[one.projection.key], one.projection.key
            if not one.anchored:
                weight = one.projection.weight()
                within[key] = folding.inner(made.A, made.B, one.scaling, weight)
            for letter, matrix in (("A", made.A), ("B", made.B)):
                if one.anchored:
                    sketches[f"{key}.{letter}"] = Sketch.of(matrix)
                else:
                    anchors[f"{key}.{letter}"] = matrix.detach().cpu().contiguous()
        return Record(
            origin=self.config,
            layers={n: tuple(o.block for o in layer) for n, layer in self.selection.layers.items()},
            scaling=scaling,
            anchors=anchors,
            sketches=sketches,
            within=within,
            base=Base.of(
                self.model,
                dict.fromkeys(one[0].projection.name for one in self.selection.layers.values()),
            ),
        )

    def install(self, tuner: LoraModel) -> None:
        """Put the factors into the layers that PEFT made, and fold them into the base."""
        self._check_layers()
        self.fill()
        record = self.started.record
        assert record is not None  # noqa: S101
        if record.is_folded and self.wanted.fold:
            self._fold(record)
        else:
            tuner.__dict__["_ailora_pending"] = self

    def _check_layers(self) -> None:
        """Raise a UserError if PEFT adapted modules that were not selected."""
        layers = peft_insides.lora_layers(self.model, self.adapter)
        made = {
            name if isinstance(layer, ParamWrapper) else name.replace(".base_layer", "")
            for name, layer in layers.items()
        }
        chosen = self.selection
        more = made - {*chosen.layers, *chosen.others, *chosen.parameters}
        if more:
            raise UserError(
                f"PEFT adapted {min(more)}, which was not asked for (nor {len(more) - 1} others): "
                "the model is not to be used; name the modules by a regular expression in "
                "target_modules"
            )

    def fill(self) -> None:
        """Set every layer's factors to the start, in the dtype that PEFT gave the adapter."""
        ratios = self.started.ratios()
        for name, chosen in self.selection.layers.items():
            layer = peft_insides.lora_layer(self.model, name)
            like = layer.lora_A[self.adapter].weight
            # low_cpu_mem_usage leaves PEFT's factors without memory.
            device = peft_insides.weight_of(layer).device if like.is_meta else like.device
            parts = [self.factors[one.projection.key] for one in chosen]
            A, B = joined(
                [(f.A.to(device, like.dtype), f.B.to(device, like.dtype)) for f in parts],
                [one.block for one in chosen],
                layer.out_features,
            )
            _put(layer, self.adapter, A, B, [one.block for one in chosen])
            layer.lora_B[self.adapter].file_ratio = ratios.get(name, 1.0)
            anchors = [f.A for f, one in zip(parts, chosen, strict=True) if one.anchored]
            if anchors:
                anchor = torch.cat(anchors, dim=-2).to(device, like.dtype)
                layer.lora_A[self.adapter].anchor = anchor

    def _fold(self, record: Record) -> None:
        """Take the start out of W as the factors hold it, after rounding to their dtype."""
        held: dict[str, Tensor] = {}
        for name, blocks in record.layers.items():
            layer = peft_insides.lora_layer(self.model, name)
            A, B = (m[self.adapter].weight.detach() for m in (layer.lora_A, layer.lora_B))
            for block, part in zip(blocks, cut(A, B, blocks), strict=True):
                if not STARTS[block.init].zero:
                    held[f"{block.key(name)}.A"] = part.A.detach().cpu().clone()
                    held[f"{block.key(name)}.B"] = part.B.detach().cpu().clone()
        record.anchors = held
        record.sketches = {key: Sketch.of(anchor) for key, anchor in held.items()}
        found = {one.projection.key: one.projection for one in self.selection.chosen}
        folding.fold(found, record, self.adapter)


def _put(layer: LoraLayer, adapter: str, A: Tensor, B: Tensor, blocks: Sequence[Block]) -> None:
    sides: tuple[tuple[Any, Tensor, Literal["A", "B"]], ...] = (
        (layer.lora_A, A, "A"),
        (layer.lora_B, B, "B"),
    )
    kind = Factor if blocks[0].parameter is None else ExpertFactor
    for modules, matrix, side in sides:
        modules[adapter] = kind.over(modules[adapter], matrix, blocks, side)


@torch.no_grad()
def put_blocks(
    model: nn.Module, adapter: str, config: StartedConfig, source: str | None = None
) -> None:
    """Make PEFT's plain factors those of a record; with the start that ``source`` has, if given."""
    record, ratios = config.record, config.ratios()
    assert record is not None  # noqa: S101
    for name, blocks in record.layers.items():
        layer = peft_insides.lora_layer(model, name)
        A, B = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        if source is not None:
            A, B = _start_of(layer, source, record, name, A, B)
        _put(layer, adapter, A.detach(), B.detach(), blocks)
        layer.lora_B[adapter].file_ratio = ratios.get(name, 1.0)


def _start_of(
    layer: LoraLayer, source: str, record: Record, name: str, A: Tensor, B: Tensor
) -> tuple[Tensor, Tensor]:
    """A' and B' where ``source`` began; plain LoRA parts as PEFT made them (A, B)."""
    blocks = record.layers[name]
    theirs = cut(layer.lora_A[source].weight, layer.lora_B[source].weight, blocks)
    ours = cut(A, B, blocks)
    parts = []
    for block, part, fresh in zip(blocks, theirs, ours, strict=True):
        key = block.key(name)
        if part.A0 is not None and part.B0 is not None:
            parts.append((part.A0.to(A), part.B0.to(B)))
        elif f"{key}.A" in record.anchors:
            parts.append((record.anchors[f"{key}.A"].to(A), record.anchors[f"{key}.B"].to(B)))
        else:
            parts.append((fresh.A.to(A), fresh.B.to(B)))
    return joined(parts, blocks, layer.out_features)


def projections(model: nn.Module, record: Record) -> dict[str, Projection]:
    """The record's projections in a model without wrapper, by key."""
    found = {}
    for name, blocks in record.layers.items():
        owner = name if blocks[0].parameter is None else name.replace(".base_layer", "")
        module = peft_insides.base_layer(model.get_submodule(owner))
        for block in blocks:
            fields: dict[str, Any] = {
                "name": block.name(name),
                "role": block.role,
                "layer": layer_of(name),
                "stack": stack_of(name),
                "rows": block.rows,
                "module": module,
            }
            found[block.key(name)] = (
                Projection(attention=attention_of(name), **fields)
                if block.parameter is None
                else ExpertProjection(
                    parameter=block.parameter,
                    transposed=peft_insides.takes_as_transposed(module),
                    **fields,
                )
            )
    return found


@contextmanager
def seeded() -> Iterator[None]:
    """Torch's random numbers as after ``torch.manual_seed(0)``, so that random starts repeat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
