"""A service that makes adapters all day holds no more at the end than at the beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.load.measured import on_linux, said_by

# safetensors 0.8 keeps a number of 32 bytes for each tensor that it has read: here 0.3 kB each.
MOST = {"memory": 1 << 20, "handles": 0, "objects": 25}


def grown(samples: Sequence[dict[str, Any]]) -> list[str]:
    """What a process held more of at its end than halfway, beyond `MOST`."""
    middle, last = samples[len(samples) // 2], samples[-1]
    return [name for name, most in MOST.items() if last[name] - middle[name] > most]


@on_linux
@pytest.mark.slow
def test_a_thousand_adapters_in_one_process_leave_nothing_behind() -> None:
    samples = said_by("-m", "tests.load.many_adapters", 1000)
    assert samples[-1]["adapters"] == 1000
    assert grown(samples) == []


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("leak", MOST)
def test_a_leak_would_be_seen(leak: str) -> None:
    assert leak in grown(said_by("-m", "tests.load.many_adapters", 150, leak))
