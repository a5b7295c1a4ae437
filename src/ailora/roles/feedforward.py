"""Recognising the dense feed-forward block: which of its matrices are gate, up and down.

A gated block computes down(act(gate x) * up x), one without a gate down(act(up x)): the gate is
what passes the activation function and is multiplied with the up rows, and where there is nothing
to multiply, the first matrix is ``up`` and goes through the activation itself.

As with attention a block counts only if its parts fit one another, in names, shapes and an
activation function between them, and what looks like one and cannot be read for certain becomes a
``Problem``. Routers and experts are no dense blocks; an expert that every token passes ("shared")
is one. ``tests/roles/feed_forward_probe.py`` tries every architecture by behaviour.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules import activation as torch_activations

from ailora.roles import architectures, feed_forward_names
from ailora.roles.projection import (
    FEED_FORWARD_ROLES,
    RoleName,
    is_projection,
    shape_of,
    whole_shape,
)
from ailora.roles.reading import (
    NotReadableError,
    Part,
    Problem,
    Reading,
    Tree,
    check_called,
    has_matrix,
    is_matrix,
)
from ailora.roles.walk import Place

_EXPERT = re.compile(r"expert", re.IGNORECASE)
_SHARED = re.compile(r"shared", re.IGNORECASE)
_MIXTURE = re.compile(r"expert|moe|router|mixture", re.IGNORECASE)
_NO_BLOCK = re.compile(
    r"router|norm|head|adapter|lora|pool|embed|projector|connect|indexer|compressor|bottleneck|"
    r"hypernetwork",
    re.IGNORECASE,
)
_FEED_FORWARD = re.compile(r"mlp|feed_?forward|ffn", re.IGNORECASE)
_ACTIVATION = re.compile(r"gelu|silu|relu|swish|swiglu|sigmoid|tanh|mish|laplace", re.IGNORECASE)
_ACTIVATION_ATTRIBUTE = re.compile(r"act(_|$|ivation)", re.IGNORECASE)
_NO_ACTIVATION = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin)


def read_feed_forward(
    places: Sequence[Place], attention: Reading, *, experts: bool = False
) -> Reading:
    """Finds every dense feed-forward block among ``places`` but those of projectors.

    Args:
        places: All of a model's.
        attention: The same model's attention, beside which feed-forward blocks stand.
        experts: Whether experts that are modules count as well; one that cannot be read has no
            roles.
    """
    tree = Tree(places)
    parts: dict[str, tuple[Part, ...]] = {}
    problems: list[Problem] = []
    suspects: list[Place] = []
    for block in places:
        expert = experts and _is_expert(block.name)
        if block.part == "projector" or not (expert or _may_be_one(block.name, tree)):
            continue
        try:
            found = _parts_of(block, tree, several=expert)
            _check_beside(found, block, attention)
        except NotReadableError as error:
            if expert:
                continue
            problems.append(Problem(place=block, why=str(error), roles=FEED_FORWARD_ROLES))
            continue
        if not (found or expert) and _looks_like_one(block, tree):
            suspects.append(block)
        for part in found:
            parts[part.place.name] = (*parts.get(part.place.name, ()), part)
    problems += [_not_understood(block) for block in suspects if not _has_any(block, parts)]
    return Reading(parts=parts, problems=tuple(problems))


def has_experts(places: Sequence[Place]) -> bool:
    """Whether any module of the parts adapted by default is called an expert or holds several."""
    return any(place.default and _EXPERT.search(place.name) for place in places)


def looks_fused(child: str) -> bool:
    """Whether a layer is named as one that holds gate and up."""
    return child.rpartition(".")[2] in {first for first, _ in feed_forward_names.FUSED}


def _may_be_one(path: str, tree: Tree) -> bool:
    """Whether a block stands in a layer, and not where heads, routers and experts are."""
    names = path.split(".")
    if any("merger" in name for name in names):  # a projector, in a tower on its own too
        return False
    numbers = _numbers(names)
    inside = names[max(numbers[0] - 1, 0) :] if numbers else names  # of a list, with its name
    if any(map(_NO_BLOCK.search, inside)):
        return False
    if _is_expert(path):
        return False
    beside = tree.children(tree.above(path))
    return bool(numbers) or any(map(_is_called_attention, beside))


def _is_expert(path: str) -> bool:
    """Whether it lies in experts of which a router chooses some."""
    return any(_EXPERT.search(name) and not _SHARED.search(name) for name in path.split("."))


def _is_called_attention(name: str) -> bool:
    return architectures.is_attention("", name)


# --- One block ---------------------------------------------------------------------------------


def _parts_of(block: Place, tree: Tree, *, several: bool = False) -> list[Part]:
    """The parts of one block, which may be one of several in a list where that is said."""
    gate_first = _by_class(block, feed_forward_names.HALVES)
    up_first = _by_class(block, feed_forward_names.UP_FIRST) or _of_diffusers(
        block, tree, feed_forward_names.DIFFUSERS_GATED
    )
    plain = _by_class(block, feed_forward_names.PLAIN_BY_CLASS) or _of_diffusers(
        block, tree, feed_forward_names.DIFFUSERS_PLAIN
    )
    halves = gate_first or up_first
    if halves is not None:
        found = _halves(block, tree, halves, ("gate", "up") if gate_first else ("up", "gate"))
    elif plain is not None:
        found = _spelled(block, tree, FEED_FORWARD_ROLES[1:], plain)
    else:
        _refuse_fused(block, tree)
        found = _whole(block, tree)
    if found:
        check_called(found)
        if not several:
            _refuse_several(block, tree)
        _refuse_strangers(block, tree, {part.place.name for part in found})
        if halves is None:
            _check_activation(block, tree, found)
    return found


def _by_class(block: Place, known: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    cls = architectures.known_class(block.module, known)
    return None if cls is None else known[cls]


def _of_diffusers(block: Place, tree: Tree, kinds: Collection[str]) -> tuple[str, str] | None:
    """The names in a block of diffusers whose first matrix is in a class of one of these kinds."""
    first = tree.at(block.name, "net.0")
    if (
        first is None
        or architectures.known_class(block.module, {feed_forward_names.DIFFUSERS}) is None
    ):
        return None
    return (
        feed_forward_names.DIFFUSERS_NAMES
        if architectures.known_class(first.module, kinds)
        else None
    )


def _halves(
    block: Place, tree: Tree, children: tuple[str, str], roles: tuple[RoleName, RoleName]
) -> list[Part]:
    first, second = children
    fused, down = (_matrix(block, tree, child) for child in (first, second))
    if fused is None or down is None:
        return []
    (rows, columns), (width, middle) = _shape(fused), _shape(down)
    if (rows, columns) != (2 * middle, width):
        raise NotReadableError(
            f"{first!r} is {rows} x {columns}, where {2 * middle} x {width} is expected beside "
            f"{second!r}"
        )
    return [
        Part(role=roles[0], place=fused, rows=((0, middle),)),
        Part(role=roles[1], place=fused, rows=((middle, 2 * middle),)),
        Part(role="down", place=down),
    ]


def _shape(place: Place) -> tuple[int, int]:
    if is_projection(place.module):
        return shape_of(place.module)
    rows, columns = whole_shape(place.module.weight)  # type: ignore[arg-type]
    return rows, columns


def _whole(block: Place, tree: Tree) -> list[Part]:
    for roles, spellings in (
        (FEED_FORWARD_ROLES, feed_forward_names.GATED),
        (FEED_FORWARD_ROLES[1:], feed_forward_names.PLAIN),
    ):
        for spelling in spellings:
            found = _spelled(block, tree, roles, spelling)
            if found:
                return found
    return []


def _spelled(
    block: Place, tree: Tree, roles: Sequence[RoleName], spelling: Sequence[str]
) -> list[Part]:
    places = [_matrix(block, tree, child) for child in spelling]
    found = [place for place in places if place is not None]
    if len(found) < len(spelling):
        return []
    _check_shapes(spelling, found)
    return [Part(role=role, place=place) for role, place in zip(roles, found, strict=True)]


def _matrix(block: Place, tree: Tree, child: str) -> Place | None:
    place = tree.at(block.name, child)
    return place if place is not None and is_matrix(place.module) else None


def _refuse_fused(block: Place, tree: Tree) -> None:
    for first, second in (*feed_forward_names.FUSED, *feed_forward_names.PLAIN):
        fused, down = (_matrix(block, tree, child) for child in (first, second))
        if fused is None or down is None:
            continue
        if _shape(fused)[0] == 2 * _shape(down)[1] or (first, second) in feed_forward_names.FUSED:
            raise NotReadableError(
                f"{first!r} holds gate and up in one weight, in a layout that is not known"
            )


def _check_shapes(spelling: Sequence[str], found: Sequence[Place]) -> None:
    """Raise unless gate and up are m x h, and down is h x m."""
    shapes = [_shape(place) for place in found]
    listed = ", ".join("{} {} x {}".format(n, *s) for n, s in zip(spelling, shapes, strict=True))
    if any(shape != shapes[-1][::-1] for shape in shapes[:-1]):
        raise NotReadableError(f"its matrices do not fit one another: {listed}")
    if (
        len(spelling) == 3
        and feed_forward_names.NUMBERED.issuperset(spelling)
        and len(set(shapes[0])) == 1
    ):
        raise NotReadableError(f"neither names nor shapes tell its matrices apart: {listed}")


def _refuse_several(block: Place, tree: Tree) -> None:
    """Raise for one of several blocks in a list inside a layer, which may be experts.

    One with attention in it is a layer itself, of several in a stage (Swin).
    """
    if any(_is_attention(place) for place in tree.below(block.name) if place is not block):
        return
    owner, _, last = block.name.rpartition(".")
    in_a_layer = last.isdigit() and _numbers(owner.split(".")[:-1])
    if not in_a_layer or len(tree.children(owner)) == 1:
        return
    if architectures.known_class(block.module, feed_forward_names.IN_A_ROW) is None:
        raise NotReadableError("it is one of several in its layer, which may be experts")


def _refuse_strangers(block: Place, tree: Tree, known: set[str]) -> None:
    if architectures.known_class(block.module, feed_forward_names.UNDERSTOOD) is not None:
        return
    for place in _own(block, tree):
        if place.name not in known and has_matrix(place.module):
            name = place.name.removeprefix(f"{block.name}.")
            raise NotReadableError(f"{name!r} in it is not understood")


def _own(block: Place, tree: Tree) -> Iterator[Place]:
    """What is below a block, but for attention beside it where the block is a whole layer."""
    for child in tree.children(block.name):
        place = tree.at(block.name, child)
        if place is not None and not _is_attention(place):
            yield place
            yield from _own(place, tree)


def _is_attention(place: Place) -> bool:
    return architectures.is_attention(type(place.module).__name__, place.name)


def _check_activation(block: Place, tree: Tree, found: Sequence[Part]) -> None:
    if any(_is_activation(place.module) for place in _own(block, tree)):
        return
    holders = {tree.above(part.place.name) for part in found} - {block.name}
    owners = [block.module, *(p.module for p in _own(block, tree) if p.name in holders)]
    for owner in owners:
        if any(callable(v) and _ACTIVATION_ATTRIBUTE.search(k) for k, v in vars(owner).items()):
            return
        code: Any = getattr(inspect.unwrap(type(owner).forward), "__code__", None)
        if any(map(_ACTIVATION.search, getattr(code, "co_names", ()))):
            return
    raise NotReadableError("there is no activation function between its matrices to be seen")


def _is_activation(module: nn.Module) -> bool:
    if isinstance(module, _NO_ACTIVATION) or any(True for _ in module.children()):
        return False
    cls = type(module)
    if cls.__module__ == torch_activations.__name__:
        return True
    return cls.__module__.endswith("activations") or bool(_ACTIVATION.search(cls.__name__))


def _check_beside(found: Sequence[Part], block: Place, attention: Reading) -> None:
    """Raise if a block has a part of attention, or is not as wide as the attention beside it."""
    for part in found:
        if part.place.name in attention.parts:
            raise NotReadableError(f"{part.place.name!r} is a part of attention as well")
    rows = _shape(found[-1].place)[0] if found else None
    beside = _width_beside(block, attention) if found else None
    if beside is not None and beside != rows:
        raise NotReadableError(
            f"it gives {rows} values, where its layer's attention gives {beside}"
        )


def _width_beside(block: Place, attention: Reading) -> int | None:
    """Rows of the output projection of attention in the same layer; None without one."""
    names = block.name.split(".")
    for last in reversed(_numbers(names)):
        layer = ".".join(names[: last + 1]) + "."
        for path, parts in attention.parts.items():
            if path.startswith(layer) and any(part.role == "o" for part in parts):
                return _shape(parts[0].place)[0]
    return None


def _numbers(names: Sequence[str]) -> list[int]:
    return [i for i, name in enumerate(names) if name.isdigit()]


# --- What looks like a block and is none that is known -----------------------------------------


def _looks_like_one(block: Place, tree: Tree) -> bool:
    """Whether a module is called feed-forward and holds two matrices, none of them experts'."""
    *above, last = block.name.split(".")
    if any(map(_is_called_attention, above)):  # networks of relative positions
        return False
    if not (_FEED_FORWARD.search(type(block.module).__name__) or _FEED_FORWARD.search(last)):
        return False
    inside = list(_own(block, tree))
    named = [type(block.module).__name__, *(place.name.rpartition(".")[2] for place in inside)]
    if any(map(_MIXTURE.search, named)):
        return False
    return sum(has_matrix(place.module) for place in inside) > 1


def _has_any(block: Place, parts: Mapping[str, tuple[Part, ...]]) -> bool:
    return any(path.startswith(f"{block.name}.") for path in parts)


def _not_understood(block: Place) -> Problem:
    why = "it is called feed-forward, and its matrices are named in no way that is known here"
    return Problem(place=block, why=why, roles=FEED_FORWARD_ROLES)
