"""Starts in multi-head latent attention, whose values are rows between the keys', head by head."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ailora
from ailora import presets
from ailora.roles import find_projections
from tests.adapters.models import parts
from tests.adapters.test_feed_forward import DTYPES, base, batch, logits, train

# With a latent for the query and without, a query beside its gate, no position at all.
TYPES = ("deepseek_v3", "deepseek_v2", "axk2", "kimi_linear")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", TYPES)
def test_step_0_and_the_disabled_adapter_are_the_base_bit_for_bit(
    model_type: str, dtype: torch.dtype
) -> None:
    inputs = batch(base(model_type))
    before = logits(base(model_type, dtype), inputs)
    model = ailora.get_peft_model(base(model_type, dtype), presets.ailora(3))
    assert torch.equal(logits(model, inputs), before)
    train(model, inputs)
    trained = logits(model, inputs)
    assert not torch.equal(trained, before)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), before)


@pytest.mark.parametrize("model_type", TYPES)
def test_queries_start_from_the_largest_and_values_from_the_smallest_of_their_own_rows(
    model_type: str,
) -> None:
    model = ailora.get_peft_model(base(model_type), presets.ailora(3))
    weights = {p.key: (p.role, p.weight().double()) for p in find_projections(model, ["q", "v"])}
    seen = parts(model)
    assert seen.keys() == weights.keys()
    for key, part in seen.items():
        role, W = weights[key]
        U, S, Vt = torch.linalg.svd(W, full_matrices=False)
        chosen = slice(0, 3) if role == "q" else slice(S.shape[0] - 3, None)
        wanted = (U[:, chosen] * S[chosen]) @ Vt[chosen]
        got = part.scaling * part.B0.double() @ part.A0.double()
        assert torch.linalg.norm(got - wanted) < 1e-5 * torch.linalg.norm(wanted), key


@pytest.mark.parametrize("anchored", [True, False])
def test_keys_do_not_move_where_queries_and_values_train(anchored: bool) -> None:
    before = {p.key: p.weight().clone() for p in find_projections(base("deepseek_v3"))}
    model = ailora.get_peft_model(base("deepseek_v3"), presets.ailora(3, anchored=anchored))
    train(model, batch(base("deepseek_v3")), 5)
    for p in find_projections(model.merge_and_unload()):
        moved = float((p.weight() - before[p.key]).norm() / before[p.key].norm())
        assert moved > 1e-3 if p.role in "qv" else moved < 1e-6, p.key


STOCK_PROCESS = """
import sys
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

base, adapter, out = sys.argv[1:]
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype="auto")
model = PeftModel.from_pretrained(model, adapter).eval()
ids = torch.arange(5, 45).view(4, 10)
with torch.no_grad():
    result = {"logits": model(ids).logits, "merged": model.merge_and_unload()(ids).logits}
assert "ailora" not in sys.modules
save_file(result, out)
"""


@pytest.mark.parametrize("dtype", DTYPES)
def test_stock_peft_in_another_process_reproduces_the_logits_and_merges_them(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = base("deepseek_v3", dtype)
    inputs = batch(model)
    model.save_pretrained(tmp_path / "base")
    model = ailora.get_peft_model(model, presets.ailora(3))
    train(model, inputs)
    wanted = logits(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    paths = (tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    subprocess.run([sys.executable, "-c", STOCK_PROCESS, *map(str, paths)], check=True)
    result = load_file(tmp_path / "out")
    assert torch.equal(result["logits"], wanted)
    loose = 1e-5 if dtype is torch.float32 else 0.15
    torch.testing.assert_close(result["merged"], wanted, rtol=0, atol=loose)
