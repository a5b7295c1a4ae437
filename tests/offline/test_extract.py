"""A LoRA from a fully fine-tuned model, held against torch's SVD and stock PEFT."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ailora.adapters.folder import read_adapter
from ailora.errors import UserError
from ailora.offline import extract as extract_module
from ailora.offline import extract_adapter, merge_adapter
from tests.checkpoints.models import edit_json, files, saved, tiny
from tests.families import inputs_for
from tests.hub import cached, use_cache
from tests.linalg.spectra import spectra, with_spectrum
from tests.offline.models import loaded, logits, with_adapter
from tests.other_process import run_elsewhere

FULL = 999  # above every size of a tiny model


def linears(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}


@torch.no_grad()
def moved(model: nn.Module, which: Callable[[str], bool], rank: int | None = 2) -> None:
    """Add an update of a low rank, or of none, to the parameters of these names."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for name, parameter in model.named_parameters():
        if which(name):
            low = rank is not None and parameter.ndim == 2
            change = (
                noise(parameter.shape[0], rank) @ noise(rank, parameter.shape[1])  # type: ignore[arg-type]
                if low
                else noise(*parameter.shape)
            )
            parameter.add_((0.05 * change).to(parameter))


def of_a_linear_layer(model: nn.Module) -> Callable[[str], bool]:
    names = {f"{name}.weight" for name in linears(model)}
    return lambda name: name in names


def tuned_from(
    tmp_path: Path,
    family: str = "llama",
    which: Callable[[str], bool] | None = None,
    *,
    rank: int | None = 2,
    dtype: torch.dtype = torch.float32,
    shards: bool = False,
) -> tuple[Path, Path]:
    """A saved tiny model and the same with some parameters moved; linear layers by default."""
    base = saved(tmp_path / "base", family, dtype, shards=shards)
    model = tiny(family, dtype)
    moved(model, which or of_a_linear_layer(model), rank)
    model.save_pretrained(tmp_path / "tuned", max_shard_size="20KB" if shards else "1GB")
    return base, tmp_path / "tuned"


def change_of(base: Path, tuned: Path, layer: str, family: str = "llama") -> Tensor:
    before, after = (loaded(one, family).get_submodule(layer) for one in (base, tuned))
    change: Tensor = after.weight.detach() - before.weight.detach()  # type: ignore[operator,union-attr]
    return change.T if isinstance(before, Conv1D) else change


def check_plain(folder: Path, rank: int) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (rank, rank, "LORA")
    assert not config["rank_pattern"] and not config["alpha_pattern"] and not config["use_rslora"]
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        if ".lora_" in key:
            assert tensor.dtype == torch.float32
            assert tensor.shape[0 if ".lora_A." in key else 1] == rank
    return config


IN_ANOTHER_PROCESS = """
import sys, torch, peft
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
base, adapter, tuned, family = sys.argv[1:]
kind = AutoModelForSequenceClassification if family == "bert" else AutoModelForCausalLM
made, wanted = (kind.from_pretrained(x, dtype=torch.float64).eval() for x in (base, tuned))
before = [n for n, m in made.named_modules() if isinstance(m, torch.nn.Linear)]
model = peft.PeftModel.from_pretrained(made, adapter).eval()
ids = torch.arange(5, 26).view(3, 7)
with torch.no_grad():
    got, wanted = model(input_ids=ids).logits, wanted(input_ids=ids).logits
    with model.disable_adapter():
        off = (model(input_ids=ids).logits - wanted).abs().max() / wanted.abs().max()
assert "ailora" not in sys.modules
print(float((got - wanted).abs().max() / wanted.abs().max()), float(off))
"""


def in_another_process(base: Path, adapter: Path, tuned: Path, family: str) -> tuple[float, float]:
    """How far stock PEFT's logits are from the tuned model's, and the base's own are."""
    got, off = map(float, run_elsewhere(IN_ANOTHER_PROCESS, base, adapter, tuned, family).split())
    return got, off


