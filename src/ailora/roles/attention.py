"""Recognising attention: which children of which modules are q, k, v and o, and what is not.

A block counts only if its parts fit one another, in names and in shapes. What looks like
attention and cannot be read for certain becomes a ``Problem`` instead of a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ailora.roles import architectures
from ailora.roles.projection import (
    ROLE_NAMES,
    AttentionKind,
    RoleKey,
    RoleName,
    Rows,
    count_rows,
    is_projection,
    shape_of,
    whole_shape,
)
from ailora.roles.walk import Place


@dataclass(frozen=True, kw_only=True)
class Part:
    """A place that plays a role, whole (``rows`` None) or with some rows of its weight."""

    role: RoleKey
    place: Place
    rows: Rows | None = None
    attention: AttentionKind = "self"

    @property
    def height(self) -> int:
        """Number of rows of W that play the role."""
        if self.rows is None:
            return shape_of(self.place.module)[0]
        return count_rows(self.rows)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Attention that cannot be read: where it is, and why."""

    place: Place
    why: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The attention of a whole model.

    Attributes:
        parts: For each path, the roles that the module there plays.
        problems: Attention blocks that could not be read.
    """

    parts: Mapping[str, tuple[Part, ...]]
    problems: tuple[Problem, ...]


class _NotReadableError(Exception):
    """Says why a block that looks like attention is left alone."""


class _Tree:
    """Places by path, and the names of each one's children."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = {place.name: place for place in places}
        self._children: dict[str, list[str]] = {}
        for place in places:
            parent, _, name = place.name.rpartition(".")
            self._children.setdefault(parent, []).append(name)

    def at(self, block: str, child: str) -> Place | None:
        """The place ``child`` (perhaps dotted) below ``block``."""
        return self._places.get(f"{block}.{child}")

    def above(self, path: str) -> str:
        """Path of the parent."""
        return path.rpartition(".")[0]

    def children(self, block: str) -> list[str]:
        """Names of the modules right below ``block``."""
        return self._children.get(block, [])

    def below(self, path: str) -> Iterator[Place]:
        """The place at ``path`` and all below it."""
        yield self._places[path]
        for child in self.children(path):
            yield from self.below(f"{path}.{child}")


def read_attention(places: Sequence[Place]) -> Reading:
    """Finds every attention block among ``places`` that works on text."""
    tree = _Tree(places)
    parts: dict[str, tuple[Part, ...]] = {}
    problems: list[Problem] = []
    blocks: list[tuple[Place, list[Part]]] = []
    for block in places:
        if not block.text:
            continue
        try:
            _refuse_latent(block, tree)
            found = _parts_of(block, tree)
        except _NotReadableError as error:
            problems.append(Problem(place=block, why=str(error)))
            continue
        blocks.append((block, found))
        for part in found:
            parts[part.place.name] = (*parts.get(part.place.name, ()), part)
    problems += _keys_without_values(blocks)
    return Reading(parts=parts, problems=tuple(problems))


def _keys_without_values(blocks: Sequence[tuple[Place, list[Part]]]) -> list[Problem]:
    """Blocks whose keys serve as values too (Gemma 4), where others have both apart."""
    roles = [(block, {part.role for part in found}) for block, found in blocks]
    apart = any({"k", "v"} <= has for _, has in roles)
    why = "it has a key but no value of its own, unlike other layers, so its key may be both"
    without = [block for block, has in roles if "k" in has and "v" not in has]
    return [Problem(place=block, why=why) for block in without if apart]


def is_matrix(module: nn.Module) -> bool:
    """Whether a module has a 2-D weight of its own and is no table of embeddings."""
    weight = getattr(module, "weight", None)
    return (
        weight is not None
        and len(whole_shape(weight)) == 2
        and not isinstance(module, nn.Embedding)
    )


def _has_no_softmax(block: Place) -> bool:
    parameters = [name for name, _ in block.module.named_parameters(recurse=False)]
    return architectures.has_no_softmax(type(block.module).__name__, block.name, parameters)


def _parts_of(block: Place, tree: _Tree) -> list[Part]:
    if _has_no_softmax(block):
        return []
    found = _fused_parts(block, tree)
    found += _separate_parts(block, tree, {part.role for part in found})
    _refuse_unknown_layouts(block, tree, found)
    if not found:
        return []
    output = _output_of(block, tree)
    if output is not None:
        found.append(Part(role="o", place=output, attention=architectures.attention_of(block.name)))
    if type(block.module).__name__ not in architectures.UNDERSTOOD:
        _refuse_strangers(block, tree, {part.place.name for part in found})
        _check_shapes({part.role: part for part in found})
    return found


