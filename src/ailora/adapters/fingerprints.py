"""What an adapter remembers of its base: enough to notice another model, or a later fine-tune.

The fingerprint of a weight W (m, n) is its norm and a few numbers u^T W v with fixed signs u and v:
a change E of W moves each by about ||E||. They are also kept of W rounded to bf16 and fp16, so that
a model that was cast is known to the last digits, without a tolerance that a short training would
fit into. Quantised weights need one, below which nothing can be told.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ailora.errors import UserError
from ailora.roles.projection import is_in_pieces, is_packed, is_quantised, matrix_of

logger = logging.getLogger(__name__)

_NUMBERS = 4  # per form of a weight
_BLOCK_ROWS = 64  # some MB of a 4096-wide weight: stays in the processor's own memory
_AS_IT_IS = "as_it_is"
_ROUNDED: Mapping[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# Sums in fp64 in another order, on another device, and digits in the file.
EXACT = 1e-6
# What storing W so may move, relative to ||W||: four times the usual error of a rounded entry,
# since the largest of hundreds of numbers is asked for.
_MAY_MOVE = {"4-bit": 0.5, "8-bit": 0.15, "quantised": 0.5}
_TWO_ROUNDINGS = 0.01  # bf16 beside fp16 of one model


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Of one weight.

    Attributes:
        shape: (m, n) of W in y = W x.
        dtype: ``"float32"``, ``"bfloat16"``, ...; ``"4-bit"``, ``"8-bit"`` or ``"quantised"``.
        norm: ||W||_F.
        numbers: u_i^T W v_i for W as it is, and rounded to the 16-bit types by their names.
    """

    shape: tuple[int, int]
    dtype: str
    norm: float
    numbers: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far a weight is from the one that is remembered.

    Attributes:
        moved: The change's size over ||W||, estimated; infinite for another shape.
        tolerance: What the two data types explain.
    """

    moved: float
    tolerance: float

    @property
    def differs(self) -> bool:
        """Whether this is another weight."""
        return not self.moved <= max(self.tolerance, EXACT)

    @property
    def is_unclear(self) -> bool:
        """Whether the data types hide what training may have changed."""
        return not self.differs and self.moved > EXACT


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that an adapter was started on.

    Attributes:
        model_type: As its config says it (``"llama"``); empty if it does not.
        layers: Fingerprints of the adapted layers, by name, in the model's order; of a stack of
            experts by the parameter's name, with all of them below one another.
    """

    model_type: str = ""
    layers: Mapping[str, Fingerprint]

    @classmethod
    def of(cls, model: nn.Module, names: Iterable[str]) -> Base:
        """Of a model and what an adapter is for; what has no values to read is left out.

        Args:
            model: With or without adapters.
            names: Of layers, and of parameters that are stacks of experts.
        """
        found = {}
        for name in _reported(tuple(names), "remembering the base"):
            stored = _stored(model, name)
            made = None if stored is None else fingerprint(stored.matrix(), stored.dtype)
            if made is not None:
                found[name] = made
        return cls(model_type=_type_of(model), layers=found)

    def renamed(self, names: Mapping[str, str]) -> Base:
        """The same under the names that a newer transformers has for the layers."""
        layers = {names.get(name, name): one for name, one in self.layers.items()}
        return replace(self, layers=layers)

    def as_json(self) -> dict[str, Any]:
        """What the marker says."""
        return {
            "model_type": self.model_type,
            "layers": {
                name: {
                    "shape": list(one.shape),
                    "dtype": one.dtype,
                    "norm": one.norm,
                    "numbers": {form: list(numbers) for form, numbers in one.numbers.items()},
                }
                for name, one in self.layers.items()
            },
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Base:
        """The reverse of `as_json`."""
        return cls(
            model_type=str(stored["model_type"]),
            layers={name: _fingerprint(one) for name, one in stored["layers"].items()},
        )


def _fingerprint(stored: Mapping[str, Any]) -> Fingerprint:
    rows, columns = stored["shape"]
    numbers = {form: tuple(map(float, some)) for form, some in stored["numbers"].items()}
    norm = float(stored["norm"])
    if not all(map(math.isfinite, (norm, *(one for some in numbers.values() for one in some)))):
        raise ValueError("a fingerprint of its base is not finite")
    return Fingerprint(
        shape=(int(rows), int(columns)), dtype=str(stored["dtype"]), norm=norm, numbers=numbers
    )


@torch.no_grad()
def fingerprint(
    weight: Tensor, dtype: str | None = None, *, rounded: bool = True
) -> Fingerprint | None:
    """The fingerprint of W (m, n), on W's device, in fp64; None if W holds NaN or infinity.

    Args:
        weight: W, floating-point.
        dtype: How it is stored, where that is not its own data type.
        rounded: Whether numbers of W rounded to 16 bits are wanted as well.
    """
    forms = {name: d for name, d in _ROUNDED.items() if rounded and d != weight.dtype}
    columns = _on_device_of(weight, _signs(weight.shape[1], 1))
    sums = {name: columns.new_zeros(_NUMBERS) for name in (_AS_IT_IS, *forms)}
    square = columns.new_zeros(())
    rows = _on_device_of(weight, _signs(weight.shape[0], 2))
    for start in range(0, weight.shape[0], _BLOCK_ROWS):
        block, u = weight[start : start + _BLOCK_ROWS], rows[start : start + _BLOCK_ROWS]
        whole = block.to(columns)
        square += (whole * whole).sum()
        sums[_AS_IT_IS] += ((whole @ columns) * u).sum(0)
        for name, form in forms.items():
            sums[name] += ((block.to(form).to(columns) @ columns) * u).sum(0)
    norm = _short(math.sqrt(float(square)))
    if not math.isfinite(norm):
        return None
    numbers = {name: tuple(map(_short, total.tolist())) for name, total in sums.items()}
    return Fingerprint(
        shape=(weight.shape[0], weight.shape[1]),
        dtype=dtype or _name(weight.dtype),
        norm=norm,
        # fp16 has no numbers above 65504
        numbers={name: one for name, one in numbers.items() if all(map(math.isfinite, one))},
    )


def compare(remembered: Fingerprint, found: Fingerprint) -> Comparison:
    """How far a weight is from the one that is remembered, whatever both were cast to."""
    if remembered.shape != found.shape:
        return Comparison(moved=math.inf, tolerance=0.0)
    size = remembered.norm or found.norm
    if size == 0:
        return Comparison(moved=0.0, tolerance=0.0)
    moved = min(
        (
            max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / size
            for ours in remembered.numbers.values()
            for theirs in found.numbers.values()
            if len(ours) == len(theirs) == _NUMBERS
        ),
        default=math.inf,
    )
    return Comparison(moved=moved, tolerance=_tolerance(remembered, found))


def compare_weight(remembered: Fingerprint, weight: Tensor, dtype: str | None = None) -> Comparison:
    """`compare` with W (m, n); rounds it only where W as it is does not settle it."""
    found = fingerprint(weight, dtype, rounded=False)
    if found is None:
        return Comparison(moved=math.inf, tolerance=0.0)
    told = compare(remembered, found)
    if told.moved <= EXACT or remembered.shape != found.shape:
        return told
    found = fingerprint(weight, dtype)
    return told if found is None else compare(remembered, found)


def check_base(base: Base, model: nn.Module, folder: Path, *, force: bool) -> None:
    """See whether a model is the one that an adapter was started on.

    Args:
        base: What the adapter remembers; layers that are not remembered are not looked at.
        model: Without PEFT's wrapper.
        folder: The adapter's, for messages.
        force: Log a warning where a UserError would be raised.

    Raises:
        UserError: it is another, or was trained since.
    """
    why = _other_type(base, model) or _other_weights(base, model)
    if why is None:
        return
    if not force:
        raise UserError(
            f"{folder}: {why}; load it into the model it was started on, or give force=True to "
            "load it all the same"
        )
    logger.warning("%s: %s; loaded all the same (force=True)", folder, why)


def _other_type(base: Base, model: nn.Module) -> str | None:
    found = _type_of(model)
    if base.model_type and found and base.model_type != found:
        return f"was started on a model of type {base.model_type!r}, and this is {found!r}"
    return None


def _other_weights(base: Base, model: nn.Module) -> str | None:
    unclear = None
    for name in _reported(tuple(base.layers), "comparing the base"):
        stored = _stored(model, name)
        if stored is None:
            unclear = unclear or name
            continue
        told = compare_weight(base.layers[name], stored.matrix(), stored.dtype)
        if told.differs:
            return "was started on another base model, or this one was trained since: " + said(
                told, name
            )
        if told.is_unclear:
            unclear = unclear or name
    if unclear:
        logger.warning(
            "cannot tell whether this is the very base that the adapter was started on: it was "
            "remembered in %s, and %s is stored otherwise here; only another model would show",
            base.layers[unclear].dtype,
            unclear,
        )
    return None


def said(told: Comparison, layer: str) -> str:
    """One phrase about a layer that differs."""
    if math.isinf(told.moved):
        return f"{layer} has another shape or no finite values"
    return f"{layer} is the first layer that differs (by about {told.moved:.1g} of its size)"


def _type_of(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", None) or "")


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A weight of a model, and how it is stored."""

    dtype: str
    matrix: Callable[[], Tensor]


def _stored(model: nn.Module, name: str) -> _Stored | None:
    """A layer's weight, or a stack of experts, by name; None where its values cannot be read."""
    owner, _, last = name.rpartition(".")
    parameter = _layer(model, owner)._parameters.get(last)
    if parameter is not None:
        if parameter.is_meta or is_in_pieces(parameter):
            return None
        return _Stored(dtype=_name(parameter.dtype), matrix=lambda: as_matrix(parameter))
    module = _layer(model, name)
    weight: Any = module.weight
    if weight.is_meta or is_packed(module):
        return None
    return _Stored(dtype=_dtype(module), matrix=lambda: matrix_of(module))


def as_matrix(stack: Tensor) -> Tensor:
    """A stack of experts (E, m, n), as it is stored, as one matrix (E m, n)."""
    return stack.detach().flatten(0, -2)


def _layer(model: nn.Module, name: str) -> nn.Module:
    module = model.get_submodule(name)
    while isinstance(within := getattr(module, "base_layer", None), nn.Module):
        module = within
    return module


def _dtype(module: nn.Module) -> str:
    weight: Any = module.weight
    if not is_quantised(module):
        return _name(weight.dtype)
    if not type(weight).__module__.startswith("bitsandbytes."):
        return "quantised"
    return "4-bit" if hasattr(weight, "quant_state") else "8-bit"


def _tolerance(one: Fingerprint, other: Fingerprint) -> float:
    quantised = sum(_MAY_MOVE.get(f.dtype, 0.0) for f in (one, other))
    if quantised:
        return quantised
    grains = {_grain(one), _grain(other)}
    return _TWO_ROUNDINGS if grains == set(_ROUNDED) else 0.0


def _grain(found: Fingerprint) -> str:
    """The 16-bit type whose rounding leaves W as it is; else the data type."""
    for name in _ROUNDED:
        if found.dtype == name or found.numbers.get(name) == found.numbers.get(_AS_IT_IS):
            return name
    return found.dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _short(number: float) -> float:
    """Ten digits: as many as the comparison needs, and not the noise of threads."""
    return float(f"{number:.9e}")


def _on_device_of(weight: Tensor, signs: Tensor) -> Tensor:
    return signs if weight.device.type == "mps" else signs.to(weight.device)


@lru_cache(maxsize=16)
def _signs(count: int, seed: int) -> Tensor:
    """Fixed signs (count, _NUMBERS), fp64: the same on every machine, by integers alone."""
    x = np.arange(1, count * _NUMBERS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(seed * 0xD1B54A32D192ED03 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    bits = (x >> np.uint64(63)).astype(np.float64)
    return torch.from_numpy(2 * bits - 1).reshape(count, _NUMBERS)


def _reported(names: Sequence[str], doing: str) -> Iterator[str]:
    yield from tqdm(names, doing, unit="weight", delay=2, leave=False, disable=None)
