"""A role inside a fused layer trains alone and is saved as a plain LoRA of the whole layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers as hf
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import ailora
from ailora import presets
from ailora.adapters.factors import Factor
from ailora.errors import UserError
from ailora.roles import find_projections
from tests.adapters.models import parts

VOCAB = 50


def gpt2() -> hf.PreTrainedModel:
    torch.manual_seed(0)
    config = hf.GPT2Config(
        vocab_size=VOCAB, n_positions=32, n_embd=24, n_layer=2, n_head=3, initializer_range=0.2
    )
    return hf.GPT2LMHeadModel(config).eval()


def phi3() -> hf.PreTrainedModel:
    torch.manual_seed(0)
    config = hf.Phi3Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    return hf.Phi3ForCausalLM(config).eval()


def bloom() -> hf.PreTrainedModel:
    torch.manual_seed(0)
    config = hf.BloomConfig(
        vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2
    )
    return hf.BloomForCausalLM(config).eval()


MODELS = pytest.mark.parametrize("build", [gpt2, phi3, bloom])
BASES = pytest.mark.parametrize("anchored", [True, False])
CONFIGS = {
    "ailora": presets.ailora(3),
    "mixed": ailora.AILoRAConfig(
        roles={
            "q": ailora.Role(init="principal", r=2, lora_alpha=3),
            "k": ailora.Role(init="gaussian", r=4, lora_alpha=6, lr_ratio=0.5),
            "v": ailora.Role(init="minor", r=3, lora_alpha=4.5, lr_ratio=2),
        },
    ),
    "baked": presets.pissa(2, lora_alpha=5, bake_rates=True),
}
TOKENS = torch.arange(1, 41).view(4, 10) % VOCAB


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def train(model: torch.nn.Module, steps: int = 3, lr: float = 1e-2) -> None:
    optimizer = ailora.create_optimizer(model, lr=lr)
    for _ in range(steps):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def matrices(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {p.key: p.weight().clone() for p in find_projections(model, ("q", "k", "v"))}


@pytest.mark.parametrize("name", CONFIGS)
@MODELS
def test_step_0_is_the_base_bit_for_bit_and_the_base_is_untouched(build, name: str) -> None:
    before, weights = logits(build()), matrices(build())
    model = ailora.get_peft_model(build(), CONFIGS[name])
    assert torch.equal(logits(model), before)
    train(model)
    assert not torch.equal(logits(model), before)
    assert all(torch.equal(weights[key], W) for key, W in matrices(model).items())
    with model.disable_adapter():
        assert torch.equal(logits(model), before)


@BASES
@MODELS
def test_only_the_rows_of_the_trained_roles_move(build, anchored: bool) -> None:
    weights = matrices(build())
    model = ailora.get_peft_model(build(), presets.ailora(3, anchored=anchored))
    train(model, 5)
    merged = matrices(model.merge_and_unload())
    moved = {
        role: max(
            float((merged[key] - W).norm() / W.norm())
            for key, W in weights.items()
            if key.endswith(f".{role}")
        )
        for role in ("q", "k", "v")
    }
    assert moved["k"] < 1e-6 < 1e-3 < min(moved["q"], moved["v"])


@MODELS
def test_the_start_holds_the_triplets_of_the_roles_rows(build) -> None:
    model = ailora.get_peft_model(build(), CONFIGS["mixed"])
    for key, role in parts(model).items():
        W = matrices(build())[key].double()
        U, S, Vt = torch.linalg.svd(W, full_matrices=False)
        rank = {"q": 2, "v": 3}.get(key[-1])
        if rank is None:
            assert not role.B.any()
            continue
        part = slice(0, rank) if key.endswith("q") else slice(S.shape[0] - rank, None)
        wanted = (U[:, part] * S[part]) @ Vt[part]
        got = role.scaling * role.B0.double() @ role.A0.double()
        assert torch.linalg.norm(got - wanted) < 1e-5 * torch.linalg.norm(wanted), key


@pytest.mark.parametrize("name", CONFIGS)
@MODELS
def test_the_files_are_a_plain_lora_for_stock_peft_and_exact_for_us(
    build, name: str, tmp_path: Path
) -> None:
    model = ailora.get_peft_model(build(), CONFIGS[name])
    train(model)
    model.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(build(), str(tmp_path))
    torch.testing.assert_close(logits(stock), logits(model), rtol=1e-6, atol=1e-6)
    again = ailora.load_adapter(build(), tmp_path, is_trainable=True)
    assert torch.equal(logits(again), logits(model))
    ours, theirs = (dict(m.named_parameters()) for m in (model, again))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    train(model), train(again)
    assert torch.equal(logits(again), logits(model))


@MODELS
def test_a_folded_adapter_starts_at_the_base_and_comes_back(build, tmp_path: Path) -> None:
    before = logits(build())
    model = ailora.get_peft_model(build(), presets.ailora(3, anchored=False))
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    train(model)
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(build(), tmp_path)
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)


@MODELS
def test_anchored_and_folded_train_alike_in_fp64(build) -> None:
    ends = []
    for anchored in (True, False):
        model = ailora.get_peft_model(build().double(), presets.ailora(3, anchored=anchored))
        train(model, 10)
        ends.append(logits(model))
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


@MODELS
def test_each_role_moves_at_its_own_rate_in_an_optimiser_of_ours(build) -> None:
    """Adam's first step has the size of the rate, whatever the gradient."""
    model = ailora.get_peft_model(build(), CONFIGS["mixed"])
    before = parts(model)
    before = {key: (part.A.clone(), part.B.clone()) for key, part in before.items()}
    optimizer = ailora.create_optimizer(model, lr=1e-3, eps=1e-20)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    for key, part in parts(model).items():
        wanted = 1e-3 * {"q": 1, "k": 0.5, "v": 2}[key[-1]]
        for letter, now, then in zip("AB", (part.A, part.B), before[key], strict=True):
            if key.endswith("k") and letter == "A":
                assert torch.equal(now, then)  # B is zero: no gradient yet
                continue
            torch.testing.assert_close(
                (now - then).abs(), torch.full_like(now, wanted), rtol=1e-2, atol=1e-6
            )