def _fused_parts(block: Place, tree: _Tree) -> list[Part]:
    kind = architectures.attention_of(block.name)
    parts: list[Part] = []
    for child, layout in architectures.layouts_of(block.module).items():
        place = tree.at(block.name, child)
        if place is None or not is_projection(place.module):
            continue
        height = shape_of(place.module)[0]
        read = layout(block.module, height)
        if read.height != height:
            raise _NotReadableError(f"{child!r} has {height} rows where {read.height} are expected")
        rows = read.rows().items()
        parts += [Part(role=role, place=place, rows=at, attention=kind) for role, at in rows]
    return parts


def _separate_parts(block: Place, tree: _Tree, fused: set[RoleKey]) -> list[Part]:
    kind = architectures.attention_of(block.name)
    for spelling in _spellings(fused):
        at = {role: tree.at(block.name, child) for role, child in spelling.items()}
        found = {role: place for role, place in at.items() if place is not None}
        if _is_block(found, fused, block, tree):
            separate = [role for role in found if role not in fused]
            return [Part(role=role, place=found[role], attention=kind) for role in separate]
    return []


def _spellings(fused: set[RoleKey]) -> list[dict[RoleName, str]]:
    if fused and "q" not in fused:
        return [{"q": architectures.FUSED_QUERY}]
    return [architectures.children_by_role(spelling) for spelling in architectures.SPELLINGS]


def _is_block(
    found: Mapping[RoleName, Place], fused: set[RoleKey], block: Place, tree: _Tree
) -> bool:
    """A role and another one; of layers that share keys and values only the query and output."""
    if not any(is_matrix(place.module) for place in found.values()):
        return False
    with_output = "q" in found and _child(block.name, tree, architectures.OUTPUTS) is not None
    return len(found) > 1 or bool(fused) or with_output


def _child(block: str, tree: _Tree, names: Sequence[str]) -> Place | None:
    found = (tree.at(block, name) for name in names)
    return next((place for place in found if place is not None and is_matrix(place.module)), None)


def _output_of(block: Place, tree: _Tree) -> Place | None:
    inside = _child(block.name, tree, architectures.OUTPUTS)
    return inside or _child(tree.above(block.name), tree, architectures.OUTPUTS_BESIDE)


def _refuse_latent(block: Place, tree: _Tree) -> None:
    for child in tree.children(block.name):
        if architectures.is_latent(child):
            raise _NotReadableError(
                f"{child!r} belongs to multi-head latent attention, which has no plain q, k and v"
            )


def _refuse_unknown_layouts(block: Place, tree: _Tree, found: Sequence[Part]) -> None:
    known = {part.place.name for part in found}
    if not known and not architectures.is_attention(type(block.module).__name__, block.name):
        return
    for child in tree.children(block.name):
        place = tree.at(block.name, child)
        if place is None or place.name in known or not is_matrix(place.module):
            continue
        if architectures.looks_fused(child):
            raise _NotReadableError(
                f"{child!r} holds several roles in one weight, in a layout that is not known"
            )


def _refuse_strangers(block: Place, tree: _Tree, known: set[str]) -> None:
    for place in tree.below(block.name):
        last = place.name.rpartition(".")[2]
        if place.name in known or last in architectures.HARMLESS or not _has_matrix(place.module):
            continue
        if place.module is not block.module:
            name = place.name.removeprefix(f"{block.name}.")
            raise _NotReadableError(f"{name!r} in it is not understood")


def _has_matrix(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding) or type(module).__name__.endswith("Norm"):
        return False
    return any(len(whole_shape(parameter)) > 1 for parameter in module.parameters(recurse=False))


def _check_shapes(parts: Mapping[RoleKey, Part]) -> None:
    """Raise unless q : k is o's columns : v; both are heads to key heads, grouped or not."""
    if len(parts) < len(ROLE_NAMES) or not all(
        is_projection(p.place.module) for p in parts.values()
    ):
        return
    q, k, v = parts["q"].height, parts["k"].height, parts["v"].height
    columns = shape_of(parts["o"].place.module)[1]
    if q * v != columns * k:
        raise _NotReadableError(
            f"its q, k and v have {q}, {k} and {v} rows, which do not fit the {columns} columns "
            "of its output projection (there may be a gate in one of them)"
        )
