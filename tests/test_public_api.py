"""The public names and their signatures, as users' programs rely on them.

A change on purpose: ``python -m tests.test_public_api`` writes them down again, and the diff and
CHANGELOG.md say what changed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

WRITTEN = Path(__file__).parent / "public_api.txt"
MODULES = (
    *("ailora", "ailora.adapters.presets", "ailora.linalg", "ailora.roles", "ailora.offline"),
    *("ailora.errors", "ailora.lab.training", "ailora.lab.tasks", "ailora.lab.methods"),
    *("ailora.lab.experiments",),
)


def lines() -> Iterator[str]:
    for name in MODULES:
        module = import_module(name)
        public = getattr(module, "__all__", None) or [
            one for one, value in vars(module).items() if getattr(value, "__module__", "") == name
        ]
        for one in sorted(public):
            yield from described(f"{name}.{one}", getattr(module, one))


def described(name: str, value: Any) -> Iterator[str]:
    if inspect.ismodule(value):
        yield f"{name} (module)"
    elif inspect.isclass(value):
        yield f"{name}{_signature(value)}"
        for inner, member in sorted(vars(value).items()):
            if not inner.startswith("_") and (inspect.isfunction(member) or _is_bound(member)):
                yield f"{name}.{inner}{_signature(getattr(value, inner))}"
            elif not inner.startswith("_") and isinstance(member, property):
                yield f"{name}.{inner} (property)"
    elif callable(value):
        yield f"{name}{_signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def _is_bound(member: Any) -> bool:
    return isinstance(member, classmethod | staticmethod)


def _signature(value: Any) -> str:
    # Fields of PEFT's own config are PEFT's to change.
    if inspect.isclass(value) and "LoraConfig" in {base.__name__ for base in value.__mro__}:
        names = ", ".join(sorted(value.__annotations__))
        return f"(peft.LoraConfig and: {names})"
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(value)))
    except ValueError:
        return "(...)"


def test_the_public_api_is_as_written() -> None:
    written = WRITTEN.read_text(encoding="utf-8").splitlines()
    now = list(lines())
    assert not [f"gone or changed: {line}" for line in written if line not in now]
    assert not [f"new or changed: {line}" for line in now if line not in written]


def test_a_changed_signature_would_be_seen() -> None:
    def one(a: int, *, b: str = "x") -> None: ...
    def other(a: int, *, c: str = "x") -> None: ...

    assert list(described("f", one)) == ["f(a: 'int', *, b: 'str' = 'x') -> 'None'"]
    assert list(described("f", one)) != list(described("f", other))


if __name__ == "__main__":
    WRITTEN.write_text("".join(f"{line}\n" for line in lines()), encoding="utf-8")
