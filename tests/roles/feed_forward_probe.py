"""Finding out by behaviour alone what each channel of a feed-forward block's matrices does.

One output channel of one matrix is nudged at one position, up and down by the same amount, and
what the block's last matrix then reads tells what the channel is, whatever the matrix is called:

* *curved*: it goes up and down by different amounts, so the channel passes an activation function;
* *straight*: by the same amount, so the channel is multiplied with something else;
* *-*: nothing changes (a product with zero, as behind a ReLU), or something else than one value.

A gated block has curved channels (gate) and straight ones (up) that change the same value, one
without a gate curved ones alone (up). All channels are tried in one run: each has two rows of the
batch. A block that is a module of its own runs alone, on noise, any other in the whole model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ailora.roles import Projection
from ailora.roles.projection import shape_of

LENGTH, POSITION = 8, 2
_NUDGE = 1.0
_MOST_CHANNELS = 64

Kind = tuple[str, int]
"""``"curved"`` or ``"straight"`` and the one value that changed; ("-", -1) for anything else."""


class NotRunError(Exception):
    """Says why a block was not tried."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """The projections of one feed-forward block, found together."""

    projections: tuple[Projection, ...]

    @property
    def inputs(self) -> list[nn.Module]:
        """The matrices before the activation, each once, in the model's order."""
        return list(dict.fromkeys(p.module for p in self.projections if p.role != "down"))

    @property
    def down(self) -> Projection:
        """The last matrix."""
        return next(p for p in self.projections if p.role == "down")


@dataclass(kw_only=True)
class _Seen:
    read: Tensor | None = None
    tried: set[int] = field(default_factory=set)
    any_length: bool = False


def sites(found: Sequence[Projection]) -> list[Site]:
    """The projections by block: in the model's order a new one begins with each role seen again."""
    groups: list[list[Projection]] = []
    for p in found:
        if not groups or any(p.role == other.role for other in groups[-1]):
            groups.append([])
        groups[-1].append(p)
    return [Site(projections=tuple(group)) for group in groups]


def observed(
    model: nn.Module, inputs: Mapping[str, Tensor], site: Site, *, any_length: bool = False
) -> dict[int, dict[int, Kind]]:
    """For each matrix before the activation, by ``id``, what its channels were found to do.

    Args:
        model: In eval mode.
        inputs: One row (1, LENGTH) each.
        site: One block.
        any_length: Whether the block may run on a sequence of another length, or on a grid.

    Raises:
        NotRunError: The block did not run on a sequence of LENGTH.
    """
    tried = [(module, channel) for module in site.inputs for channel in _channels(module)]
    batch = 1 + 2 * len(tried)  # the first row is left as it is
    seen = _Seen(any_length=any_length)
    with ExitStack() as stack:
        for module in site.inputs:
            nudges = [(1 + 2 * i, c) for i, (at, c) in enumerate(tried) if at is module]
            stack.callback(module.register_forward_hook(_nudging(seen, batch, nudges)).remove)
        reader = _reader(model, site.down)
        stack.callback(reader.register_forward_pre_hook(_reading(seen, batch)).remove)
        stack.enter_context(torch.no_grad())
        _run(model, inputs, site, batch)
    if seen.read is None or seen.tried != set(map(id, site.inputs)):
        raise NotRunError("the block did not run, or on a sequence of another length")
    found: dict[int, dict[int, Kind]] = {id(module): {} for module in site.inputs}
    for i, (module, channel) in enumerate(tried):
        found[id(module)][channel] = _kind(*seen.read[[0, 1 + 2 * i, 2 + 2 * i]].double())
    return found


def _run(model: nn.Module, inputs: Mapping[str, Tensor], site: Site, batch: int) -> None:
    owner = _owner([p.name for p in site.projections])
    while isinstance(model.get_submodule(owner), nn.ModuleList):
        owner = owner.rpartition(".")[0]
    block = model.get_submodule(owner)
    arguments = inspect.signature(block.forward).parameters
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [a for a in arguments.values() if a.default is a.empty and a.kind not in variable]
    shared = bool(inputs) and "layer_idx" in arguments  # Zamba2's is one for many layers
    alone = len(needed) == 1 and not shared
    if alone and not any("att" in name.lower() for name, _ in block.named_modules()):
        width = shape_of(site.inputs[0])[1]
        noise = torch.randn(1, LENGTH, width, generator=torch.Generator().manual_seed(2))
        block(noise.repeat(batch, 1, 1))
    else:
        model(**{name: value.expand(batch, *value.shape[1:]) for name, value in inputs.items()})


