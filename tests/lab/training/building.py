"""A hand on the model between the method that adapts it and the training."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ailora.lab.methods.table import Build, method_named
from ailora.lab.training import run


def build_through(patch: pytest.MonkeyPatch, around: Callable[..., Any]) -> None:
    """Let runs build by ``around(build, model, config, batches)`` in place of ``build``."""

    def named(name: str) -> SimpleNamespace:
        build: Build = method_named(name).build
        return SimpleNamespace(build=lambda *arguments: around(build, *arguments))

    patch.setattr(run, "method_named", named)