# --- Exact -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "bart", "qwen3"])
@pytest.mark.parametrize("shards", [False, True])
def test_a_low_rank_update_is_found_again(tmp_path: Path, family: str, shards: bool) -> None:
    skip = {"bert": "classifier", "gpt2": "lm_head", "t5": "lm_head", "bart": "lm_head"}
    wanted = of_a_linear_layer(tiny(family))
    base, tuned = tuned_from(
        tmp_path, family, lambda name: wanted(name) and skip.get(family, "-") not in name,
        shards=shards,
    )  # fmt: skip
    report = extract_adapter(base, tuned, tmp_path / "out", rank=4)
    check_plain(tmp_path / "out", 4)
    found = read_adapter(tmp_path / "out").updates
    before, after = (load_all(one) for one in (base, tuned))
    assert len(found) == len(report.modules) > 5
    for line in report.modules:
        (stored,) = [n for n in before if n.endswith(f"{line.module}.weight")] or [line.module]
        change = after[stored].double() - before[stored].double()
        change = change.T if family == "gpt2" else change
        rebuilt = found[line.module].matrix()
        # The weights' own rounding to fp32 is of full rank.
        rounding = 2e-7 * float(after[stored].double().norm())
        assert float((rebuilt - change).norm()) < rounding + 1e-6 * float(change.norm())
        assert line.size == pytest.approx(float(change.norm()), rel=1e-9)
        assert line.frobenius < 1e-5
    assert report.frobenius < 1e-5
    assert not report.others


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this library warned of; transformers has words of its own."""
    return [one.getMessage() for one in caplog.records if one.name.startswith("ailora")]


def load_all(folder: Path) -> dict[str, Tensor]:
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_at_full_rank_stock_peft_computes_the_tuned_model(tmp_path: Path, family: str) -> None:
    wanted = of_a_linear_layer(tiny(family))
    base, tuned = tuned_from(
        tmp_path, family, lambda name: wanted(name) and "lm_head" not in name, rank=None
    )
    extract_adapter(base, tuned, tmp_path / "out", rank=FULL)
    got, off = in_another_process(base, tmp_path / "out", tuned, family)
    assert got < 2e-5
    assert off > 1e-2  # without it, another model


@pytest.mark.parametrize("family", ["llama", "smollm2", "gpt2", "bert", "opt"])
def test_with_everything_else_in_full_it_is_the_whole_fine_tuning(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Norms, biases, embeddings (tied or not) and the head, as training moves them."""
    base, tuned = tuned_from(tmp_path, family, lambda _: True, rank=None)
    with caplog.at_level(logging.WARNING, "ailora"):
        report = extract_adapter(base, tuned, tmp_path / "out", rank=FULL, modules_to_save=["all"])
    assert not said(caplog)
    assert report.others and all(one.stored for one in report.others)
    expected = logits(loaded(tuned, family), family)
    got = logits(with_adapter(base, tmp_path / "out", family), family)
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()
    merge_adapter(tmp_path / "out", base, tmp_path / "merged")
    again = logits(loaded(tmp_path / "merged", family), family)
    assert (again - expected).abs().max() < 2e-5 * expected.abs().max()


def test_a_16_bit_pair_is_subtracted_exactly(tmp_path: Path) -> None:
    base, tuned = tuned_from(tmp_path, dtype=torch.bfloat16, rank=None)
    report = extract_adapter(base, tuned, tmp_path / "out", rank=FULL)
    expected = logits(loaded(tuned))
    got = logits(with_adapter(base, tmp_path / "out"))
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()
    line = report.modules[0]
    assert line.size == pytest.approx(float(change_of(base, tuned, line.module).norm()), rel=1e-12)


# --- Truncated -------------------------------------------------------------------------------


