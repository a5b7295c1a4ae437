"""`plan_files` says beforehand what `init_files` then writes, and refuses what that refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters.factors import Factor
from ailora.adapters.folder import read_adapter
from ailora.checkpoints import checkpoint
from ailora.checkpoints.header import read_header
from ailora.errors import UserError
from ailora.offline import InitPlan, init_files, plan_files
from tests.checkpoints.models import files, saved

FAMILIES = ["llama", "bert", "gpt2", "t5"]


def data(folder: Path) -> int:
    """Bytes of the tensors in a folder's safetensors files."""
    headers = [read_header(path) for path in folder.glob("*.safetensors")]
    return sum(entry.nbytes for header in headers for entry in header.entries.values())


def loaded(folder: Path) -> Any:
    """A saved model, of the class that its config.json names."""
    (name,) = hf.AutoConfig.from_pretrained(folder).architectures
    return getattr(hf, name).from_pretrained(folder)


def sizes(folder: Path) -> int:
    """Bytes of all safetensors files at and below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def both(model: Path, out: Path, config: AILoRAConfig, **options: Any) -> InitPlan:
    """The plan, made before the files are."""
    before = files(out.parent)
    assert not out.exists()
    plan = plan_files(model, out, config, **options)
    assert files(out.parent) == before and not out.exists()
    init_files(model, out, config, **options)
    return plan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_anchored_adapter_is_as_planned(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    model, out = saved(tmp_path / "model", family, dtype, shards=True), tmp_path / "out"
    plan = both(
        model,
        out,
        AILoRAConfig(r=3, roles={"q": Role(init="minor", r=2), "v": Role(init="principal")}),
    )
    assert plan.adapter == data(out)
    assert (plan.model, plan.needed) == (None, plan.adapter)
    wrapped = ailora.load_adapter(loaded(model), out, is_trainable=True)
    factors = [module for module in wrapped.modules() if isinstance(module, Factor)]
    assert plan.trained == sum(factor.trained for factor in factors)
    blocks = [block for factor in factors if factor.side == "A" for block in factor.blocks]
    assert sum(one.count for one in plan.weights) == len(blocks)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (torch.float32, "auto"),
        (torch.bfloat16, "bfloat16"),
        (torch.bfloat16, "float32"),
        (torch.bfloat16, "auto"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_residual_model_is_as_planned(
    tmp_path: Path, family: str, stored: torch.dtype, dtype: str
) -> None:
    model, out = saved(tmp_path / "model", family, stored, shards=True), tmp_path / "out"
    plan = both(model, out, presets.pissa(r=3, anchored=False), dtype=dtype)
    assert plan.adapter == data(out / "adapter")
    assert plan.model is not None and plan.model_at_most is not None
    written = sum(path.stat().st_size for path in (out / "model").glob("*.safetensors"))
    spare = 64 * len(list((out / "model").glob("*.safetensors")))  # a header that says F32 for BF16
    assert plan.model - spare <= written <= plan.model_at_most + spare
    assert (plan.model == plan.model_at_most) is (dtype != "auto" or stored == torch.float32)
    assert 0.5 * plan.needed < sizes(out) <= plan.needed + spare
    names = read_adapter(out / "adapter").updates
    if family != "gpt2":  # whose weights have several roles
        assert len(names) == sum(one.count for one in plan.weights)
        stock = PeftModel.from_pretrained(loaded(out / "model"), out / "adapter", is_trainable=True)
        trainable = sum(p.numel() for p in stock.parameters() if p.requires_grad)
        assert trainable == plan.trained


def test_a_head_that_peft_trains_is_counted(tmp_path: Path) -> None:
    model, out = saved(tmp_path / "model", "bert", torch.bfloat16), tmp_path / "out"
    plan = both(model, out, AILoRAConfig(r=2, task_type="SEQ_CLS"))
    assert plan.adapter == data(out)
    assert plan.head > 0
    wrapped = ailora.load_adapter(loaded(model), out, is_trainable=True)
    factors = {id(m.weight): m.trained for m in wrapped.modules() if isinstance(m, Factor)}
    trainable = [p for p in wrapped.parameters() if p.requires_grad]
    assert plan.trained == sum(factors.get(id(p), p.numel()) for p in trainable)


def test_layers_are_named_by_their_numbers(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    config = AILoRAConfig(
        r=2, roles={"q": Role(init="principal"), "v": Role(init="minor")}, layers_to_transform=[1]
    )
    q, v = plan_files(model, tmp_path / "out", config).weights
    assert (q.modules, q.role, q.init) == ("model.layers.*.self_attn.q_proj", "q", "principal")
    assert (v.role, v.init, v.layers, v.count, v.rank) == ("v", "minor", (1,), 1, 2)
    assert v.trained == 2 * sum(v.shape)


def test_no_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path / "model", shards=True)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(checkpoint, "safe_open", refuse)
    plan_files(model, tmp_path / "out", presets.pissa(r=2, anchored=False))
    with pytest.raises(AssertionError):
        init_files(model, tmp_path / "out", presets.pissa(r=2, anchored=False))


def test_a_run_that_was_broken_off_can_be_planned_again(tmp_path: Path) -> None:
    model, out = saved(tmp_path / "model"), tmp_path / "out"
    config = AILoRAConfig(r=2, anchored=False)
    plan = both(model, out, config)
    again = plan_files(model, out, config)
    assert again.weights == plan.weights


REFUSED: dict[str, Callable[[Path], tuple[AILoRAConfig, dict[str, str]]]] = {
    "rank": lambda _: (AILoRAConfig(r=17), {}),
    "rank of one role": lambda _: (
        AILoRAConfig(roles={"q": Role(init="principal"), "v": Role(init="minor", r=20)}),
        {},
    ),
    "dtype": lambda _: (AILoRAConfig(r=2), {"dtype": "int8"}),
    "field": lambda _: (AILoRAConfig(r=2, use_dora=True), {}),
    "layer": lambda _: (AILoRAConfig(r=2, layers_to_transform=[9]), {}),
    "module": lambda _: (AILoRAConfig(r=2, target_modules=["nowhere"]), {}),
    "embedding": lambda _: (AILoRAConfig(r=2, target_modules=["embed_tokens"]), {}),
    "head": lambda _: (AILoRAConfig(r=2, task_type="SEQ_CLS"), {}),
    "full": lambda out: (_fill(out), {}),
    "file": lambda out: (_file(out), {}),
}


def _fill(out: Path) -> AILoRAConfig:
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    return AILoRAConfig(r=2)


def _file(out: Path) -> AILoRAConfig:
    out.write_text("mine")
    return AILoRAConfig(r=2)


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses_in_the_words_of_the_real_thing(
    tmp_path: Path, what: str, anchored: bool
) -> None:
    model, out = saved(tmp_path / "model"), tmp_path / "out"
    config, options = REFUSED[what](out)
    config.anchored = anchored
    said = []
    for call in (plan_files, init_files):
        before = files(tmp_path)
        with pytest.raises(UserError) as caught:
            call(model, out, config, **options)
        said.append(str(caught.value))
        assert files(tmp_path) == before
    assert said[0] == said[1]


def test_another_run_and_a_residual_model_are_refused_too(tmp_path: Path) -> None:
    model, out = saved(tmp_path / "model"), tmp_path / "out"
    init_files(model, out, AILoRAConfig(r=2, anchored=False))
    with pytest.raises(UserError, match=r"another r \(2, now 3\)"):
        plan_files(model, out, AILoRAConfig(r=3, anchored=False))
    with pytest.raises(UserError, match="is a residual model"):
        plan_files(out / "model", tmp_path / "next", AILoRAConfig(r=2, anchored=False))


def test_a_rank_that_does_not_fit_is_refused_before_any_weight_is_decomposed(
    tmp_path: Path,
) -> None:
    told: list[tuple[str, int, int]] = []
    config = AILoRAConfig(roles={"q": Role(init="principal", r=2), "v": Role(init="minor", r=20)})
    with pytest.raises(UserError, match="r=20 for role 'v'"):
        init_files(
            saved(tmp_path / "model"),
            tmp_path / "out",
            config,
            on_progress=lambda *args: told.append(args),
        )
    assert told == []
