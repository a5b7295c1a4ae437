"""Versions of other libraries that this one was tested with, and how a misfit is said."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType

from ailora.errors import UserError

# Oldest and newest; `docs/compatibility.md` lists the environments. The oldest are the lower bounds
# in pyproject.toml. There are no upper ones: what a newer version breaks is said where it is used.
TESTED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"peft": ("0.18.1", "0.21.2"), "transformers": ("4.57.6", "5.24.0"), "torch": ("2.6", "2.13")}
)


def is_transformers_4() -> bool:
    """Whether transformers is older than 5.0, where `from_pretrained` works in another way."""
    return version("transformers").startswith("4.")


def misfit(package: str, what: str) -> UserError:
    """The error of a version of a package that lacks what this library uses of it.

    Args:
        package: A key of `TESTED`.
        what: What it lacks, such as ``"LoraModel.inject_adapter is not there"``.
    """
    oldest, newest = TESTED[package]
    return UserError(
        f"ailora {version('ailora')} does not fit {package} {version(package)}: {what}; install "
        f"{package} {oldest} to {newest}, with which it is known to work, or a newer ailora"
    )


def misfit_of(error: ImportError) -> UserError | None:
    """`misfit` for an import that failed; None where the package itself is missing, or another."""
    module = error.name or ""
    package = module.partition(".")[0]
    if package not in TESTED or (module == package and isinstance(error, ModuleNotFoundError)):
        return None
    return misfit(package, str(error).partition(" (")[0])
