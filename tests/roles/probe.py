"""Finding out by behaviour alone which output channel of which layer is a query, key or value.

One channel of one layer is nudged at one position, and what then changes tells its role, whatever
the layer is called. With p = softmax(q k^T) and p v, which the output projection reads:

* a *query* of a position changes that position's row of p and no other;
* a *key* of a position changes other rows of p;
* a *value* of a position leaves p as it is, number for number, and changes p v in other rows;
* anything else (a gate on the output) changes nothing, or the output in the position's row alone.

All channels are tried in one run: each has its own row of the batch. What was not found to be a
softmax in the layer (YOSO, MRA) leaves only the last line to tell queries from keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ailora.roles import Projection
from ailora.roles.projection import shape_of

LENGTH, POSITION = 8, 2
_NUDGE = 2.0
_MOST_CHANNELS = 128
Nudges = Sequence[tuple[int, int]]  # (row of the batch, channel)
_SOFTMAX = (torch.softmax, nn.functional.softmax, Tensor.softmax)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The projections of one attention block, found together."""

    projections: tuple[Projection, ...]

    @property
    def inputs(self) -> list[nn.Module]:
        """The layers that hold q, k and v, each once, in the model's order."""
        modules = (p.module for p in self.projections if p.role != "o")
        return list(dict.fromkeys(modules))

    @property
    def output(self) -> nn.Module | None:
        """The output projection, if there is one."""
        return next((p.module for p in self.projections if p.role == "o"), None)


@dataclass(kw_only=True)
class _Seen:
    """What one run of the model showed of one block."""

    batch: int
    length: int
    fewer_keys: bool = False
    probabilities: list[Tensor] = field(default_factory=list)
    read: Tensor | None = None
    tried: set[int] = field(default_factory=set)
    began: bool = False
    ended: bool = False


def sites(found: Sequence[Projection]) -> list[Site]:
    """The projections grouped by block: a new one begins with each role seen again."""
    groups: dict[tuple[Any, ...], list[Projection]] = {}
    for p in found:
        groups.setdefault((_block(p.name), p.attention), []).append(p)
    return [Site(projections=tuple(group)) for group in groups.values()]


def observed(
    model: nn.Module,
    inputs: Mapping[str, Tensor] | Callable[[int], Mapping[str, Tensor]],
    site: Site,
    length: int = LENGTH,
    *,
    fewer_keys: bool = False,
) -> dict[int, list[str]]:
    """For each layer of the site, by ``id``, what each of its channels is found to be.

    ``"q"``, ``"k"``, ``"v"``, ``"kv"`` (a key or value, where no softmax is to be seen) or ``"-"``.

    Args:
        model: In eval mode, attention ``"eager"``.
        inputs: One row each, or what makes as many as are asked for.
        site: One attention block.
        length: Of the sequence that the block sees.
        fewer_keys: Whether keys and values may be of a shorter sequence (PVT).

    Raises:
        LookupError: The block did not run on a sequence of that length.
    """
    nudges: dict[int, list[tuple[int, int]]] = {}
    batch = 0
    for module in site.inputs:
        channels = _channels(module)
        nudges[id(module)] = list(enumerate(channels, start=batch))
        batch += len(channels)
    if callable(inputs):
        rows = dict(inputs(batch))
    else:
        rows = {name: value.expand(batch, *value.shape[1:]) for name, value in inputs.items()}
    seen = _Seen(batch=batch, length=length, fewer_keys=fewer_keys)
    before = _run(model, rows, site, {}, seen)
    if before.read is None or before.tried != set(nudges):
        raise LookupError("the block did not run, or on a sequence of another length")
    after = _Seen(batch=batch, length=length, fewer_keys=fewer_keys)
    _run(model, rows, site, nudges, after)
    kinds = _kinds(before, after, batch)
    return {module: [kinds[row] for row, _ in pairs] for module, pairs in nudges.items()}


def claimed(site: Site) -> dict[int, list[str]]:
    """What the projections say of each of those channels, in the same form."""
    says = {id(module): ["-"] * shape_of(module)[0] for module in site.inputs}
    for p in site.projections:
        if p.role == "o":
            continue
        whole = says[id(p.module)]
        for start, stop in p.rows or ((0, len(whole)),):
            whole[start:stop] = [p.role] * (stop - start)
    return {id(m): [says[id(m)][channel] for channel in _channels(m)] for m in site.inputs}


def _channels(module: nn.Module) -> list[int]:
    """All output channels, or of a wide layer some all over it."""
    height = shape_of(module)[0]
    step = 1 + height // _MOST_CHANNELS
    return list(range(0, height, step))


