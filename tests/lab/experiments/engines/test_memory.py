"""Memory as the machine and a container tell it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ailora.lab.experiments.engines.memory import available, kills, peak


def test_a_container_s_limit_counts_where_it_leaves_less(tmp_path: Path) -> None:
    free = psutil.virtual_memory().available
    assert available(tmp_path) == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.current").write_text("700\n")
    for limit, left in (("1000\n", 300), ("500\n", 0)):
        (tmp_path / "memory.max").write_text(limit)
        assert available(tmp_path) == left
    (tmp_path / "memory.max").write_text("max\n")
    assert available(tmp_path) == pytest.approx(free, rel=0.2)


def test_the_peak_is_at_least_what_is_held_now() -> None:
    held = psutil.Process().memory_info().rss
    assert held * 0.99 <= peak() <= 100 * held


def test_kills_of_the_machine_and_of_the_container_count(tmp_path: Path) -> None:
    vmstat, events = tmp_path / "vmstat", tmp_path / "memory.events"
    assert kills(vmstat, tmp_path) == 0
    vmstat.write_text("nr_free_pages 5\noom_kill 3\nswap_ra 1\n")
    assert kills(vmstat, tmp_path) == 3
    events.write_text("oom 9\noom_kill 2\noom_group_kill 0\n")
    assert kills(vmstat, tmp_path) == 5
