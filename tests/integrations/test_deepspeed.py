"""DeepSpeed's ZeRO stages 1 and 2 in two processes, on processors (`make test-deepspeed`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.integrations.launching import DDP, adapter, resume, run

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow


@pytest.fixture(params=[1, 2])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A configuration for the optimiser that Trainer makes, without DeepSpeed's compiled ones."""
    path = tmp_path / "deepspeed.json"
    config = {
        "zero_optimization": {"stage": request.param},
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    path.write_text(json.dumps(config))
    return str(path)


def test_zero_trains_to_the_weights_of_ddp_and_resumes_to_its_own(
    tiny_llama: Path, tmp_path: Path, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(DDP, tiny_llama, tmp_path / "ddp")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    out, resumed = tmp_path / "out", tmp_path / "resumed"
    found = run(DDP, tiny_llama, out, "--deepspeed", settings)
    assert found["kind"] == "DistributedType.DEEPSPEED"
    left, right = adapter(tmp_path / "ddp"), adapter(out)
    resume(DDP, tiny_llama, out, resumed, "--deepspeed", settings)
    again = adapter(resumed)
    # ZeRO sums gradients in another order than DDP: the same bits on some processors only.
    torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, right, rtol=1e-6, atol=1e-7)
