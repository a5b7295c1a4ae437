"""From a checkpoint's files to an adapter for any trainer, and back to a plain LoRA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import PeftModel
from safetensors.torch import load_file

import ailora
from ailora import presets
from ailora.errors import UserError
from ailora.files import sha256_of
from ailora.offline import export_adapter, init_files, merge_adapter
from tests.other_process import run_elsewhere

FOLDED = presets.ailora(3, anchored=False, task_type="CAUSAL_LM", bake_rates=True)
FUSED = presets.ailora(3, anchored=False, task_type="CAUSAL_LM")
TOKENS = torch.arange(1, 41).view(4, 10)

# What a user without ailora does with the files; importing it fails there.
STOCK = """
import sys; sys.modules["ailora"] = None
import torch, transformers
from peft import PeftModel
model, adapter, out = sys.argv[1:]
base = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
if adapter != "-":
    base = PeftModel.from_pretrained(base, adapter)
from safetensors.torch import save_file
with torch.no_grad():
    logits = base(input_ids=torch.arange(1, 41).view(4, 10)).logits
save_file({"logits": logits.float().contiguous()}, out)
"""


def save(folder: Path, kind: str, dtype: torch.dtype = torch.float32, hidden: int = 32) -> Path:
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "initializer_range": 0.2}
    if kind == "gpt2":
        config = hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=32, **shape)
        model: hf.PreTrainedModel = hf.GPT2LMHeadModel(config)
    else:
        config = hf.LlamaConfig(
            hidden_size=hidden,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            **shape,
        )
        model = hf.LlamaForCausalLM(config)
    model.to(dtype).save_pretrained(folder, max_shard_size="20KB")
    return folder


def load(folder: Path) -> hf.PreTrainedModel:
    return hf.AutoModelForCausalLM.from_pretrained(folder).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits.float()


def elsewhere(model: Path, adapter: Path | str, tmp_path: Path) -> torch.Tensor:
    out = tmp_path / "logits.safetensors"
    run_elsewhere(STOCK, model, adapter, out)
    return load_file(out)["logits"]


def train(model: torch.nn.Module, steps: int = 4) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(steps):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_start_trained_by_stock_peft_comes_back_as_a_plain_lora_of_the_original(
    kind: str, tmp_path: Path
) -> None:
    original, out = save(tmp_path / "original", kind), tmp_path / "out"
    before = logits(load(original))
    init_files(str(original), out, FUSED if kind == "gpt2" else FOLDED)
    torch.testing.assert_close(
        elsewhere(out / "model", out / "adapter", tmp_path), before, rtol=1e-4, atol=1e-4
    )
    assert (logits(load(out / "model")) - before).abs().max() > 0.01  # the residual alone
    trained = PeftModel.from_pretrained(
        load(out / "model"), str(out / "adapter"), is_trainable=True
    )
    train(trained)
    trained.save_pretrained(tmp_path / "trained")
    after = logits(trained)
    assert (after - before).abs().max() > 0.01
    export_adapter(tmp_path / "trained", tmp_path / "plain", folded_base=True)
    torch.testing.assert_close(
        elsewhere(original, tmp_path / "plain", tmp_path), after, rtol=1e-3, atol=1e-3
    )
    merge_adapter(tmp_path / "trained", str(original), tmp_path / "merged", folded_base=True)
    torch.testing.assert_close(
        elsewhere(tmp_path / "merged", "-", tmp_path), after, rtol=1e-3, atol=1e-3
    )


def test_untouched_tensors_and_shards_are_the_same_bytes(tmp_path: Path) -> None:
    original, out = save(tmp_path / "original", "llama"), tmp_path / "out"
    init_files(str(original), out, FOLDED)
    left, right = (
        {
            name: tensor
            for shard in sorted(folder.glob("*.safetensors"))
            for name, tensor in load_file(shard).items()
        }
        for folder in (original, out / "model")
    )
    changed = {name for name, tensor in left.items() if not torch.equal(tensor, right[name])}
    assert left.keys() == right.keys()
    assert changed == {
        f"model.layers.{i}.self_attn.{role}_proj.weight" for i in (0, 1) for role in "qv"
    }


def test_anchored_files_are_those_of_the_wrapped_model(tmp_path: Path) -> None:
    original = save(tmp_path / "original", "llama")
    before = {path.name: sha256_of(path) for path in original.iterdir()}
    init_files(str(original), tmp_path / "out", presets.ailora(3))
    assert {path.name: sha256_of(path) for path in original.iterdir()} == before
    again = ailora.load_adapter(load(original), tmp_path / "out", is_trainable=True)
    wrapped = ailora.get_peft_model(load(original), presets.ailora(3))
    ours, theirs = again.state_dict(), wrapped.state_dict()
    assert any("lora_A" in name for name in ours) and ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(logits(again), logits(load(original)))


def test_a_bf16_residual_is_kept_where_little_of_the_part_is_lost(tmp_path: Path) -> None:
    original = save(tmp_path / "original", "llama", torch.bfloat16, hidden=256)
    report = init_files(str(original), tmp_path / "out", FOLDED)
    assert report.folded and all(row.loss < 0.01 for row in report.folded)
    coarse = init_files(str(original), tmp_path / "bf16", FOLDED, dtype="bfloat16")
    assert max(row.loss for row in coarse.folded) > 0.01


def test_compression_loses_what_the_tail_of_the_update_holds(tmp_path: Path) -> None:
    original = save(tmp_path / "original", "llama")
    model = ailora.get_peft_model(load(original), presets.ailora(4))
    train(model)
    model.save_pretrained(tmp_path / "adapter")
    export_adapter(tmp_path / "adapter", tmp_path / "exact")
    torch.testing.assert_close(
        elsewhere(original, tmp_path / "exact", tmp_path), logits(model), rtol=1e-4, atol=1e-4
    )
    report = export_adapter(tmp_path / "adapter", tmp_path / "small", rank=2)
    full, small = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "small")
    )
    scale = 1.0
    for row in report.modules:
        A, B = (f"base_model.model.{row.name}.lora_{letter}.weight" for letter in "AB")
        dW = scale * full[B].double() @ full[A].double()
        S = torch.linalg.svdvals(dW)
        off = dW - small[B].double() @ small[A].double()
        assert float(off.norm() / dW.norm()) == pytest.approx(row.frobenius, rel=1e-3)
        assert float(torch.linalg.matrix_norm(off, 2) / S[0]) == pytest.approx(
            row.spectral, rel=1e-3
        )
        assert float(S[2:].norm() / S.norm()) == pytest.approx(row.frobenius, rel=1e-3)


def test_bad_checkpoints_end_in_one_line_and_leave_nothing(tmp_path: Path) -> None:
    config, out = FOLDED, tmp_path / "out"
    truncated = save(tmp_path / "truncated", "llama")
    shard = max(truncated.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    os.truncate(shard, shard.stat().st_size // 2)
    absent = save(tmp_path / "absent", "llama")
    min(absent.glob("*.safetensors")).unlink()
    (tmp_path / "empty").mkdir()
    for folder in (truncated, absent, tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(UserError) as caught:
            init_files(str(folder), out, config)
        assert "\n" not in str(caught.value)
        assert not list(out.rglob("*.safetensors"))
    with pytest.raises(UserError, match="16"):  # v has 2 heads of 8 rows
        init_files(str(save(tmp_path / "good", "llama")), out, presets.ailora(20))
