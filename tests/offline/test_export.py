"""Any stock LoRA adapter as one of one rank and scale 1, exact or compressed."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters.folder import read_adapter
from ailora.errors import UserError
from ailora.linalg import LowRank
from ailora.offline import export_adapter, merge_adapter
from ailora.offline.export import compress
from tests.checkpoints.models import edit_json, files, saved, tiny
from tests.offline.models import (
    loaded,
    logits,
    logits_of,
    perturb,
    saved_by_0_1_0,
    stock_adapter,
    with_adapter,
)

STOCK = {
    "plain": {},
    "no scale": {"lora_alpha": 4},
    "an odd scale": {"lora_alpha": 3},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"v_proj": 2, r"model\.layers\.1\.self_attn\.q_proj": 6},
        "alpha_pattern": {"q_proj": 16, "down_proj": 1},
    },
    "patterns and rslora": {"rank_pattern": {"v_proj": 7}, "use_rslora": True},
    "some layers": {"layers_to_transform": [1]},
    "a whole module": {"modules_to_save": ["lm_head"]},
    "biases": {"bias": "lora_only"},
}
OURS = {
    "anchored": presets.ailora(r=4),
    "anchored, baked": presets.ailora(r=4, bake_rates=True),
    "anchored, mixed": AILoRAConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        roles={
            "q": Role(init="principal", r=2),
            "k": Role(init="gaussian", lora_alpha=1),
            "v": Role(init="minor"),
        },
    ),
    "anchored, several ranks": AILoRAConfig(
        r=4,
        lora_alpha=6,
        roles={
            "q": Role(init="principal", r=2, lora_alpha=3),
            "k": Role(init="gaussian"),
            "v": Role(init="minor"),
        },
    ),
}
# In a fused layer one LoRA has one scale, and so have its roles.
FUSED = ("anchored", "anchored, several ranks")


def check_plain(folder: Path, rank: int) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (rank, rank)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["use_rslora"] is False
    assert config["init_lora_weights"] is True
    assert config["peft_type"] == "LORA"
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        if "lora_" in name:
            assert tensor.shape[0 if "lora_A" in name else 1] == rank
    assert {path.name for path in folder.iterdir()} <= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("kind", STOCK)
def test_a_stock_adapter_is_the_same_function_with_one_rank_and_no_scale(
    tmp_path: Path, kind: str
) -> None:
    model = saved(tmp_path / "model")
    stock_adapter(tmp_path / "adapter", **STOCK[kind])  # type: ignore[arg-type]
    report = export_adapter(tmp_path / "adapter", tmp_path / "out")
    check_plain(tmp_path / "out", report.rank)
    expected = logits(with_adapter(model, tmp_path / "adapter"))
    got = logits(with_adapter(model, tmp_path / "out"))
    assert (got - expected).abs().max() < 2e-6 * expected.abs().max()
    base = logits(tiny("llama"))
    assert (expected - base).abs().max() > 1e-2 * base.abs().max()


@pytest.mark.parametrize(
    ("family", "kind"),
    [*(("llama", kind) for kind in OURS), *(("gpt2", kind) for kind in FUSED)],
)
def test_an_adapter_of_ours_is_the_same_function_in_stock_peft(
    tmp_path: Path, family: str, kind: str
) -> None:
    model = saved(tmp_path / "model", family)
    wrapped = ailora.get_peft_model(tiny(family), OURS[kind]).eval()
    perturb(wrapped)
    wrapped.save_pretrained(tmp_path / "adapter")
    report = export_adapter(tmp_path / "adapter", tmp_path / "out")
    check_plain(tmp_path / "out", report.rank)
    expected = logits(wrapped.double(), family)
    got = logits(with_adapter(model, tmp_path / "out", family), family)
    assert (got - expected).abs().max() < 5e-6 * expected.abs().max()


def test_what_is_read_is_what_peft_adds(tmp_path: Path) -> None:
    model = stock_adapter(tmp_path / "adapter", **STOCK["patterns and rslora"])  # type: ignore[arg-type]
    updates = read_adapter(tmp_path / "adapter").updates
    for name, update in updates.items():
        A, B = update.exact()
        added = model.get_base_model().get_submodule(name).get_delta_weight("default")  # type: ignore[operator]
        assert torch.allclose(B @ A, added.double(), atol=1e-6)
    assert len(updates) == 6


def test_factors_keep_their_dtype_where_the_scale_allows(tmp_path: Path) -> None:
    stock_adapter(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    export_adapter(tmp_path / "adapter", tmp_path / "two")  # scale 2
    edit_json(tmp_path / "adapter" / "adapter_config.json", lora_alpha=3)
    export_adapter(tmp_path / "adapter", tmp_path / "odd")

    def dtypes(folder: Path) -> set[torch.dtype]:
        return {t.dtype for t in load_file(folder / "adapter_model.safetensors").values()}

    assert dtypes(tmp_path / "two") == {torch.bfloat16}
    assert dtypes(tmp_path / "odd") == {torch.bfloat16, torch.float32}


def update(m: int = 20, n: int = 13, k: int = 6) -> tuple[LowRank, Tensor]:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(k, n, generator=generator)
    B = torch.randn(m, k, generator=generator) * torch.logspace(0, -2, k)
    return LowRank(A=A, B=B, scale=0.7), 0.7 * B.double() @ A.double()


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_compression_is_the_best_there_is_and_says_what_it_lost(rank: int) -> None:
    given, dW = update()
    small = compress(given, rank)
    A, B = small.update.exact()
    off = dW - B @ A
    U, S, Vt = torch.linalg.svd(dW, full_matrices=False)
    best = dW - (U[:, :rank] * S[:rank]) @ Vt[:rank]
    assert torch.linalg.norm(off) == pytest.approx(float(torch.linalg.norm(best)), rel=1e-5)
    assert small.update.rank == rank
    assert small.frobenius == pytest.approx(float(best.norm() / dW.norm()), rel=1e-9)
    assert small.spectral == pytest.approx(float(S[rank] / S[0]), rel=1e-9)
    assert small.tail == pytest.approx(small.frobenius**2)
    cut = given.B[:, :rank].double() @ given.A[:rank].double() * 0.7  # not the best
    assert torch.linalg.norm(dW - cut) > 1.01 * torch.linalg.norm(off)


def test_a_rank_that_is_large_enough_loses_nothing_and_zero_stays_zero() -> None:
    given, _ = update()
    assert compress(given, 6).update is given
    assert compress(given, 99).frobenius == 0
    zero = compress(LowRank(A=given.A, B=given.B * 0), 2)
    assert (zero.frobenius, zero.spectral, zero.tail) == (0, 0, 0)
    assert not zero.update.B.any()
    assert compress(LowRank(A=given.A, B=given.B * 0), 0.9).update.rank == 1


def test_an_exported_adapter_of_lower_rank_has_the_loss_that_the_report_says(
    tmp_path: Path,
) -> None:
    stock_adapter(tmp_path / "adapter")
    report = export_adapter(tmp_path / "adapter", tmp_path / "out", rank=2)
    check_plain(tmp_path / "out", 2)
    before, after = (
        read_adapter(tmp_path / "adapter").updates,
        read_adapter(tmp_path / "out").updates,
    )
    for line in report.modules:
        (A, B), (a, b) = before[line.name].exact(), after[line.name].exact()
        off = torch.linalg.norm(B @ A - b @ a) / torch.linalg.norm(B @ A)
        assert line.frobenius == pytest.approx(float(off), rel=1e-4)
        assert (line.rank_before, line.rank) == (4, 2)
        assert line.frobenius > 0.01


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_a_share_of_the_energy_is_kept_by_the_smallest_rank_that_does(
    tmp_path: Path, share: float
) -> None:
    model = ailora.get_peft_model(tiny("llama"), presets.ailora(r=6)).eval()
    perturb(model, size=0.02)
    model.save_pretrained(tmp_path / "adapter")
    report = export_adapter(tmp_path / "adapter", tmp_path / "out", rank=share)
    before, after = (read_adapter(tmp_path / name).updates for name in ("adapter", "out"))
    whole = off = 0.0
    for line in report.modules:
        dW, kept = before[line.name].matrix(), after[line.name].matrix()
        energy = torch.linalg.svdvals(dW).square()
        assert energy[: line.rank].sum() >= (1 - 1e-12) * share * energy.sum()
        assert energy[: line.rank - 1].sum() < share * energy.sum()
        assert torch.linalg.matrix_rank(kept, rtol=1e-6) == line.rank
        assert line.size == pytest.approx(float(energy.sum().sqrt()), rel=1e-9)
        whole += float(dW.square().sum())
        off += float((dW - kept).square().sum())
    assert report.lost == pytest.approx((off / whole) ** 0.5, rel=1e-5, abs=1e-6)
    assert report.lost <= (1 - share) ** 0.5
    check_plain(tmp_path / "out", max(line.rank for line in report.modules))
    assert len({line.rank for line in report.modules}) > 1


def test_a_rank_above_the_servers_limit_and_whole_modules_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock_adapter(tmp_path / "small")
    stock_adapter(tmp_path / "large", r=17, modules_to_save=["lm_head"])
    with caplog.at_level(logging.WARNING, "ailora"):
        export_adapter(tmp_path / "small", tmp_path / "a")
        assert caplog.messages == []
        export_adapter(tmp_path / "large", tmp_path / "b")
    assert "max-lora-rank 32" in caplog.messages[0]
    assert "lm_head" in caplog.messages[1]


REFUSED = {
    "dora": ({"use_dora": True}, "use_dora"),
    "a start that changed the base": ({"init_lora_weights": "pissa"}, "pissa"),
    "an embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, "adapts the embedding"),
    "rows of an embedding": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_sum_of_low_rank_matrices_is_refused(tmp_path: Path, kind: str) -> None:
    fields, words = REFUSED[kind]
    stock_adapter(tmp_path / "adapter", **fields)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=words) as caught:
        export_adapter(tmp_path / "adapter", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_kind_of_adapter_is_refused(tmp_path: Path) -> None:
    config = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    peft.get_peft_model(tiny("llama"), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="IA3Config"):
        export_adapter(tmp_path / "adapter", tmp_path / "out")


def test_broken_folders_are_named_in_one_line(tmp_path: Path) -> None:
    stock_adapter(tmp_path / "adapter")
    before = files(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)

    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            export_adapter(tmp_path / "adapter", tmp_path / "out")
        assert "\n" not in str(caught.value)

    path.write_bytes(path.read_bytes()[:-10])
    refused("adapter_model.safetensors")
    save_file({name: t for name, t in tensors.items() if "q_proj.lora_B" not in name}, path)
    refused("q_proj")
    path.unlink()
    refused("adapter_model.safetensors")
    path.write_bytes(before["adapter_model.safetensors"])
    edit_json(tmp_path / "adapter" / "adapter_config.json", r=5)
    refused("rank 4.*says 5")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    refused("adapter_config.json")
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    refused("adapter_config.json")


@pytest.mark.parametrize("rank", [0, -1, True, 2.5])
def test_a_rank_that_is_none_is_refused(tmp_path: Path, rank: int) -> None:
    stock_adapter(tmp_path / "adapter")
    with pytest.raises(UserError, match="rank"):
        export_adapter(tmp_path / "adapter", tmp_path / "out", rank=rank)


def test_weights_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    model = stock_adapter(tmp_path / "x")
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="NaN"):
        export_adapter(tmp_path / "adapter", tmp_path / "out", rank=2)


def test_the_config_is_a_stock_one(tmp_path: Path) -> None:
    stock_adapter(tmp_path / "adapter", task_type="CAUSAL_LM", lora_dropout=0.1)
    export_adapter(tmp_path / "adapter", tmp_path / "out")
    config = peft.PeftConfig.from_pretrained(str(tmp_path / "out"))
    assert type(config) is LoraConfig
    assert config.task_type == "CAUSAL_LM"
    assert set(config.target_modules) == {"q_proj", "v_proj", "down_proj"}


def test_a_start_with_baked_rates_has_one_scale_when_exported(tmp_path: Path) -> None:
    wrapped = ailora.get_peft_model(tiny("llama"), presets.ailora(r=4, bake_rates=True)).eval()
    perturb(wrapped)
    wrapped.save_pretrained(tmp_path / "adapter")
    before = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert before["alpha_pattern"] == {}
    assert wrapped.peft_config["default"].alpha_pattern == {"v_proj": 32}
    report = export_adapter(tmp_path / "adapter", tmp_path / "out")
    check_plain(tmp_path / "out", report.rank)
    old, new = (read_adapter(tmp_path / name).updates for name in ("adapter", "out"))
    assert {update.scale for update in new.values()} == {1.0}
    for name, update in old.items():
        assert torch.allclose(update.matrix(), new[name].matrix(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["anchored", "baked", "fused", "fused_baked", "plain"])
def test_adapters_of_version_0_1_0_are_exported(tmp_path: Path, kind: str) -> None:
    adapter, base, expected = saved_by_0_1_0(kind)
    report = export_adapter(adapter, tmp_path / "out")
    check_plain(tmp_path / "out", report.rank)
    got = logits_of(base, tmp_path / "out")
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_frozen_half_that_was_trained_is_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, adapter = saved(tmp_path / "model"), tmp_path / "adapter"
    wrapped = ailora.get_peft_model(tiny("llama"), presets.ailora(r=4)).eval()
    perturb(wrapped)
    wrapped.save_pretrained(adapter)
    with caplog.at_level(logging.WARNING, "ailora"):
        export_adapter(adapter, tmp_path / "a")
        assert caplog.messages == []
        stock = PeftModel.from_pretrained(loaded(base), str(adapter), is_trainable=True)
        perturb(stock)  # both halves, as a trainer does that knows nothing of anchors
        stock.save_pretrained(adapter)
        export_adapter(adapter, tmp_path / "b")
        assert len(caplog.messages) == 1
        merge_adapter(adapter, base, tmp_path / "c")
    for message in caplog.messages:
        assert "frozen half" in message
        assert "\n" not in message
    assert len(caplog.messages) == 2
    expected = logits(with_adapter(base, adapter))
    got = logits(with_adapter(base, tmp_path / "b"))
    assert (got - expected).abs().max() < 5e-6 * expected.abs().max()


def test_a_base_that_is_a_folder_is_recorded_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock_adapter(tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path="model")
    report = export_adapter(tmp_path / "adapter", tmp_path / "hub")
    assert report.base == "model"  # no folder: a name on a hub
    saved(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    for name, base in (("as it says", None), ("as given", "./model")):
        report = export_adapter(tmp_path / "adapter", tmp_path / name, base=base)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert report.base == config["base_model_name_or_path"] == str(tmp_path / "model")


def test_files_are_readable_by_whom_the_umask_lets(tmp_path: Path) -> None:
    stock_adapter(tmp_path / "adapter")
    before = os.umask(0o022)
    try:
        export_adapter(tmp_path / "adapter", tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {0o644}


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_in_full_stay_the_same_function(tmp_path: Path, tied: bool) -> None:
    model = saved(tmp_path / "model", "smollm2")
    fields = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": tied}
    stock_adapter(tmp_path / "adapter", "smollm2", **fields)
    export_adapter(tmp_path / "adapter", tmp_path / "out")
    expected = logits(with_adapter(model, tmp_path / "adapter"))
    got = logits(with_adapter(model, tmp_path / "out"))
    assert (got - expected).abs().max() < 2e-6 * expected.abs().max()
