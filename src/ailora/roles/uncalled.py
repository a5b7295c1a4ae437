"""Linear layers that are never called, because the module around them reads their weights itself.

`nn.MultiheadAttention` and WavLM hand weights to a function of torch. An adapter is a layer around
a layer, so here it would change nothing before it is merged, and something else than was trained
afterwards. What a module does with its layers is read from its code.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

from torch import Tensor, nn

_ABOUT = frozenset({"dtype", "device", "shape", "size", "ndim", "is_floating_point"})


def uncalled(owner: nn.Module) -> frozenset[str]:
    """The children of a module with a weight that its code reads, and that it never calls.

    Of torch's own modules those that it reads: whether it calls them as well is up to the case.
    """
    children = {
        name
        for name, child in owner._modules.items()
        if isinstance(getattr(child, "weight", None), Tensor)
    }
    if not children:
        return frozenset()
    return _uncalled(type(owner), frozenset(children))  # type: ignore[arg-type] # mypy: 11470


@lru_cache(maxsize=1024)
def _uncalled(cls: type, children: frozenset[str]) -> frozenset[str]:
    if not any("weight" in _names(f.__code__) for f in _methods(cls).values()):
        return frozenset()
    read: set[str] = set()
    called: set[str] = set()
    for name, attributes in _uses(cls):
        if not name:  # handed to others, which may call its layers (diffusers' processors)
            return frozenset()
        if name in children and attributes[:1] == ("weight",):
            read |= set() if _ABOUT.intersection(attributes[1:2]) else {name}
        elif name in children and attributes[:1] != ("bias",):
            called.add(name)
    return frozenset(read if cls.__module__.startswith("torch.") else read - called)


def _methods(cls: type) -> dict[str, Callable[..., Any]]:
    """The functions of a class of modules but those of nn.Module itself, by name."""
    found: dict[str, Callable[..., Any]] = {}
    for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
        for name, value in vars(base).items():
            function = inspect.unwrap(value) if callable(value) else None
            if inspect.isfunction(function):
                found.setdefault(name, function)
    return found


def _uses(cls: type) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What runs when a module is called uses of it: ``self.NAME`` and the attributes that follow.

    The name is empty where the module is handed to another function as it is. A child that is
    handed to a method of the same module is followed into it.
    """
    methods = _methods(cls)
    waiting: list[tuple[str, tuple[tuple[str, str], ...]]] = [("forward", ())]
    seen = set(waiting)
    while waiting:
        method, handed = waiting.pop()
        tree = _tree(methods[method]) if method in methods else None
        if tree is None:
            continue
        stands_for = {"self": (), **{name: (child,) for name, child in handed}}
        handed_on: set[int] = set()
        for called, given in _own_calls(tree, methods):
            handed_on |= {id(node) for _, node in given}
            call = (called, tuple((name, node.attr) for name, node in given))
            waiting += [] if call in seen else [call]
            seen.add(call)
        for node, root, attributes in _chains(tree):
            if root in stands_for and id(node) not in handed_on:
                chain = (*stands_for[root], *attributes)
                yield (chain or ("",))[0], chain[1:]


Given = list[tuple[str, ast.Attribute]]
"""Arguments of a call that are children of the module, with the names of the parameters."""


def _own_calls(
    tree: ast.AST, methods: Mapping[str, Callable[..., Any]]
) -> Iterator[tuple[str, Given]]:
    """The module's own methods that a function calls or names, with what they are given."""
    calls = {id(call.func): call for call in ast.walk(tree) if isinstance(call, ast.Call)}
    for node in ast.walk(tree):
        name = _child(node)
        if name not in methods:
            continue
        given: Given = []
        if id(node) in calls:
            names = [p for p in inspect.signature(methods[name]).parameters if p != "self"]
            for parameter, argument in zip(names, calls[id(node)].args, strict=False):
                if isinstance(argument, ast.Attribute) and _child(argument) not in {"", *methods}:
                    given.append((parameter, argument))
        yield name, given


def _child(node: ast.AST) -> str:
    """``"NAME"`` of ``self.NAME``; of anything else an empty string."""
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return node.attr if own and node.value.id == "self" else ""  # type: ignore[attr-defined]


def _chains(tree: ast.AST) -> Iterator[tuple[ast.AST, str, tuple[str, ...]]]:
    """Each name that a function reads, with the attributes after it: of ``a.b.c`` one in all."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name) or id(node) in inner:
            continue
        attributes: list[str] = []
        at: ast.expr = node
        while isinstance(at, ast.Attribute):
            attributes.insert(0, at.attr)
            at = at.value
        if isinstance(at, ast.Name):
            yield node, at.id, tuple(attributes)


def _tree(function: Callable[..., Any]) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source: what it calls is not known
        return None


def _names(code: CodeType) -> frozenset[str]:
    inside = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(code.co_names).union(*map(_names, inside))
