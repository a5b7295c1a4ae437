"""What the runs of one process need not compute again: outputs of the base model they start from.

Runs of one seed have the same base model and the same new head, and the starts that are exact
compute at step 0 what that computes. Everything here is found by its content, a hash of all that
an output depends on; so nothing that one run does can change what the next one gets.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

_MOST = 64 * 2**20  # bytes kept; the logits of a decoder's batch can be more, and are not
_ENTRIES = 512


class Shared:
    """Outputs by content, the least recently asked for forgotten first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._bytes = 0

    def once(self, key: str | None, compute: Callable[[], T]) -> T:
        """What ``compute`` returns, or what it returned for this key before.

        What draws random numbers is computed each time, since those drawn after it depend on that.

        Args:
            key: Hash of all that the outcome depends on (`content`); None to compute it anyway.
            compute: Returns tensors, or tuples of them and None, without gradients.
        """
        if key is None:
            return compute()
        if key in self._kept:
            self._kept.move_to_end(key)
            return copy.deepcopy(self._kept[key])  # type: ignore[no-any-return]
        drawn = torch.get_rng_state()
        found = compute()
        if _size(found) <= _MOST and torch.equal(drawn, torch.get_rng_state()):
            self._keep(key, copy.deepcopy(found))
        return found

    def _keep(self, key: str, found: Any) -> None:
        self._kept[key] = found
        self._bytes += _size(found)
        while self._bytes > _MOST or len(self._kept) > _ENTRIES:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def content(*parts: Any) -> str:
    """Hash of some values: of tensors the name, type, shape and every byte, of others the text.

    Args:
        parts: Texts, numbers, and mappings or models with tensors by name.
    """
    digest = hashlib.sha256()
    for part in parts:
        for name, value in _named(part):
            digest.update(f"{name} {type(value).__name__} ".encode())
            if isinstance(value, Tensor):
                digest.update(f"{value.dtype} {tuple(value.shape)} {value.device} ".encode())
                flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(flat.numpy().data)
            else:
                digest.update(repr(value).encode())
    return digest.hexdigest()


def of_model(model: nn.Module) -> str | None:
    """Hash of all that a model computes with, and of the number of threads: sums depend on it.

    None where that is not sure to be cheaper than computing: away from the processor, or with
    tensors of another kind than torch's own, such as quantised ones.
    """
    return _hash_of(model, model.state_dict())


def of_start(model: nn.Module) -> str | None:
    """Hash of what a model computes with at step 0; None unless it is what its base computes.

    It is where each rank of each pair of factors has a side of zeros, as LoRA's and the anchored
    starts have: then the update is exactly zero in any precision, whatever the other side holds.
    """
    if not _is_exact(model):
        return None
    base = {name: x for name, x in model.state_dict().items() if ".lora_" not in name}
    return _hash_of(model, base)


@torch.no_grad()
def _is_exact(model: nn.Module) -> bool:
    if not isinstance(model, PeftModel) or model.active_adapters != ["default"]:
        return False
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return bool(layers) and all(map(_adds_zero, layers))


def _adds_zero(layer: LoraLayer) -> bool:
    # Of other layers, and of PEFT's variants such as DoRA, it is not known.
    plain = type(layer) is Linear and list(layer.lora_A) == ["default"] and not layer.merged
    if not plain or layer.lora_variant or layer.lora_bias["default"]:
        return False
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    finite = A.isfinite().all() and B.isfinite().all()
    return bool(finite and ((A == 0).all(dim=1) | (B == 0).all(dim=0)).all())


def _hash_of(model: nn.Module, tensors: Mapping[str, Any]) -> str | None:
    kinds = {(type(x), x.device.type) for x in tensors.values() if isinstance(x, Tensor)}
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if kinds != {(Tensor, "cpu")} or not hasattr(inner, "config"):
        return None
    made_of = f"{type(inner).__qualname__} {inner.config.to_json_string(use_diff=False)}"
    return content(made_of, torch.get_num_threads(), tensors)


def _named(part: Any) -> Iterable[tuple[str, Any]]:
    return sorted(part.items()) if hasattr(part, "items") else [("", part)]


def _size(value: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tree_leaves(value) if isinstance(x, Tensor))