def with_changes(tmp_path: Path, kind: str) -> tuple[Path, Path]:
    """A pair in fp64, whose dW have a spectrum of this kind in every linear layer."""
    base = saved(tmp_path / "base", dtype=torch.float64)
    model = tiny("llama", torch.float64)
    with torch.no_grad():
        for seed, module in enumerate(linears(model).values()):
            weight: Any = module.weight
            S = spectra(min(weight.shape))[kind]
            weight.add_(0.01 * with_spectrum(S, *weight.shape, seed=seed))
    model.save_pretrained(tmp_path / "tuned")
    return base, tmp_path / "tuned"


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("kind", spectra(8))
def test_what_is_cut_off_is_what_the_best_approximation_cuts_off(
    tmp_path: Path, kind: str, rank: int
) -> None:
    base, tuned = with_changes(tmp_path, kind)
    report = extract_adapter(base, tuned, tmp_path / "out", rank=rank)
    found = read_adapter(tmp_path / "out").updates
    all_lost = all_size = 0.0
    for line in report.modules:
        change = change_of(base, tuned, line.module)
        S = torch.linalg.svdvals(change)
        best = float(S[rank:].square().sum().sqrt())
        off = float(torch.linalg.norm(change - found[line.module].matrix()))
        assert off == pytest.approx(best, rel=1e-6, abs=1e-7 * float(S[0]))
        assert line.frobenius == pytest.approx(off / float(change.norm()), rel=1e-9)
        assert line.spectral == pytest.approx(float(S[rank] / S[0]), abs=1e-6)
        all_lost, all_size = all_lost + off**2, all_size + float(change.square().sum())
        # Any other triplets are further, where the spectrum is not flat.
        U, S, Vt = torch.linalg.svd(change)
        other = change - (U[:, 1 : rank + 1] * S[1 : rank + 1]) @ Vt[1 : rank + 1]
        if S[rank] < 0.99 * S[0]:
            assert float(other.norm()) > off * (1 + 1e-4)
    assert report.frobenius == pytest.approx(math.sqrt(all_lost / all_size))


