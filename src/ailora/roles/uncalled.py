"""Linear layers that are never called, because the module around them reads their weights itself.

`nn.MultiheadAttention` and WavLM hand weights to a function of torch. An adapter is a layer around
a layer, so here it would change nothing before it is merged, and something else than was trained
afterwards. What a module does with its layers is read from its code.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
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
    functions = [(f, children & _names(f.__code__)) for f in _functions(cls)]
    suspects = {name for f, names in functions if "weight" in _names(f.__code__) for name in names}
    read: set[str] = set()
    called: set[str] = set()
    for function, names in functions:
        if names & suspects:
            for name, attributes in _uses(function):
                if name in suspects and attributes[:1] == ("weight",):
                    read |= set() if _ABOUT.intersection(attributes[1:2]) else {name}
                elif name in suspects and attributes[:1] != ("bias",):
                    called.add(name)
    return frozenset(read if cls.__module__.startswith("torch.") else read - called)


def _functions(cls: type) -> Iterator[Callable[..., Any]]:
    """``forward`` and the methods that it names, and those that these name: others do not run."""
    left, seen = ["forward"], set[str]()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
            value = vars(base).get(name)
            function = inspect.unwrap(value) if callable(value) else None
            if inspect.isfunction(function):
                names = _names(function.__code__)
                left += names
                yield function
                if "super" not in names:
                    break


def _names(code: CodeType) -> frozenset[str]:
    inside = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(code.co_names).union(*map(_names, inside))


def _uses(function: Callable[..., Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each use of ``self.NAME`` in a function, with the attributes that follow the name."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source: what it calls is not known
        return
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        attributes: list[str] = []
        at: ast.expr = node
        while isinstance(at, ast.Attribute):
            attributes.insert(0, at.attr)
            at = at.value
        if isinstance(at, ast.Name) and at.id == "self":
            yield attributes[0], tuple(attributes[1:])