@pytest.mark.parametrize("name", ["ailora", "mixed"])
@pytest.mark.parametrize("decay", [0.0, 5.0])
def test_roles_of_one_layer_train_as_in_layers_of_their_own(name: str, decay: float) -> None:
    """Phi-3 is a LLaMA whose query, key and value are one layer."""
    fused, split = phi3().double(), llama_of(phi3()).double()
    torch.testing.assert_close(logits(split), logits(fused), rtol=0, atol=1e-10)
    ends, start = [], logits(fused)
    for base in (fused, split):
        torch.manual_seed(5)  # for the Gaussian start, in one order in both
        model = ailora.get_peft_model(base, CONFIGS[name])
        optimizer = ailora.create_optimizer(model, lr=5e-3, weight_decay=decay, eps=1e-16)
        for _ in range(6):
            model(input_ids=TOKENS, labels=TOKENS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(logits(model))
    assert (ends[0] - start).abs().max() > 1e-2
    torch.testing.assert_close(*ends, rtol=0, atol=1e-8)


def test_factors_in_shards_step_as_whole_ones_do() -> None:
    """As FSDP 2 has them, here in a group of one process."""
    models = [ailora.get_peft_model(gpt2(), CONFIGS["ailora"]) for _ in range(2)]
    whole, shards = ([m for m in one.modules() if isinstance(m, Factor)] for one in models)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for factor in shards:
            weight = distribute_tensor(factor.weight.detach(), mesh, [Shard(0)])
            factor.weight = nn.Parameter(weight)
        for model in models:
            optimizer = ailora.create_optimizer(model, lr=1e-2, weight_decay=0.5)
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
            optimizer.step()
        for ours, theirs in zip(whole, shards, strict=True):
            torch.testing.assert_close(theirs.weight.full_tensor(), ours.weight)
    finally:
        dist.destroy_process_group()


def llama_of(fused: hf.PreTrainedModel) -> hf.PreTrainedModel:
    config = fused.config.to_dict()
    wanted = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
              "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_parameters",
              "max_position_embeddings", "pad_token_id", "tie_word_embeddings")  # fmt: skip
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(**{name: config[name] for name in wanted if name in config})
    ).eval()
    weights = {}
    for key, value in fused.state_dict().items():
        names, sizes = [key], [value.shape[0]]
        if "qkv_proj" in key:
            names = [key.replace("qkv_proj", f"{letter}_proj") for letter in "qkv"]
            sizes = [32, 16, 16]
        elif "gate_up_proj" in key:
            names = [key.replace("gate_up_proj", f"{half}_proj") for half in ("gate", "up")]
            sizes = [40, 40]
        weights.update(zip(names, value.split(sizes), strict=True))
    model.load_state_dict(weights)
    return model


def test_at_another_optimisers_one_rate_the_ignored_ratio_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, heard in (("ailora", 1), ("baked", 1)):  # "baked" has one ratio for both
        model = ailora.get_peft_model(gpt2(), CONFIGS[name])
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        before = {key: part.B.clone() for key, part in parts(model).items()}
        optimizer.step()
        assert sum("at one rate" in record.message for record in caplog.records) == heard
        for key, part in parts(model).items():  # at one rate indeed
            assert float((part.B - before[key]).abs().max()) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("anchored", [True, False])
@MODELS
def test_scales_that_differ_are_refused_before_anything_changes(build, anchored: bool) -> None:
    """A LoRA of one layer has one scale."""
    unequal = {
        "q": ailora.Role(init="principal", lora_alpha=8),
        "v": ailora.Role(init="minor", lora_alpha=4),
    }
    for config, advice in (
        (presets.ailora(2, bake_rates=True, anchored=anchored), "ailora.create_optimizer"),
        (ailora.AILoRAConfig(r=4, roles=unequal, anchored=anchored), "the same lora_alpha / r"),
    ):
        model = build()
        weights = matrices(model)
        with pytest.raises(UserError, match=f"has one scale, where 'q' .* and 'v' .*{advice}"):
            ailora.get_peft_model(model, config)
        assert "lora" not in str(model)
        assert all(torch.equal(weights[key], W) for key, W in matrices(model).items())


@pytest.mark.parametrize("field", ["use_dora", "lora_bias"])
def test_what_would_train_other_rows_is_refused_before_anything_changes(field: str) -> None:
    model = gpt2()
    with pytest.raises(UserError, match=f"^{field}=True: transformer"):
        ailora.get_peft_model(model, presets.ailora(3, **{field: True}))
    assert "lora" not in str(model)
