"""`tests.roles.probe` for diffusers: the role of each channel of attention by behaviour alone.

One channel of one layer is nudged at one position. With p = softmax(q k^T) of the block's call of
``scaled_dot_product_attention``, a *query* changes one row of p, a *key* several, a *value* none
but p v, and an *output* neither, but what the block returns.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ailora.roles.projection import shape_of

_POSITION, _NUDGE = 2, 2.0


@dataclass(kw_only=True)
class _Seen:
    inside: bool = False
    p: list[Tensor] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)
    given: list[Tensor] = field(default_factory=list)


class _Attention(TorchFunctionMode):
    """Keeps p and p v of every call while the block runs."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is scaled_dot_product_attention and self._seen.inside:
            query, key = (args + tuple((kwargs or {}).values()))[:2]
            self._seen.p.append(torch.softmax(query @ key.transpose(-1, -2), dim=-1))
            self._seen.read.append(result)
        return result


@torch.no_grad()
def observed(
    model: nn.Module, inputs: dict[str, Tensor], block: nn.Module, layer: nn.Module
) -> list[str]:
    """What each output channel of ``layer``, in a ``block`` of attention, is found to be.

    Args:
        model: In eval mode, with the default processors.
        inputs: Of one call; its first row is taken for all channels.
        block: Attention, which runs once per call.
        layer: One of its linear layers.
    """
    channels = shape_of(layer)[0]
    rows = {
        name: value if name.endswith("_ids") else value[:1].expand(channels, *value.shape[1:])
        for name, value in inputs.items()
    }
    before, after = (_run(model, rows, block, layer, nudge) for nudge in (0.0, _NUDGE))
    assert before.p and len(before.p) == len(after.p), "the block computed no attention"
    return [_kind(channel, before, after) for channel in range(channels)]


def _run(
    model: nn.Module, inputs: dict[str, Tensor], block: nn.Module, layer: nn.Module, nudge: float
) -> _Seen:
    seen = _Seen()

    def enter(*_: Any) -> None:
        seen.inside = True

    def leave(_module: nn.Module, _inputs: Any, result: Any) -> None:
        seen.inside = False
        seen.given += result if isinstance(result, tuple) else (result,)

    def change(_module: nn.Module, _inputs: Any, result: Tensor) -> Tensor:
        changed, channels = result.clone(), torch.arange(result.shape[0])
        changed[channels, _POSITION, channels] += nudge
        return changed

    with ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(enter).remove)
        stack.callback(block.register_forward_hook(leave).remove)
        stack.callback(layer.register_forward_hook(change).remove)
        stack.enter_context(_Attention(seen))
        model(**inputs)
    return seen


def _kind(channel: int, before: _Seen, after: _Seen) -> str:
    rows = _changed(before.p, after.p, channel)
    if rows:
        return "q" if rows == 1 else "k"
    if _changed(before.read, after.read, channel):
        return "v"
    return "o" if _changed(before.given, after.given, channel) else "-"


def _changed(before: list[Tensor], after: list[Tensor], channel: int) -> int:
    """How many rows (the last dimension but one) differ, in this channel's row of the batch.

    The most in one call: Wan's query attends to the text and to an image, one after the other.
    """
    most = 0
    for old, new in zip(before, after, strict=True):
        differs = old[channel] != new[channel]
        most = max(most, int(differs.movedim(-2, 0).flatten(1).any(dim=1).sum()))
    return most