def test_a_solver_that_finds_other_triplets_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reported error is measured on the stored factors, not taken from singular values."""
    base, tuned = with_changes(tmp_path, "power decay")
    right = extract_adapter(base, tuned, tmp_path / "right", rank=4)
    solve = extract_module.decompose

    def wrong(weight: Tensor, rank: int, part: Any, **options: Any) -> Any:
        return solve(weight, rank, "minor", **options)

    monkeypatch.setattr(extract_module, "decompose", wrong)
    report = extract_adapter(base, tuned, tmp_path / "wrong", rank=4)
    assert report.frobenius > 2 * right.frobenius


@pytest.mark.parametrize("share", [0.5, 0.953])
def test_a_share_of_the_energy_is_kept_with_the_smallest_rank(tmp_path: Path, share: float) -> None:
    base, tuned = with_changes(tmp_path, "slow decay")
    report = extract_adapter(base, tuned, tmp_path / "out", rank=share)
    check_plain(tmp_path / "out", report.rank)
    ranks = set()
    for line in report.modules:
        energy = torch.linalg.svdvals(change_of(base, tuned, line.module)).square()
        kept = energy.cumsum(0) / energy.sum()
        assert line.rank == int((kept < share).sum()) + 1
        assert 1 - line.frobenius**2 == pytest.approx(float(kept[line.rank - 1]), rel=1e-6)
        ranks.add(line.rank)
    assert len(ranks) > 1 and report.rank == max(ranks)  # smaller ones are padded
    (peft_model, expected) = (with_adapter(base, tmp_path / "out"), loaded(base))
    with torch.no_grad():
        for name, update in read_adapter(tmp_path / "out").updates.items():
            expected.get_submodule(name).weight += update.matrix()  # type: ignore[operator]
    assert torch.allclose(logits(peft_model), logits(expected), atol=1e-9)


# --- What is adapted, and what is not --------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "which"),
    [
        ("llama", lambda name: "q_proj" in name),
        ("llama", lambda name: "layers.1.self_attn.q_proj" in name or "gate" in name),
        ("gpt2", lambda name: name.endswith("attn.c_proj.weight")),
        ("bert", lambda name: "attention.output.dense.weight" in name),
    ],
)
def test_exactly_the_layers_that_changed_are_adapted(
    tmp_path: Path, family: str, which: Callable[[str], bool]
) -> None:
    base, tuned = tuned_from(tmp_path, family, which)
    report = extract_adapter(base, tuned, tmp_path / "out", rank=2)
    wanted = {n for n in linears(tiny(family)) if which(f"{n}.weight")}
    assert {line.module for line in report.modules} == wanted
    assert report.unchanged > 0
    model = with_adapter(base, tmp_path / "out", family).base_model.model
    assert {n for n, m in model.named_modules() if isinstance(m, LoraLayer)} == wanted


def test_what_the_adapter_leaves_out_is_named_with_how_far_it_moved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, tuned = tuned_from(
        tmp_path, "smollm2", lambda n: "q_proj" in n or "norm" in n or "embed" in n
    )
    with caplog.at_level(logging.WARNING, "ailora"):
        report = extract_adapter(base, tuned, tmp_path / "out", rank=2)
    before, after = load_all(base), load_all(tuned)
    named = {one.tensor: one for one in report.others}
    changed = {n for n in before if not torch.equal(before[n], after[n]) and "q_proj" not in n}
    assert named.keys() == changed | {"lm_head.weight"}  # tied: it moved with the embeddings
    for name in changed:
        size = float((after[name].double() - before[name].double()).norm())
        assert named[name].size == pytest.approx(size)
        assert named[name].relative == pytest.approx(size / float(before[name].double().norm()))
        assert not named[name].stored
    assert len(said(caplog)) == 1 and "--modules-to-save all" in said(caplog)[0]
    assert f"{len(named)} tensors" in said(caplog)[0]
    assert "model.norm.weight" in (tmp_path / "out" / "README.md").read_text()
    assert not [
        k for k in load_file(tmp_path / "out/adapter_model.safetensors") if "lora_" not in k
    ]


def test_modules_that_are_named_are_stored_in_full(tmp_path: Path) -> None:
    base, tuned = tuned_from(tmp_path, which=lambda n: "proj" in n or "embed" in n or "lm_" in n)
    report = extract_adapter(
        base, tuned, tmp_path / "out", rank=FULL, modules_to_save=["embed_tokens", "lm_head"]
    )
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    after = load_all(tuned)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(stored[f"base_model.model.{name}"], after[name])
    assert not any("lm_head.lora" in key for key in stored)
    assert all(one.stored for one in report.others)
    expected = logits(loaded(tuned))
    got = logits(with_adapter(base, tmp_path / "out"))
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("labels", [2, 3])
def test_a_head_that_the_base_does_not_have_is_stored(tmp_path: Path, labels: int) -> None:
    """BASE is the bare encoder; the task's head and pooler come with the tuned model."""
    model = tiny("bert")
    config = hf.BertConfig(**{**model.config.to_dict(), "num_labels": labels})
    hf.BertForMaskedLM(config).save_pretrained(tmp_path / "mlm")
    torch.manual_seed(0)
    tuned = hf.BertForSequenceClassification.from_pretrained(
        tmp_path / "mlm", num_labels=labels
    ).eval()
    moved(tuned, lambda name: "query.weight" in name)
    tuned.save_pretrained(tmp_path / "tuned")
    report = extract_adapter(tmp_path / "mlm", tmp_path / "tuned", tmp_path / "out", rank=2)
    assert {one.tensor: one.stored for one in report.others} == dict.fromkeys(
        [f"{n}.{k}" for n in ("classifier", "bert.pooler.dense") for k in ("weight", "bias")], True
    )
    extract_adapter(
        tmp_path / "mlm", tmp_path / "tuned", tmp_path / "all", rank=2, modules_to_save=["all"]
    )
    assert (
        files(tmp_path / "all")["adapter_config.json"]
        == (
            files(tmp_path / "out")["adapter_config.json"]  # its bias is the head's: no bias="all"
        )
    )
    torch.manual_seed(1)
    fresh = hf.BertForSequenceClassification.from_pretrained(tmp_path / "mlm", num_labels=labels)
    again = PeftModel.from_pretrained(fresh, str(tmp_path / "out")).eval()
    config = PeftConfig.from_pretrained(str(tmp_path / "out"))
    assert config.task_type == "SEQ_CLS"
    batch = inputs_for("bert", tuned)
    with torch.no_grad():
        expected = tuned(**batch).logits
        assert (again(**batch).logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_resized_vocabulary_is_stored_whole_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = saved(tmp_path / "base", "smollm2")
    model = tiny("smollm2")
    model.resize_token_embeddings(70, mean_resizing=False)
    moved(model, lambda n: "q_proj" in n)
    model.save_pretrained(tmp_path / "tuned")
    with caplog.at_level(logging.WARNING, "ailora"):
        report = extract_adapter(base, tmp_path / "tuned", tmp_path / "a", rank=2)
    assert [one.tensor for one in report.others] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert all(one.size is None and not one.stored for one in report.others)
    assert "another shape" in said(caplog)[0]
    extract_adapter(
        base,
        tmp_path / "tuned",
        tmp_path / "b",
        rank=2,
        modules_to_save=["embed_tokens", "lm_head"],
    )
    assert "resize_token_embeddings" in (tmp_path / "b" / "README.md").read_text()
    fresh = loaded(base)
    fresh.resize_token_embeddings(70, mean_resizing=False)  # type: ignore[operator]
    again = PeftModel.from_pretrained(fresh, str(tmp_path / "b")).eval()
    ids = torch.arange(40, 68).view(4, 7)
    with torch.no_grad():
        expected = loaded(tmp_path / "tuned")(input_ids=ids).logits
        assert (again(input_ids=ids).logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_settings_that_differ_and_a_coarser_tuned_model_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, tuned = tuned_from(tmp_path, which=lambda n: "q_proj" in n)
    edit_json(tuned / "config.json", rms_norm_eps=1e-3)
    with caplog.at_level(logging.WARNING, "ailora"):
        extract_adapter(base, tuned, tmp_path / "a", rank=2)
    assert len(said(caplog)) == 1 and "rms_norm_eps (1e-06, tuned 0.001)" in said(caplog)[0]
    caplog.clear()
    tiny("llama").to(torch.bfloat16).save_pretrained(tmp_path / "coarse")
    values = load_file(tmp_path / "coarse/model.safetensors")
    values["model.layers.0.self_attn.q_proj.weight"] *= 1.5
    save_file(values, tmp_path / "coarse/model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "ailora"):
        report = extract_adapter(base, tmp_path / "coarse", tmp_path / "b", rank=2)
    assert [one.module for one in report.modules] == ["model.layers.0.self_attn.q_proj"]
    assert "bfloat16: its rounding counts" in said(caplog)[-1]


def test_names_on_the_hub_serve_and_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    base, tuned = tuned_from(tmp_path)
    for commit, folder in (("1" * 40, base), ("2" * 40, tuned)):
        cached(tmp_path / "cache", f"owner/{folder.name}", commit, folder, refs=["main"])
    report = extract_adapter("owner/base", "owner/tuned", tmp_path / "out", rank=2)
    assert report.base == check_plain(tmp_path / "out", 2)["base_model_name_or_path"]
    assert report.base == "owner/base"
    assert "base_model: owner/base" in (tmp_path / "out" / "README.md").read_text()
    same = extract_adapter(base, tuned, tmp_path / "folders", rank=2)
    assert same.modules == report.modules


# --- Interrupted, refused --------------------------------------------------------------------


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = tuned_from(tmp_path, rank=None)
    whole = extract_adapter(base, tuned, tmp_path / "whole", rank=3)
    layers, solve = [], extract_module.decompose

    def stopped(*args: Any, **options: Any) -> Any:
        layers.append(1)
        if len(layers) == 4:
            raise KeyboardInterrupt
        return solve(*args, **options)

    monkeypatch.setattr(extract_module, "decompose", stopped)
    with pytest.raises(KeyboardInterrupt):
        extract_adapter(base, tuned, tmp_path / "out", rank=3)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    with pytest.raises(UserError, match=r"another rank \(3, now 4\)"):
        extract_adapter(base, tuned, tmp_path / "out", rank=4)
    again = extract_adapter(base, tuned, tmp_path / "out", rank=3)
    assert len(layers) == 4 + len(whole.modules) - 3
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert again.modules == whole.modules
    monkeypatch.setattr(extract_module, "decompose", None)  # finished: nothing is done again
    assert extract_adapter(base, tuned, tmp_path / "out", rank=3) == again


def refused(base: Path, tuned: Path, words: str, **options: Any) -> None:
    out = base.parent / "refused"
    with pytest.raises(UserError, match=words) as caught:
        extract_adapter(base, tuned, out, **{"rank": 2, **options})
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("where", ["base", "tuned"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_a_weight_that_is_not_finite_is_refused_by_name(
    tmp_path: Path, name: str, value: float, where: str
) -> None:
    base, tuned = tuned_from(tmp_path)
    path = tmp_path / where / "model.safetensors"
    values = load_file(path)
    values[name][3] = value
    save_file(values, path, metadata={"format": "pt"})
    refused(base, tuned, f"{where}: '{name}' holds NaN or infinity")


def test_two_models_that_are_no_pair_are_refused(tmp_path: Path) -> None:
    base, tuned = tuned_from(tmp_path)
    refused(base, base, "given as BASE and as TUNED")
    refused(base, saved(tmp_path / "qwen", "qwen3"), "a llama model and .* a qwen3 model")
    (tmp_path / "link").symlink_to(base)
    refused(base, tmp_path / "link", "given as BASE and as TUNED")
    refused(base, tmp_path / "nowhere", "no such folder")
    same = saved(tmp_path / "same")
    refused(base, same, "no linear layer differs")
    config = tiny("llama").config
    for field, value in (("num_hidden_layers", 3), ("intermediate_size", 40)):
        other = hf.LlamaForCausalLM(hf.LlamaConfig(**{**config.to_dict(), field: value}))
        other.save_pretrained(tmp_path / field)
        refused(base, tmp_path / field, "two models of one architecture and size")
        refused(tmp_path / field, base, "two models of one architecture and size")
    for folder, name in ((base, "model.norm.weight"), (tuned, "model.layers.0.mlp.up_proj.weight")):
        path = folder / "model.safetensors"
        before = path.read_bytes()
        save_file({k: v for k, v in load_file(path).items() if k != name}, path)
        refused(base, tuned, f"{folder.name}: the tensor of '{name}' is missing")
        path.write_bytes(before)


def test_pickles_quantised_and_residual_models_are_refused(tmp_path: Path) -> None:
    base, tuned = tuned_from(tmp_path)
    pickled = saved(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(base, pickled, "pytorch_model.bin.*not opened here")
    packed = saved(tmp_path / "packed")
    edit_json(packed / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    refused(base, packed, "packed: .*quantised")
    config = json.loads((packed / "config.json").read_text())
    del config["quantization_config"]
    (packed / "config.json").write_text(json.dumps(config))
    values = load_file(packed / "model.safetensors")
    values["model.layers.0.mlp.up_proj.weight"] = values[
        "model.layers.0.mlp.up_proj.weight"
    ].to(torch.int8)  # fmt: skip
    save_file(values, packed / "model.safetensors", metadata={"format": "pt"})
    refused(base, packed, "up_proj.weight' is stored as I8")
    (tuned / "ailora_start").mkdir()
    refused(base, tuned, "residual model")


@pytest.mark.parametrize("rank", [0, -3, True, 0.0, 1.0, 1.5, float("nan"), "8", None])
def test_a_rank_that_is_none_is_refused(tmp_path: Path, rank: Any) -> None:
    refused(tmp_path / "base", tmp_path / "tuned", "rank", rank=rank)


def test_a_module_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    base, tuned = tuned_from(tmp_path)
    refused(base, tuned, "did you mean 'embed_tokens'", modules_to_save=["embed_token"])
    refused(base, tuned, "selects no module", modules_to_save=[""])


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    base, tuned = tuned_from(tmp_path)
    before = files(tmp_path)
    with pytest.raises(UserError, match="not empty"):
        extract_adapter(base, tuned, base, rank=2)
    assert files(tmp_path) == before
