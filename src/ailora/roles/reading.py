"""What a model's blocks are read into: the parts that play a role, and what cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ailora.roles.projection import (
    ATTENTION_ROLES,
    AttentionKind,
    RoleKey,
    RoleName,
    Rows,
    count_rows,
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
    """A block that cannot be read: where it is, why, and which roles it leaves in doubt."""

    place: Place
    why: str
    roles: tuple[RoleName, ...] = ATTENTION_ROLES


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The blocks of a whole model.

    Attributes:
        parts: For each path, the roles that the module there plays.
        problems: Blocks that could not be read.
    """

    parts: Mapping[str, tuple[Part, ...]]
    problems: tuple[Problem, ...]

    def with_(self, other: Reading) -> Reading:
        """This reading and another one of the same model's other blocks."""
        return Reading(
            parts={**self.parts, **other.parts}, problems=(*self.problems, *other.problems)
        )

    def of(self, places: Iterable[Place]) -> Reading:
        """What is said of some of the places."""
        names = {place.name for place in places}
        return Reading(
            parts={name: parts for name, parts in self.parts.items() if name in names},
            problems=tuple(p for p in self.problems if p.place.name in names),
        )


class NotReadableError(Exception):
    """Says why a block that looks like one of a kind is left alone."""


class Tree:
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


def check_called(parts: Iterable[Part]) -> None:
    """Raise for a block whose weights are read by its own code, not by calling the layers."""
    for part in parts:
        if not part.place.called:
            raise NotReadableError(
                f"it reads the weight of {part.place.name.rpartition('.')[2]!r} itself and never "
                "calls the layer, so that an adapter around it would do nothing"
            )


def is_matrix(module: nn.Module) -> bool:
    """Whether a module has a 2-D weight of its own and is no table of embeddings."""
    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, Tensor)  # a parametrised layer has a module of that name inside
        and len(whole_shape(weight)) == 2
        and not isinstance(module, nn.Embedding)
    )


def has_matrix(module: nn.Module) -> bool:
    """Whether a module itself has a parameter of more than one dimension that is no table."""
    if isinstance(module, nn.Embedding) or type(module).__name__.endswith("Norm"):
        return False
    return any(len(whole_shape(parameter)) > 1 for parameter in module.parameters(recurse=False))
