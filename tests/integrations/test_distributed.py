"""Two processes: plain data parallelism, and FSDP2 through accelerate and Trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import PeftModel
from safetensors.torch import load_file

from ailora.versions import is_transformers_4
from tests.integrations.launching import DDP, adapter, fsdp, launch, resume, run

pytestmark = pytest.mark.slow


def test_every_rank_starts_from_the_same_factors_and_resumes_exactly(
    tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ddp"
    run(DDP, tiny_llama, out)
    first, second = (load_file(out / f"start-{rank}.safetensors") for rank in (0, 1))
    assert len(first) == 8
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    resumed = tmp_path / "resumed"
    resume(DDP, tiny_llama, out, resumed)
    left, right = adapter(out), adapter(resumed)
    assert all(torch.equal(value, right[key]) for key, value in left.items())


def test_fsdp2_trains_sharded_to_the_same_adapter_and_stock_peft_loads_it(
    tiny_llama: Path, tmp_path: Path
) -> None:
    run(DDP, tiny_llama, tmp_path / "ddp")
    found = run(fsdp(2), tiny_llama, tmp_path / "fsdp")
    assert found["sharded"] > 0
    assert found["kind"] == "DistributedType.FSDP"
    left, right = adapter(tmp_path / "ddp"), adapter(tmp_path / "fsdp")
    for key, value in left.items():
        torch.testing.assert_close(right[key], value, rtol=1e-4, atol=1e-5)
    base = hf.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    stock = PeftModel.from_pretrained(base, str(tmp_path / "fsdp" / "adapter"))
    assert torch.isfinite(stock(input_ids=torch.arange(4, 10)[None]).logits).all()


@pytest.mark.skipif(is_transformers_4(), reason="transformers 4 keeps Mixtral's experts as layers")
def test_stacks_of_experts_train_alike_in_parallel_and_sharded(tmp_path: Path) -> None:
    config = hf.MixtralConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=3,
    )
    hf.MixtralForCausalLM(config).save_pretrained(tmp_path / "model")
    run(DDP, tmp_path / "model", tmp_path / "ddp")
    launcher = fsdp(2, layer="MixtralDecoderLayer")
    found = run(launcher, tmp_path / "model", tmp_path / "fsdp")
    assert found["sharded"] > 0
    left, right = adapter(tmp_path / "ddp"), adapter(tmp_path / "fsdp")
    assert sum("experts" in key for key in left) == 8
    for key, value in left.items():
        torch.testing.assert_close(right[key], value, rtol=1e-4, atol=1e-5)
    resume(launcher, tmp_path / "model", tmp_path / "fsdp", tmp_path / "resumed")
    resumed = adapter(tmp_path / "resumed")
    assert all(torch.equal(value, resumed[key]) for key, value in right.items())


def test_fsdp2_resumes_fused_layers_to_the_same_bits(tmp_path: Path) -> None:
    """At the roles' own rates and with weight decay: `steps` works on shards."""
    config = hf.GPT2Config(
        vocab_size=32,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=3,
    )
    hf.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    launcher = fsdp(2, efficient=True, layer="GPT2Block")
    run(launcher, tmp_path / "model", tmp_path / "out")
    left = adapter(tmp_path / "out")
    resume(launcher, tmp_path / "model", tmp_path / "out", tmp_path / "resumed")
    right = adapter(tmp_path / "resumed")
    assert left and all("c_attn" in key for key in left)
    run(DDP, tmp_path / "model", tmp_path / "ddp")
    for key, value in adapter(tmp_path / "ddp").items():
        torch.testing.assert_close(left[key], value, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, right[key]) for key, value in left.items())


@pytest.mark.parametrize(
    ("efficient", "kind"), [(False, "FULL_STATE_DICT"), (True, "SHARDED_STATE_DICT")]
)
def test_fsdp2_resumes_to_the_same_bits_however_it_loads_and_saves(
    tiny_llama: Path, tmp_path: Path, efficient: bool, kind: str
) -> None:
    launcher, out, resumed = fsdp(2, efficient, kind), tmp_path / "out", tmp_path / "resumed"
    run(launcher, tiny_llama, out)
    left = adapter(out)
    found = resume(launcher, tiny_llama, out, resumed)
    right = adapter(resumed)
    assert found["sharded"] > 0
    assert all(torch.equal(value, right[key]) for key, value in left.items())
    assert all(value.chunk(2)[1].any() for key, value in left.items() if "lora_A" in key)


def test_fsdp_version_1_is_refused_before_it_trains(tiny_llama: Path, tmp_path: Path) -> None:
    done = launch(fsdp(1), tiny_llama, tmp_path / "fsdp")
    assert done.returncode != 0
    assert "FSDP version 1 was never tried with these factors; set fsdp_version: 2" in done.stderr
    assert not (tmp_path / "fsdp" / "start-0.safetensors").exists()
