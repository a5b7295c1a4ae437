"""The pytest plugin with which PEFT's tests run: whose factors, which cases, what is recorded.

With ``--factors=ailora`` the tests' ``LoraConfig`` is an `AILoRAConfig` whose every selected layer
starts from its principal part, anchored; all other fields keep PEFT's defaults. The class keeps
its name too, so that a case has the same id with either.

PEFT's tests write ``init_lora_weights=False`` for an adapter that is no identity, as if it had been
trained. An AILoRAConfig takes no other start, so here the adapter is started and then moved: both
halves of A' alike and the trained half of B', as training moves them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig as StockConfig
from peft import PeftConfig
from peft.tuners.lora import LoraModel
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from ailora import AILoRAConfig, Role
from ailora.adapters.factors import Factor, placed
from ailora.adapters.record import StartedConfig
from tests.lines import add_line, read_lines

MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # whose factors PEFT makes of such layers


class _Kind(type):
    """A started adapter's config, and one that was read from a file, are LoRA's to these tests."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, StockConfig)


@dataclass(repr=False)
class LoraConfig(AILoRAConfig, metaclass=_Kind):
    """An AILoRAConfig that anchors whatever is selected.

    LoRA's default rank is 8 with a scale of 1; here it is 2, since that many triplets is what the
    thinnest layers of the tests' own models have.
    """

    r: int = 2
    lora_alpha: float | None = 2
    roles: Any = field(default_factory=lambda: {"*": Role(init="principal")})

    def __post_init__(self) -> None:
        self.is_moved = self.init_lora_weights is False
        if self.is_moved:
            self.init_lora_weights = True
        super().__post_init__()


@dataclass
class Seen:
    """What one case did.

    Attributes:
        configs: LoRA configs made.
        wrapped: Adapters that an AILoRAConfig started.
        anchored: Anchored layers of all of them.
        bare: Started adapters without an anchored layer.
    """

    configs: int = 0
    wrapped: int = 0
    anchored: int = 0
    bare: int = 0
    outcome: str = "passed"
    error: str = ""


seen = Seen()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("peft_suite")
    group.addoption("--factors", choices=("lora", "ailora"), default="lora")
    group.addoption("--record", type=Path, help="JSON lines, one per case; those in it are done")
    group.addoption("--share", type=float, default=1.0, help="the part of the cases that is run")
    group.addoption("--seed", type=int, default=0, help="which part")
    group.addoption("--cases", type=Path, help="a file with the ids to run, one per line")


def pytest_configure(config: pytest.Config) -> None:
    _count_configs()
    if config.getoption("--factors") == "ailora":
        _watch_starts()


def _count_configs() -> None:
    original = StockConfig.__post_init__

    def counted(self: Any) -> None:
        seen.configs += 1
        original(self)

    StockConfig.__post_init__ = counted


def _watch_starts() -> None:
    original = LoraModel.inject_adapter

    def watched(tuner: LoraModel, model: nn.Module, adapter: str, *args: Any, **kw: Any) -> None:
        config = tuner.peft_config[adapter]
        if type(config) is not LoraConfig:
            original(tuner, model, adapter, *args, **kw)
            return
        if config.target_modules is None and not config.target_parameters:
            config.target_modules = _stock_targets(model)
        original(tuner, model, adapter, *args, **kw)
        assert isinstance(tuner.peft_config[adapter], StartedConfig)
        anchored = _anchored_layers(model, adapter)
        seen.wrapped += 1
        seen.anchored += anchored
        seen.bare += not anchored
        if config.is_moved:
            tuner.__dict__.pop("_ailora_pending", None)  # PEFT's cast would bring the start back
            _move(model, adapter)

    LoraModel.inject_adapter = watched