def _owner(names: Sequence[str]) -> str:
    """The path that these have in common."""
    common = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def contradictions(site: Site, seen: Mapping[int, Mapping[int, Kind]]) -> list[str]:
    """What was found to be otherwise than the projections say, one line for each."""
    gated = any(p.role == "gate" for p in site.projections)
    lines: list[str] = []
    for p in site.projections:
        if p.role == "down":
            continue
        ((start, stop),) = p.rows or ((0, shape_of(p.module)[0]),)
        kinds = {c - start: k for c, k in seen[id(p.module)].items() if start <= c < stop}
        wanted = "straight" if gated and p.role == "up" else "curved"
        mute = [value for value, (kind, _) in kinds.items() if kind == "-"]
        other = [v for v, kind in kinds.items() if kind[0] != "-" and kind != (wanted, v)]
        if other:
            lines.append(f"{p.key}: said to be {p.role}, channel {other[0]} is {kinds[other[0]]}")
        elif len(mute) > (0.75 * len(kinds) if wanted == "straight" else 0):
            lines.append(f"{p.key}: said to be {p.role}, {len(mute)} channels do nothing")
    return lines


def _channels(module: nn.Module) -> list[int]:
    """All output channels, or of a wide layer some all over it."""
    height = shape_of(module)[0]
    return list(range(0, height, 1 + height // _MOST_CHANNELS))


def _kind(base: Tensor, up: Tensor, down: Tensor) -> Kind:
    changed = ((up != base) | (down != base)).nonzero().flatten().tolist()
    if len(changed) != 1:
        return "-", -1
    rise, fall = up[changed] - base[changed], base[changed] - down[changed]
    even = (rise - fall).abs() <= 1e-3 * torch.maximum(rise.abs(), fall.abs())
    return ("straight" if bool(even) else "curved"), changed[0]


def _reader(model: nn.Module, down: Projection) -> nn.Module:
    """What reads the product first: the last matrix, or a norm right before it (BitNet, Dory)."""
    beside = model.get_submodule(down.name.rpartition(".")[0]).named_children()
    return next((module for name, module in beside if "sub_norm" in name), down.module)


def _rows(value: Tensor, batch: int, any_length: bool) -> Tensor:
    """(batch, LENGTH, m) of what may have both in one dimension, or time first; a view."""
    if any_length and value.shape[0] % batch == 0:
        if value.ndim == 2:
            return value.unflatten(0, (batch, -1))
        return value.flatten(1, 2) if value.ndim == 4 else value
    if value.ndim == 2 and value.shape[0] == batch * LENGTH:
        return value.unflatten(0, (batch, LENGTH))
    if value.ndim == 3 and value.shape[:2] == (LENGTH, batch):
        return value.transpose(0, 1)
    if value.shape[:2] != (batch, LENGTH):
        raise NotRunError("the block ran on a sequence of another length")
    return value


def _nudging(
    seen: _Seen, batch: int, nudges: Sequence[tuple[int, int]]
) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    def hook(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        if seen.read is not None:
            return None
        seen.tried.add(id(module))
        changed = output.clone()
        rows = _rows(changed, batch, seen.any_length)
        for row, channel in nudges:
            nudge = _NUDGE + rows[0, POSITION, channel].abs()  # across zero, where a ReLU bends
            rows[row, POSITION, channel] += nudge
            rows[row + 1, POSITION, channel] -= nudge
        return changed

    return hook


def _reading(seen: _Seen, batch: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if seen.read is None and seen.tried:
            seen.read = _rows(inputs[0].detach(), batch, seen.any_length)[:, POSITION].clone()

    return hook
