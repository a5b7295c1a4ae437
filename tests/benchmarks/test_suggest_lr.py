"""The benchmark of suggested rates: its search for the best rate, and the table of its figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "learning-rate.md"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import suggest_lr

    return suggest_lr


def searched(benchmark: ModuleType, loss: Callable[[float, int], float]) -> dict[Any, Any]:
    losses: dict[int, dict[int, float]] = {}
    for _ in range(30):
        wanted = benchmark.wanted_runs(losses)
        if not wanted:
            return losses
        for k, seed in wanted:
            assert seed not in losses.get(k, {}), "a run is asked for twice"
            losses.setdefault(k, {})[seed] = loss(k / 4, seed)
    raise AssertionError("the search does not end")


@pytest.mark.parametrize("best", [-4.6, -3.9, -3.0, -2.5, -2.13, -1.1, -0.4])
def test_the_search_finds_the_vertex_wherever_it_lies(benchmark: ModuleType, best: float) -> None:
    def loss(log_rate: float, seed: int) -> float:  # the seeds differ by a tenth of a decade
        return (log_rate - best - 0.05 * (-1) ** seed) ** 2 + 0.3

    losses = searched(benchmark, loss)
    assert benchmark.vertex(losses) == pytest.approx(best, abs=1e-9)
    assert benchmark.vertex(losses, [0]) == pytest.approx(best + 0.05, abs=1e-9)


def test_where_training_diverges_the_best_finite_rate_stands(benchmark: ModuleType) -> None:
    losses = searched(benchmark, lambda log_rate, _: math.inf if log_rate > -2.6 else -log_rate)
    assert benchmark.vertex(losses) == -2.75


def test_a_best_rate_at_the_end_of_all_rates_is_none(benchmark: ModuleType) -> None:
    losses = searched(benchmark, lambda log_rate, _: log_rate)
    assert benchmark.vertex(losses) is None


def test_the_best_constant_has_most_hits(benchmark: ModuleType) -> None:
    cells = [{"log_multiple": one} for one in (-1.0, -0.9, -0.6, 0.4, None)]
    multiple, hits, known = benchmark.best_constant(cells)
    assert (hits, known) == (3, 4)
    assert all(abs(math.log10(multiple) - one) <= 0.25 for one in (-1.0, -0.9, -0.6))


def test_the_page_has_the_table_of_the_figures(benchmark: ModuleType) -> None:
    found = json.loads(benchmark.OPTIMA.read_text(encoding="utf-8"))
    assert benchmark.markdown(found) in PAGE.read_text(encoding="utf-8")
