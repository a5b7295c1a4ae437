"""Recognising attention: which children of which modules are q, k, v and o, and what is not.

A block counts only if its parts fit one another, in names and in shapes. What looks like
attention and cannot be read for certain becomes a ``Problem`` instead of a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ailora.roles import architectures, layouts
from ailora.roles.projection import ATTENTION_ROLES, RoleKey, RoleName, is_projection, shape_of
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


def read_attention(places: Sequence[Place]) -> Reading:
    """Finds every attention block among ``places`` but those of projectors, which have no roles."""
    tree = Tree(places)
    parts: dict[str, tuple[Part, ...]] = {}
    problems: list[Problem] = []
    blocks: list[tuple[Place, list[Part]]] = []
    for block in places:
        if block.part == "projector":
            continue
        try:
            _refuse_unknown_latent(block, tree)
            found = _parts_of(block, tree)
        except NotReadableError as error:
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
    apart = {block.part for block, has in roles if {"k", "v"} <= has}
    why = "it has a key but no value of its own, unlike other layers, so its key may be both"
    without = [block for block, has in roles if "k" in has and "v" not in has]
    return [Problem(place=block, why=why) for block in without if block.part in apart]


def _has_no_softmax(block: Place) -> bool:
    if layouts.layouts_of(block.module):  # KimiLinearAttention is none of the linear ones
        return False
    parameters = [name for name, _ in block.module.named_parameters(recurse=False)]
    # What diffusers' class of attention computes is up to its processor, which Sana's is linear in.
    classes = (type(block.module), type(getattr(block.module, "processor", None)))
    return any(
        architectures.has_no_softmax(cls.__name__, block.name, parameters) for cls in classes
    )


def _parts_of(block: Place, tree: Tree) -> list[Part]:
    if _has_no_softmax(block):
        return []
    found = _fused_parts(block, tree)
    found += _separate_parts(block, tree, {part.role for part in found})
    added = _added_parts(block, tree) if found else []
    _refuse_unknown_layouts(block, tree, [*found, *added])
    if not found:
        return []
    output = _output_of(block, tree)
    if output is not None:
        kind = architectures.kind_of(block.module, block.name)
        found.append(Part(role="o", place=output, attention=kind))
    check_called(found)
    by_role = {part.role: part for part in found}
    latent = layouts.latent_heads(block.module)
    if latent is not None:
        _check_latent(by_role, *latent)
    if type(block.module).__name__ not in architectures.UNDERSTOOD:
        _refuse_strangers(block, tree, {part.place.name for part in (*found, *added)})
        if latent is None:
            _check_shapes(by_role)
            _check_added(by_role, {part.role: part for part in added})
    return [*found, *added]


def _fused_parts(block: Place, tree: Tree) -> list[Part]:
    kind = architectures.kind_of(block.module, block.name)
    parts: list[Part] = []
    for child, layout in layouts.layouts_of(block.module).items():
        place = tree.at(block.name, child)
        if place is None or not is_projection(place.module):
            continue
        height = shape_of(place.module)[0]
        read = layout(block.module, height)
        if read.height != height:
            raise NotReadableError(f"{child!r} has {height} rows where {read.height} are expected")
        rows = read.rows().items()
        parts += [Part(role=role, place=place, rows=at, attention=kind) for role, at in rows]
    return parts


def _separate_parts(block: Place, tree: Tree, fused: set[RoleKey]) -> list[Part]:
    kind = architectures.kind_of(block.module, block.name)
    for spelling in _spellings(fused):
        at = {role: tree.at(block.name, child) for role, child in spelling.items()}
        found = {role: place for role, place in at.items() if place is not None}
        if _is_block(found, fused, block, tree):
            separate = [role for role in found if role not in fused]
            return [Part(role=role, place=found[role], attention=kind) for role in separate]
    return []


def _added_parts(block: Place, tree: Tree) -> list[Part]:
    kind = architectures.kind_of(block.module, block.name)
    at = {role: _child(block.name, tree, [child]) for role, child in architectures.ADDED.items()}
    parts = [Part(role=role, place=p, attention=kind) for role, p in at.items() if p is not None]
    return parts if {"k", "v"} <= {part.role for part in parts} else []


def _spellings(fused: set[RoleKey]) -> list[dict[RoleName, str]]:
    if fused and "q" not in fused:
        return [{"q": child} for child in architectures.FUSED_QUERIES]
    return [architectures.children_by_role(spelling) for spelling in architectures.SPELLINGS]


def _is_block(
    found: Mapping[RoleName, Place], fused: set[RoleKey], block: Place, tree: Tree
) -> bool:
    """A role and another one; of layers that share keys and values only the query and output."""
    if not any(is_matrix(place.module) for place in found.values()):
        return False
    with_output = "q" in found and _child(block.name, tree, architectures.OUTPUTS) is not None
    return len(found) > 1 or bool(fused) or with_output


def _child(block: str, tree: Tree, names: Sequence[str]) -> Place | None:
    found = (tree.at(block, name) for name in names)
    return next((place for place in found if place is not None and is_matrix(place.module)), None)


def _output_of(block: Place, tree: Tree) -> Place | None:
    inside = _child(block.name, tree, architectures.OUTPUTS)
    return inside or _child(tree.above(block.name), tree, architectures.OUTPUTS_BESIDE)


def _refuse_unknown_latent(block: Place, tree: Tree) -> None:
    if layouts.latent_heads(block.module) is not None:
        return
    for child in tree.children(block.name):
        if architectures.is_latent(child):
            raise NotReadableError(
                f"{child!r} belongs to multi-head latent attention, in a layout that is not known"
            )


def _refuse_unknown_layouts(block: Place, tree: Tree, found: Sequence[Part]) -> None:
    known = {part.place.name for part in found}
    if not known and not architectures.is_attention(type(block.module).__name__, block.name):
        return
    for child in tree.children(block.name):
        place = tree.at(block.name, child)
        if place is None or place.name in known or not is_matrix(place.module):
            continue
        if architectures.looks_fused(child):
            raise NotReadableError(
                f"{child!r} holds several roles in one weight, in a layout that is not known"
            )


def _refuse_strangers(block: Place, tree: Tree, known: set[str]) -> None:
    for place in tree.below(block.name):
        name = place.name.removeprefix(f"{block.name}.")
        harmless = architectures.HARMLESS.intersection(name.split("."))
        if place.name in known or harmless or not has_matrix(place.module):
            continue
        if place.module is not block.module:
            raise NotReadableError(f"{name!r} in it is not understood")


def _check_shapes(parts: Mapping[RoleKey, Part]) -> None:
    """Raise unless q : k is o's columns : v; both are heads to key heads, grouped or not."""
    if len(parts) < len(ATTENTION_ROLES) or not all(
        is_projection(p.place.module) for p in parts.values()
    ):
        return
    q, k, v = parts["q"].height, parts["k"].height, parts["v"].height
    columns = shape_of(parts["o"].place.module)[1]
    if q * v != columns * k:
        raise NotReadableError(
            f"its q, k and v have {q}, {k} and {v} rows, which do not fit the {columns} columns "
            "of its output projection (there may be a gate in one of them)"
        )


def _check_added(parts: Mapping[RoleKey, Part], added: Mapping[RoleKey, Part]) -> None:
    """Raise unless the second set of joint attention has as many rows as the first."""
    for role in parts.keys() & added.keys() - {"o"}:
        if parts[role].height != added[role].height:
            raise NotReadableError(
                f"its two projections of role {role!r} have {parts[role].height} and "
                f"{added[role].height} rows, and would not fit beside one another"
            )
    _check_shapes(added)


def _check_latent(parts: Mapping[RoleKey, Part], heads: int, query: int, value: int) -> None:
    """Raise unless q and o fit the heads; that k and v do, their layout has shown."""
    if not {"q", "k", "v", "o"} <= set(parts):
        raise NotReadableError(
            "it has no query or output of a name that is known for latent attention"
        )
    columns = shape_of(parts["o"].place.module)[1]
    if (parts["q"].height, columns) != (heads * query, heads * value):
        raise NotReadableError(
            f"its q has {parts['q'].height} rows and its o {columns} columns, where {heads} heads "
            f"of {query} and {value} are expected"
        )
