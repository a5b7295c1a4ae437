"""What runs of one process share changes nothing of what they leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from ailora.lab.methods import method_named
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, shared, train
from ailora.lab.training.kinds import kind_of
from ailora.lab.training.shared import Shared, content, of_model, of_start

BATCHES = 3  # of 20 rows, 8 at once


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per batch that Trainer evaluates by computing."""
    seen: list[int] = []
    own = Trainer.prediction_step

    def step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.state.global_step)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "prediction_step", step)
    return seen


def left_in(folder: Path) -> dict[str, bytes]:
    """All of a run's files but its settings and seconds."""
    paths = (*folder.glob("*/predictions-*.jsonl"), *folder.glob("*/adapter/*.safetensors"))
    assert len(paths) >= 3
    return {path.name: path.read_bytes() for path in paths}


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    history = [{k: v for k, v in line.items() if k != "seconds"} for line in result["history"]]
    return {**result, "history": history, "seconds": None}


@pytest.mark.parametrize(
    ("first", "second", "is_shared"),
    [
        ({"method": "lora"}, {"method": "ailora", "lr": 1e-2}, True),
        ({"method": "ailora"}, {"method": "lora", "lora_dropout": 0.2}, True),
        ({"method": "ailora"}, {"method": "ailora", "seed": 1}, False),  # another head
        ({"method": "lora"}, {"method": "pissa", "anchored": False}, False),
        ({"method": "lora"}, {"method": "dora"}, False),
        ({"method": "lora"}, {"method": "lora", "precision": "bf16"}, False),
        ({"method": "lora"}, {"method": "houlsby"}, False),
    ],
)
def test_a_run_after_another_ends_as_it_would_alone(
    first: dict[str, Any],
    second: dict[str, Any],
    is_shared: bool,
    config: RunConfig,
    task: TextTask,
    tmp_path: Path,
    batches: list[int],
) -> None:
    config, both = replace(config, epochs=1, precision="fp32"), Shared()
    train(replace(config, **first), task, tmp_path / "first", shared=both)
    batches.clear()
    found = train(replace(config, **second), task, tmp_path / "second", shared=both)
    assert batches.count(0) == (0 if is_shared else BATCHES)
    alone = train(replace(config, **second), task, tmp_path / "alone")
    assert without_seconds(found) == without_seconds(alone)
    assert left_in(tmp_path / "second") == left_in(tmp_path / "alone")


@pytest.mark.parametrize(
    ("changes", "exact"),
    [
        ({"method": "lora"}, True),
        ({"method": "ailora"}, True),
        ({"method": "ailora", "directions": "random"}, True),
        ({"method": "milora", "anchored": False}, False),
        ({"method": "dora"}, False),
        ({"method": "bitfit"}, False),
    ],
)
@torch.no_grad()
def test_only_an_update_of_nothing_is_an_exact_start(
    changes: dict[str, Any], exact: bool, config: RunConfig, task: TextTask
) -> None:
    config = replace(config, **changes)
    base, _ = kind_of(task, config).load()
    model = method_named(config.method).build(base, config, None)
    assert (of_start(model) is not None) is exact
    if exact:
        before = of_start(model)
        classifier = next(x for name, x in model.named_parameters() if "classifier" in name)
        classifier[0] += 1
        assert of_start(model) not in (before, None)
        factor = next(x for name, x in model.named_parameters() if "lora_B" in name)
        factor += 1
        assert of_start(model) is None


def test_any_weight_and_the_number_of_threads_make_another_model(
    config: RunConfig, task: TextTask
) -> None:
    base, _ = kind_of(task, config).load()
    known = [of_model(base)]
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.view(-1)[-1] += 1e-3
            known.append(of_model(base))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    known.append(of_model(base))
    torch.set_num_threads(threads)
    base.config.layer_norm_eps *= 2
    known.append(of_model(base))
    assert None not in known
    assert len(set(known)) == len(known)


def test_what_is_shared_is_a_copy_and_draws_nothing() -> None:
    both, value = Shared(), torch.ones(3)
    first = both.once("a", lambda: value)
    first += 1
    value += 1
    again = both.once("a", lambda: torch.zeros(3))
    assert again.tolist() == [1, 1, 1]
    again += 1
    assert both.once("a", lambda: torch.zeros(3)).tolist() == [1, 1, 1]
    drawn = [both.once("b", lambda: torch.rand(3)) for _ in range(2)]
    assert not torch.equal(*drawn)


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_MOST", 1000)
    monkeypatch.setattr(shared, "_ENTRIES", 5)
    both = Shared()
    for number in range(50):
        both.once(str(number), lambda: (torch.ones(60), None))  # 240 bytes
        assert both._bytes == 240 * len(both._kept) <= 1000
    assert list(both._kept) == ["46", "47", "48", "49"]
    both.once("large", lambda: torch.ones(1000))
    assert "large" not in both._kept
    for number in range(50):
        both.once(f"small {number}", lambda: torch.ones(1))
    assert len(both._kept) == 5


def test_content_tells_types_shapes_and_names_apart() -> None:
    x = torch.arange(4, dtype=torch.int32)
    parts = ({"a": x}, {"b": x}, {"a": x.float()}, {"a": x.view(2, 2)}, {"a": "x"}, "a", 1, "1")
    assert len({content(part) for part in parts}) == len(parts)
    assert content({"a": x, "b": x}) == content({"b": x.clone(), "a": x.clone()})
