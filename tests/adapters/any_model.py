"""Tiny models of any architecture with adapters: what each promises, and stock PEFT beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import ailora
from ailora import AILoRAConfig, Role
from ailora.roles import find_projections
from tests.adapters.models import parts
from tests.architectures import build
from tests.other_process import run_elsewhere

DTYPES = (torch.float32, torch.bfloat16)


def base(model_type: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = build(model_type)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)  # transformers starts some at a size at which nothing matters
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            parameter.data = parameter.data.to(dtype)  # buffers stay, as from_pretrained has it
    return model


def batch(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    ids = torch.arange(5, 45).view(4, 10)
    names = ["input_ids", *(["decoder_input_ids"] if model.config.is_encoder_decoder else [])]
    return dict.fromkeys(names, ids)


@torch.no_grad()
def logits(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs).logits


def train(model: torch.nn.Module, inputs: dict[str, torch.Tensor], steps: int = 3) -> None:
    optimizer = ailora.create_optimizer(model, lr=1e-2)
    for _ in range(steps):
        model(**inputs).logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def check_step_0(model_type: str, dtype: torch.dtype, config: AILoRAConfig) -> None:
    """Step 0 and the disabled adapter are the base bit for bit; merged it computes the same."""
    inputs = batch(base(model_type))
    before = logits(base(model_type, dtype), inputs)
    model = ailora.get_peft_model(base(model_type, dtype), config)
    assert torch.equal(logits(model, inputs), before)
    train(model, inputs)
    trained = logits(model, inputs)
    assert not torch.equal(trained, before)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), before)
    merged = logits(model.merge_and_unload(), inputs)
    if config.target_parameters and dtype is not torch.float32:
        assert merged.isfinite().all()
        # Rounding may send a token to another expert: the one that is furthest away is left out.
        token = (merged - trained).abs().amax(-1).argmax()
        merged.view(-1, merged.shape[-1])[token] = trained.view(-1, merged.shape[-1])[token]
    check_merged(merged, trained, dtype)


def check_merged(merged: torch.Tensor, trained: torch.Tensor, dtype: torch.dtype) -> None:
    """A merged model computes the same but for its dtype's rounding."""
    loose = 1e-5 if dtype is torch.float32 else 0.15
    torch.testing.assert_close(merged, trained, rtol=0, atol=loose)


def check_own_parts(model: PeftModel, roles: Mapping[str, Role], r: int = 8) -> None:
    """Factors are their role's part of their own rows, by an SVD in float64."""
    weights = {p.key: (p.role, p.weight().double()) for p in find_projections(model, list(roles))}
    seen = parts(model)
    assert seen.keys() == weights.keys()
    for key, part in seen.items():
        role, W = weights[key]
        if roles[role].init == "gaussian":
            assert not part.B.any()
            continue
        U, S, Vt = torch.linalg.svd(W, full_matrices=False)
        rank = roles[role].r or r
        largest = roles[role].init == "principal"
        chosen = slice(0, rank) if largest else slice(S.shape[0] - rank, None)
        wanted = (U[:, chosen] * S[chosen]) @ Vt[chosen]
        got = part.scaling * part.B0.double() @ part.A0.double()
        assert torch.linalg.norm(got - wanted) < 1e-5 * torch.linalg.norm(wanted), key


STOCK_PROCESS = """
import sys
import torch
from pathlib import Path
from peft import PeftModel
from safetensors.torch import load_file, save_file
import transformers

torch.set_num_threads(1)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    name, dtype = (folder / "class").read_text().split()
    model = getattr(transformers, name).from_pretrained(
        folder / "base", dtype=getattr(torch, dtype), attn_implementation="eager"
    )
    model = PeftModel.from_pretrained(model, folder / "adapter").eval()
    with torch.no_grad():
        inputs = load_file(folder / "inputs")
        result = {"logits": model(**inputs).logits}
    adapted = [n for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A")]
    (folder / "adapted").write_text(" ".join(adapted))
    with torch.no_grad():
        result["merged"] = model.merge_and_unload()(**inputs).logits
    save_file(result, folder / "out")
assert "ailora" not in sys.modules
"""


def save_both(model: PeftModel, plain: PreTrainedModel, folder: Path) -> None:
    folder.mkdir()
    plain.save_pretrained(folder / "base")
    model.save_pretrained(folder / "adapter")
    save_file({k: v.clone() for k, v in batch(plain).items()}, folder / "inputs")
    (folder / "class").write_text(f"{type(plain).__name__} {str(plain.dtype).rpartition('.')[2]}")


def train_and_save(model: PeftModel, plain: PreTrainedModel, folder: Path) -> torch.Tensor:
    """Train an adapter, save it with its base as `run_stock_peft` reads them; its logits."""
    train(model, batch(plain))
    save_both(model, plain, folder)
    return logits(model, batch(plain))


def run_stock_peft(folder: Path) -> None:
    """Let stock PEFT compute with what `save_both` wrote into the folders below this one."""
    run_elsewhere(STOCK_PROCESS, folder)


def check_stock_peft(wanted: Mapping[Path, torch.Tensor]) -> None:
    """Stock PEFT in another process computes these logits from folders beside one another."""
    run_stock_peft(next(iter(wanted)).parent)
    for folder, expected in wanted.items():
        got = load_file(folder / "out")["logits"]
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5, msg=folder.name)
