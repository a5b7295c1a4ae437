"""The package from outside: what importing it costs, and what it shows."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
import time
from importlib import metadata

import pytest

import ailora

HEAVY = ("torch", "transformers", "peft", "datasets", "numpy", "pandas")


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_importing_ailora_is_quick_and_brings_no_heavy_library() -> None:
    began = time.perf_counter()
    loaded = in_a_fresh_process(
        f"import sys, ailora; print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert loaded == "[]"
    assert time.perf_counter() - began < 3


def test_a_heavy_library_would_be_seen() -> None:
    assert "torch" in in_a_fresh_process(
        f"import sys, ailora; ailora.Triplets; print([m for m in {HEAVY} if m in sys.modules])"
    )


@pytest.mark.parametrize("name", ailora.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    public = getattr(ailora, name)
    assert name in dir(ailora)
    assert inspect.getdoc(public)
    if inspect.isfunction(public):
        hints = inspect.signature(public)
        assert hints.return_annotation is not inspect.Signature.empty
        for parameter in hints.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, parameter.name


def test_there_are_about_nine_public_names() -> None:
    assert 9 <= len(ailora.__all__) <= 12
    assert ailora.__all__ == sorted(ailora.__all__)


def test_presets_are_documented() -> None:
    assert all(inspect.getdoc(getattr(ailora.presets, name)) for name in ailora.presets.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ailora' has no attribute 'lora'"):
        ailora.lora  # type: ignore[attr-defined]  # noqa: B018


def test_the_example_in_the_docstring_is_true() -> None:
    result = doctest.testmod(ailora)
    assert result.attempted >= 3
    assert result.failed == 0


def test_the_version_is_the_installed_one() -> None:
    assert metadata.version("ailora") == ailora.__version__


def test_the_package_says_that_it_is_typed() -> None:
    from importlib.resources import files

    assert files("ailora").joinpath("py.typed").is_file()