def randomise(model: nn.Module) -> None:
    """Weights of a size at which every channel matters, none of them zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.1 * noise)
            else:
                parameter.add_(0.05 * noise)


def _kinds(before: _Seen, after: _Seen, batch: int) -> list[str]:
    assert before.read is not None and after.read is not None
    read = _changed(_rows(before.read, before), _rows(after.read, before), batch, keep=1)
    p: Tensor | None = None
    for old, new in zip(_joined(before), _joined(after), strict=True):
        changed = _changed(old, new, batch, keep=old.ndim - 2)
        p = changed if p is None else p | changed if p.shape == changed.shape else p
    return [_kind(None if p is None else p[i], read[i]) for i in range(batch)]


def _rows(value: Tensor, seen: _Seen) -> Tensor:
    """(batch, length, m) of what has both in one dimension (towers of Qwen-VL), or a grid; a view.

    Of grids a batch may hold several windows for each row (SAM).
    """
    if value.ndim == 2 and value.shape[0] == seen.batch * seen.length:
        return value.unflatten(0, (seen.batch, seen.length))
    return value.flatten(1, 2) if value.ndim == 4 and value.shape[1] > 1 else value


def _joined(seen: _Seen) -> list[Tensor]:
    """Probabilities of the whole batch, also of a block that treats one image after another."""
    found = seen.probabilities
    if len(found) == seen.batch > 1 and all(p.shape[0] == 1 for p in found):
        return [torch.cat(found)]
    return found


def _kind(p: Tensor | None, read: Tensor) -> str:
    """The role that fits what changed: rows of p, or None without p, and rows of what o reads."""
    if p is not None and bool(p.any()):
        return "q" if _only_at_position(p) else "k"
    if not bool(read.any()):
        return "-"
    if p is None:
        return "q" if _only_at_position(read) else "kv"
    return "-" if _only_at_position(read) else "v"


def _only_at_position(changed: Tensor) -> bool:
    return changed.nonzero().flatten().tolist() == [POSITION]


def _changed(before: Tensor, after: Tensor, batch: int, keep: int) -> Tensor:
    """(batch, length): whether anything changed at each index of dimension ``keep``."""
    differs = before != after
    if before.shape[0] != batch:  # heads before the batch's end, or time before it (FSMT)
        if before.shape[0] % batch == 0:
            differs = differs.unflatten(0, (batch, -1))
            keep += 1
        else:
            differs = differs.transpose(0, 1)
            assert differs.shape[0] == batch, before.shape
    others = [d for d in range(1, differs.ndim) if d != keep]
    return differs.any(dim=tuple(others)) if others else differs


def _run(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    site: Site,
    nudges: Mapping[int, Nudges],
    seen: _Seen,
) -> _Seen:
    with ExitStack() as stack:
        for module in site.inputs:
            hook = _nudging(seen, nudges.get(id(module), ()))
            stack.callback(module.register_forward_hook(hook).remove)
        if site.output is not None:
            stack.callback(site.output.register_forward_pre_hook(_reading(seen)).remove)
        stack.enter_context(_SoftmaxSeen(seen))
        stack.enter_context(torch.no_grad())
        model(**inputs)
    return seen


def _nudging(seen: _Seen, nudges: Nudges) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    def hook(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        changed = _rows(output.clone(), seen)
        if output.ndim == 4 and output.shape[1] == 1:  # the one head of a latent
            changed = changed.squeeze(1)
        if seen.ended:
            return None
        fewer = seen.fewer_keys and changed.shape[0] % seen.batch == 0
        if seen.length not in changed.shape[:2] and not fewer:
            return None  # a table of relative positions (DeBERTa)
        seen.began = True
        seen.tried.add(id(module))
        time_first = changed.shape[0] == seen.length != changed.shape[1]
        windows = 1 if time_first else max(changed.shape[0] // seen.batch, 1)  # Swin: the first
        for row, channel in nudges:
            at = (POSITION, row) if time_first else (row * windows, POSITION)
            changed[(*at, channel)] += _NUDGE
        return changed.reshape(output.shape)

    return hook


def _reading(seen: _Seen) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if seen.began and not seen.ended:
            seen.read, seen.ended = inputs[0].detach().clone(), True

    return hook


class _SoftmaxSeen(TorchFunctionMode):
    """Keeps what softmax returns between the block's first layer and its output projection."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._seen.began and not self._seen.ended:
            found = result
            if func is nn.functional.scaled_dot_product_attention:  # blocks that have nothing else
                query, key = (args + tuple((kwargs or {}).values()))[:2]
                found = torch.softmax(query @ key.transpose(-1, -2), dim=-1)
            elif func not in _SOFTMAX:
                return result
            if found.ndim > 2 and found.shape[-2] == self._seen.length:
                self._seen.probabilities.append(found.detach().clone())
        return result


def _block(name: str) -> str:
    """What the names of a block's projections have in common."""
    parts = name.split(".")
    if parts[-1] == "linear":
        parts.pop()
    parts.pop()
    inner = ("output", "self", "output_projection", "longformer_self_attn")
    if parts[-1] in inner or parts[-2:] == ["attention", "attention"]:  # ViT in transformers 4
        parts.pop()
    return ".".join(parts)
