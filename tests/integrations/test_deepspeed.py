"""DeepSpeed's ZeRO stages in two processes, on processors (`make test-deepspeed`)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel
from safetensors.torch import load_file

from tests.checkpoints.models import saved
from tests.integrations.launching import DDP, adapter, launch, resume, run

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow


def settings(folder: Path, stage: int) -> list[str]:
    """Options for the optimiser that Trainer makes, without DeepSpeed's compiled ones."""
    sharded: dict[str, Any] = {
        "stage3_gather_16bit_weights_on_model_save": True,  # or DeepSpeed saves pieces
        "stage3_param_persistence_threshold": 0,  # tiny weights in pieces, too
    }
    config = {
        "zero_optimization": {"stage": stage} | (sharded if stage == 3 else {}),
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    path = folder / f"zero-{stage}.json"
    path.write_text(json.dumps(config))
    return ["--deepspeed", str(path)]


@pytest.fixture(autouse=True)
def on_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_trains_to_the_weights_of_ddp_and_resumes_to_its_own(
    tiny_llama: Path, tmp_path: Path, stage: int
) -> None:
    run(DDP, tiny_llama, tmp_path / "ddp")
    out, resumed = tmp_path / "out", tmp_path / "resumed"
    zero = settings(tmp_path, stage)
    found = run(DDP, tiny_llama, out, *zero)
    assert found["kind"] == "DistributedType.DEEPSPEED"
    assert found["whole"] == (stage < 3)
    left, right = adapter(tmp_path / "ddp"), adapter(out)
    resume(DDP, tiny_llama, out, resumed, *zero)
    again = adapter(resumed)
    # ZeRO sums gradients in another order than DDP: the same bits on some processors only.
    torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, right, rtol=1e-6, atol=1e-7)


def test_under_zero_3_the_start_is_ddps_and_what_is_saved_is_whole(
    tiny_llama: Path, tmp_path: Path
) -> None:
    run(DDP, tiny_llama, tmp_path / "ddp")
    run(DDP, tiny_llama, tmp_path / "out", *settings(tmp_path, 3))
    (start, *others) = (
        load_file(tmp_path / name / f"start-{rank}.safetensors")
        for name, rank in (("ddp", 0), ("out", 0), ("out", 1))
    )
    for other in others:
        torch.testing.assert_close(other, start, rtol=0, atol=0)
    base = hf.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    left, right = (
        PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / name / "adapter")).eval()
        for name in ("ddp", "out")
    )
    with torch.no_grad():
        tokens = torch.arange(4, 10)[None]
        torch.testing.assert_close(left(tokens).logits, right(tokens).logits, rtol=0, atol=1e-5)
        assert not torch.allclose(base(tokens).logits, right(tokens).logits, atol=1e-3)


@pytest.mark.parametrize("stage", [2, 3])
def test_weight_decay_is_refused_at_the_first_step(
    tiny_llama: Path, tmp_path: Path, stage: int
) -> None:
    """ZeRO steps on flat pieces of A' and B': it would shrink their frozen halves, too."""
    done = launch(
        DDP, tiny_llama, tmp_path / "out", "--weight-decay", "0.1", *settings(tmp_path, stage)
    )
    assert done.returncode != 0
    assert "UserError: DeepSpeed ZeRO steps on flat pieces of the factors" in done.stderr
    assert not (tmp_path / "out" / "checkpoint-3").exists()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_optimiser_of_pieces_that_ignores_the_roles_is_warned_of(
    tiny_llama: Path, tmp_path: Path, stage: int
) -> None:
    warning = "this optimiser trains roles with different lr_ratio at one rate"
    zero = settings(tmp_path, stage)
    done = launch(DDP, tiny_llama, tmp_path / "out", "--without-rates", *zero)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(warning) == 2  # once in each process
    baked = launch(DDP, tiny_llama, tmp_path / "baked", *zero)
    assert baked.returncode == 0, baked.stderr[-3000:]
    assert warning not in baked.stderr


def test_rates_within_a_fused_layer_are_refused_at_the_first_step(tmp_path: Path) -> None:
    model = saved(tmp_path / "gpt2", "gpt2")
    done = launch(DDP, model, tmp_path / "out", *settings(tmp_path, 2))
    assert done.returncode != 0
    assert "where roles of one fused layer cannot have rates of their own" in done.stderr


def test_folding_into_pieces_is_refused_before_anything_is_changed(
    tiny_llama: Path, tmp_path: Path
) -> None:
    done = launch(DDP, tiny_llama, tmp_path / "out", "--folded", *settings(tmp_path, 3))
    assert done.returncode != 0
    assert "which DeepSpeed ZeRO-3 holds in pieces; use anchored=True" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