def _stock_targets(model: nn.Module) -> set[str] | None:
    """The modules that PEFT chooses if none are named, where an AILoRAConfig would take more."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    names = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind)
    return set(names) if names else None


def _anchored_layers(model: nn.Module, adapter: str) -> int:
    return sum(
        isinstance(factor := _factor(module, "lora_B", adapter), Factor) and factor.is_anchored
        for module in model.modules()
    )


def _factor(module: nn.Module, side: str, adapter: str) -> nn.Module | None:
    factors = getattr(module, side, None)
    return factors[adapter] if isinstance(factors, nn.ModuleDict) and adapter in factors else None


@torch.no_grad()
def _move(model: nn.Module, adapter: str) -> None:
    """Change an adapter as training would, or as ``init_lora_weights=False`` does to plain LoRA."""
    for module in model.modules():
        for side in ("lora_A", "lora_B"):
            factor = _factor(module, side, adapter)
            if isinstance(factor, Factor):
                _move_factor(factor)
            elif isinstance(factor, MODULES) and side == "lora_B":
                factor.reset_parameters()
        embedding = getattr(module, "lora_embedding_B", {})
        if adapter in embedding:
            nn.init.normal_(embedding[adapter])


def _move_factor(factor: Factor) -> None:
    weight = factor.weight
    if weight.is_meta:
        return
    for block, start in placed(factor.blocks):
        if factor.side == "A":
            change = torch.empty_like(weight[start : start + block.rank])
            nn.init.uniform_(change, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
            for first in range(start, start + block.width, block.rank):
                weight[first : first + block.rank] += change
        else:
            columns = weight[:, start : start + block.rank]
            columns += torch.empty_like(columns).uniform_(-(block.rank**-0.5), block.rank**-0.5)


# --- Collecting ------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Only what the tests import is another class: PEFT and ailora keep theirs."""
    if not isinstance(collector, pytest.Module):
        return (yield)
    with _names_of_tests(ours=collector.config.getoption("--factors") == "ailora"):
        return (yield)


@contextmanager
def _names_of_tests(*, ours: bool) -> Iterator[None]:
    from peft_tests import testing_utils  # the unpacked archive

    testing_utils.hub_online_once = _as_it_is  # it would go online
    kept = peft.LoraConfig
    if ours:
        peft.LoraConfig = testing_utils.LoraConfig = LoraConfig
    try:
        yield
    finally:
        peft.LoraConfig = kept


@contextmanager
def _as_it_is(model_id: str) -> Iterator[None]:
    yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    record, cases = config.getoption("--record"), config.getoption("--cases")
    done = {line["case"] for line in read_lines(record)} if record else set()
    asked = set(cases.read_text().splitlines()) if cases else None
    share, seed = config.getoption("--share"), config.getoption("--seed")
    items[:] = [
        item
        for item in items
        if item.nodeid not in done
        and (asked is None or item.nodeid in asked)
        and is_drawn(item.nodeid, share, seed)
        and _may_be_lora(item)
    ]


def is_drawn(case: str, share: float, seed: int) -> bool:
    """Whether a case is among the drawn share; the same on every machine."""
    digest = hashlib.sha256(f"{seed} {case}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _may_be_lora(item: pytest.Item) -> bool:
    """Leave out cases with another method's config as a parameter."""
    spec = getattr(item, "callspec", None)
    values = list(spec.params.values()) if spec else []
    kinds = [_config_class(value) for value in values]
    kinds = [kind for kind in kinds if kind is not None]
    return not kinds or any(kind.__name__ == "LoraConfig" for kind in kinds)


def _config_class(value: Any) -> type | None:
    kind = value if isinstance(value, type) else type(value)
    return kind if issubclass(kind, PeftConfig) else None


# --- Recording -------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    vars(seen).update(vars(Seen()))
    torch.manual_seed(0)
    result = yield
    record = item.config.getoption("--record")
    if record:
        add_line(record, {"case": item.nodeid, **vars(seen)})
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield
    if report.failed:
        seen.outcome, seen.error = "failed", _error(call)
    elif report.skipped and seen.outcome == "passed":
        seen.outcome = "xfailed" if hasattr(report, "wasxfail") else "skipped"
        seen.error = str(getattr(report, "wasxfail", None) or report.longrepr)[-400:]
    return report


def _error(call: pytest.CallInfo[None]) -> str:
    """Where a case failed and with what, in one line; and with what before that."""
    found = call.excinfo
    crash = found.traceback[-1]
    text = f"{crash.path.name}:{crash.lineno + 1} {found.exconly(tryshort=True)}"
    before = found.value.__context__
    if before is not None:  # as of ``pytest.warns``, which hides what it stopped at
        text = f"{text[:600]} after {type(before).__name__}: {before}"
    return " ".join(text.split())[:1000]
