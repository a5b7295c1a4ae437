"""Whoever takes a PEFT config takes an AILoRAConfig: PEFT's own calls, transformers', TRL's."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters.factors import Factor
from ailora.adapters.record import StartedConfig
from ailora.errors import UserError
from tests.adapters.models import Q0, batch, factors, logits, tiny, train
from tests.other_process import run_elsewhere

CLASSES: dict[str, tuple[type, type[PeftModel]]] = {
    "SEQ_CLS": (hf.BertForSequenceClassification, peft.PeftModelForSequenceClassification),
    "TOKEN_CLS": (hf.BertForTokenClassification, peft.PeftModelForTokenClassification),
    "QUESTION_ANS": (hf.BertForQuestionAnswering, peft.PeftModelForQuestionAnswering),
    "FEATURE_EXTRACTION": (hf.BertModel, peft.PeftModelForFeatureExtraction),
    "CAUSAL_LM": (hf.LlamaForCausalLM, peft.PeftModelForCausalLM),
    "SEQ_2_SEQ_LM": (hf.T5ForConditionalGeneration, peft.PeftModelForSeq2SeqLM),
    "none": (hf.BertForMaskedLM, PeftModel),
}
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 40, "initializer_range": 0.1,
    "pad_token_id": 1,
}  # fmt: skip
T5_SIZES = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
            "pad_token_id": 1, "decoder_start_token_id": 1}  # fmt: skip


def model_of(task: str) -> nn.Module:
    kind = CLASSES[task][0]
    sizes = T5_SIZES if task == "SEQ_2_SEQ_LM" else SIZES
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(kind.config_class(**sizes)).double().eval()


def inputs_of(task: str) -> dict[str, Tensor]:
    ids = torch.arange(5, 29).reshape(3, 8)
    inputs = {"input_ids": ids}
    return {**inputs, "decoder_input_ids": ids} if task == "SEQ_2_SEQ_LM" else inputs


@torch.no_grad()
def outputs(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """All that it answers with, in one row."""
    found = model.eval()(**inputs, return_dict=True)
    names = ("logits", "start_logits", "end_logits", "last_hidden_state")
    return torch.cat([found[name].flatten() for name in names if name in found])


def step(model: nn.Module, inputs: dict[str, Tensor], steps: int = 3) -> None:
    """A few steps along a fixed direction."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        found = model(**inputs, return_dict=True)
        names = ("logits", "start_logits", "last_hidden_state")
        (x,) = (found[name] for name in names if name in found)
        (x * torch.sin(torch.arange(x.numel())).reshape(x.shape)).mean().backward()
        optimizer.step()


STOCK = """
import sys, importlib.abc
class Never(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ailora":
            raise ImportError("not installed here")
sys.meta_path.insert(0, Never())
import torch, transformers, peft
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
base, kind, adapter, inputs, out = sys.argv[1:]
model = getattr(transformers, kind).from_pretrained(base, dtype=torch.float64)
model = peft.PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    found = model(**load_file(inputs), return_dict=True)
names = ("logits", "start_logits", "end_logits", "last_hidden_state")
save_file({"found": torch.cat([found[n].flatten() for n in names if n in found])}, out)
try:
    import ailora
except ImportError:
    sys.exit(0)
sys.exit("ailora could be imported")
"""


def elsewhere(base: nn.Module, adapter: Path, inputs: dict[str, Tensor], tmp: Path) -> Tensor:
    """What stock PEFT computes with a saved adapter in a process that cannot import ailora."""
    base.save_pretrained(tmp / "base")
    save_file(inputs, tmp / "inputs")
    found = [tmp / "base", type(base).__name__, adapter, tmp / "inputs", tmp / "out"]
    run_elsewhere(STOCK, *found)
    return load_file(tmp / "out")["found"]


PEFTS_OWN = ("base_model_name_or_path", "revision", "modules_to_save", "inference_mode")


def unchanged(config: AILoRAConfig, before: AILoRAConfig, peft_writes: bool = True) -> None:
    """But for what PEFT itself writes on every config that it is given, ours and stock ones."""
    now, then = vars(config).copy(), vars(before).copy()
    for name in PEFTS_OWN if peft_writes else ():
        now.pop(name), then.pop(name)
    assert now == then
    assert type(config) is AILoRAConfig


@pytest.mark.parametrize("task", CLASSES)
def test_what_a_start_leaves_on_a_config_is_what_peft_leaves_on_a_stock_one(task: str) -> None:
    name = None if task == "none" else task
    ours = AILoRAConfig(r=2, task_type=name)
    stock = LoraConfig(r=2, task_type=name, target_modules=[".*(q|v|query|value|q_proj|v_proj)"])
    stock.target_modules = r".*\.(q|v|query|value|q_proj|v_proj)"
    peft.get_peft_model(model_of(task), ours), peft.get_peft_model(model_of(task), stock)
    for field in PEFTS_OWN:
        assert getattr(ours, field) == getattr(stock, field), field
    untouched = AILoRAConfig(r=2, task_type=name)
    before = copy.deepcopy(untouched)
    ailora.get_peft_model(model_of(task), untouched)
    unchanged(untouched, before, peft_writes=False)


def is_ours(model: PeftModel, adapter: str = "default") -> None:
    assert type(model.peft_config[adapter]) is StartedConfig
    assert type(model.base_model) is peft.tuners.lora.LoraModel
    kinds = [m for n, m in model.named_modules() if n.endswith(f"lora_A.{adapter}")]
    assert kinds and all(type(module) is Factor for module in kinds)


@pytest.mark.parametrize("task", CLASSES)
def test_pefts_own_call_for_every_task(task: str, tmp_path: Path) -> None:
    config = AILoRAConfig(r=2, task_type=None if task == "none" else task)
    before, inputs = copy.deepcopy(config), inputs_of(task)
    base = outputs(model_of(task), inputs)
    model = peft.get_peft_model(model_of(task), config)
    assert type(model) is CLASSES[task][1]
    is_ours(model)
    unchanged(config, before)
    assert torch.equal(outputs(model, inputs), base)
    step(model, inputs)
    after = outputs(model, inputs)
    assert (after - base).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert saved.keys() == LoraConfig().to_dict().keys()
    assert (saved["r"], saved["task_type"]) == (4, config.task_type)
    again = PeftModel.from_pretrained(model_of(task), str(tmp_path / "adapter"))
    assert torch.equal(outputs(again, inputs), after)


@pytest.mark.parametrize("task", ["SEQ_CLS", "CAUSAL_LM"])
def test_stock_peft_in_a_process_without_ailora_computes_the_same(
    task: str, tmp_path: Path
) -> None:
    inputs = inputs_of(task)
    model = peft.get_peft_model(model_of(task), AILoRAConfig(r=2, task_type=task))
    step(model, inputs)
    after = outputs(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    found = elsewhere(model_of(task), tmp_path / "adapter", inputs, tmp_path)
    assert torch.equal(found, after)
    assert not torch.equal(found, outputs(model_of(task), inputs))


def test_both_functions_make_the_same_model() -> None:
    ours = ailora.get_peft_model(tiny(), presets.ailora(3, task_type="SEQ_CLS"))
    theirs = peft.get_peft_model(tiny(), presets.ailora(3, task_type="SEQ_CLS"))
    assert type(ours) is type(theirs)
    left, right = ours.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert ours.peft_config["default"].to_dict() == theirs.peft_config["default"].to_dict()


def test_peft_reports_a_stock_model() -> None:
    status = peft.get_model_status(peft.get_peft_model(tiny(), AILoRAConfig(r=2)))
    assert (status.adapter_model_type, status.base_model_type) == (
        "LoraModel",
        "BertForSequenceClassification",
    )
    assert status.num_adapter_layers == 4 and status.peft_types == {"default": "LORA"}


@pytest.mark.parametrize("first", ["stock", "ours"])
def test_add_adapter_beside_another(first: str, tmp_path: Path) -> None:
    stock = LoraConfig(r=2, target_modules=["query", "dense"])
    beside = {"stock": stock, "ours": presets.pissa(3)}[first]
    model = peft.get_peft_model(tiny(), beside)
    inputs = batch(model)
    train(model, inputs, 2)
    other = logits(model, inputs)
    config = AILoRAConfig(r=2)
    before = copy.deepcopy(config)
    model.add_adapter("second", config)
    unchanged(config, before)
    is_ours(model, "second")
    assert torch.equal(logits(model, inputs), other)  # "default" is still the active one
    model.set_adapter("second")
    assert torch.equal(logits(model, inputs), logits(tiny(), inputs))
    train(model, inputs, 3)
    after = logits(model, inputs)
    alone = ailora.get_peft_model(tiny(), AILoRAConfig(r=2))
    train(alone, inputs, 3)
    assert torch.equal(logits(alone, inputs), after)
    model.set_adapter("default")
    assert torch.equal(logits(model, inputs), other)
    model.save_pretrained(tmp_path, selected_adapters=["second"])
    again = PeftModel.from_pretrained(tiny(), str(tmp_path / "second"))
    assert torch.equal(logits(again, inputs), after)


def test_inject_adapter_in_model(tmp_path: Path) -> None:
    config, model = AILoRAConfig(r=2), tiny()
    before, inputs = copy.deepcopy(config), batch(model)
    base = logits(model, inputs)
    injected = peft.inject_adapter_in_model(config, model)
    assert injected is model
    unchanged(config, before)
    assert torch.equal(logits(model, inputs), base)
    assert any(type(module) is Factor for module in model.modules())
    step(model, {"input_ids": inputs["input_ids"]})
    after = logits(model, inputs)
    assert not torch.equal(after, base)
    weights = peft.get_peft_model_state_dict(model)
    saved = StartedConfig.like(
        LoraConfig(r=4, lora_alpha=4, target_modules=["query", "value"]), None
    )
    saved.save_pretrained(tmp_path)
    save_file({f"base_model.model.{k}": v.contiguous() for k, v in weights.items()},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path))
    assert torch.equal(logits(stock, inputs), after)


def in_little_memory(way: str, config: AILoRAConfig) -> nn.Module:
    model = tiny(torch.float32)
    if way == "get":
        return peft.get_peft_model(model, config, low_cpu_mem_usage=True)
    if way == "inject":
        return peft.inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    model = peft.get_peft_model(model, LoraConfig(target_modules=["key"]), "first")
    model.add_adapter("default", config, low_cpu_mem_usage=True)
    model.set_adapter("default")
    return model


@pytest.mark.parametrize("way", ["get", "add", "inject"])
def test_low_cpu_mem_usage_has_its_start_all_the_same(way: str) -> None:
    model = in_little_memory(way, AILoRAConfig(r=2))
    inputs = batch(model)
    base = logits(tiny(torch.float32), inputs)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(logits(model, inputs), base)
    plain = peft.get_peft_model(tiny(torch.float32), AILoRAConfig(r=2))
    ours, wanted = (
        [p for name, p in one.named_parameters() if "lora_" in name and ".default." in name]
        for one in (model, plain)
    )
    assert len(ours) == len(wanted) == 8
    assert all(torch.equal(a, b) for a, b in zip(ours, wanted, strict=True))
    step(model, {"input_ids": inputs["input_ids"]})
    assert not torch.equal(logits(model, inputs), base)


@pytest.mark.parametrize("way", ["get", "add", "inject"])
@pytest.mark.parametrize(
    "fields",
    [{"use_dora": True}, {"lora_bias": True}, {"target_modules": ["query", "word_embeddings"]}],
)
def test_low_cpu_mem_usage_never_leaves_what_only_peft_gives_values_without_any(
    way: str, fields: dict[str, Any]
) -> None:
    try:
        model = in_little_memory(way, AILoRAConfig(r=2, **fields))
    except UserError as error:
        assert str(error).startswith("low_cpu_mem_usage=True would leave")
        return
    assert not [name for name, parameter in model.named_parameters() if parameter.is_meta]


def test_a_mixed_model_is_refused_by_name() -> None:
    model = tiny()
    with pytest.raises(UserError, match=r"leave out mixed=True"):
        peft.get_peft_model(model, AILoRAConfig(r=2), mixed=True)


@pytest.fixture
def transformers_takes_this_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version check reads the installed one's number; it is switched off where it refuses."""
    module = hf.integrations.peft
    try:
        module.check_peft_version(min_version=module.MIN_PEFT_VERSION)
    except (ImportError, ValueError):  # 5.24 asks for a PEFT that is not released
        monkeypatch.setattr(module, "check_peft_version", lambda **_: None)


@pytest.mark.usefixtures("transformers_takes_this_peft")
def test_add_adapter_of_transformers(tmp_path: Path) -> None:
    config, model = AILoRAConfig(r=2), tiny()
    before, inputs = copy.deepcopy(config), batch(model)
    base = logits(model, inputs)
    model.add_adapter(config)
    unchanged(config, before)
    assert torch.equal(logits(model, inputs), base)
    A = model.get_submodule(Q0).lora_A["default"]
    assert type(A) is Factor and A.weight.shape[0] == 4
    step(model, {"input_ids": inputs["input_ids"]})
    after = logits(model, inputs)
    assert (after - base).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 4
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path))
    assert torch.equal(logits(stock, inputs), after)
    again = ailora.load_adapter(tiny(), tmp_path, is_trainable=True)
    assert torch.equal(logits(again, inputs), after)


def test_one_config_serves_several_models_each_from_its_own_weights() -> None:
    config = AILoRAConfig(r=2)
    first = peft.get_peft_model(tiny(), config)
    other = tiny()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    before = logits(other, batch(other))
    second = peft.get_peft_model(other, config)
    assert torch.equal(logits(second, batch(second)), before)
    for ours, theirs in zip(factors(first, Q0), factors(second, Q0), strict=True):
        assert not torch.allclose(ours.weight, theirs.weight)
    llama = peft.get_peft_model(tiny(family="llama"), config)
    assert llama.peft_config["default"].target_modules == {"q_proj", "v_proj"}


def test_folded_starts_come_by_every_way_too() -> None:
    base = logits(tiny(), batch(tiny()))
    config = AILoRAConfig(r=2, anchored=False)
    ways: list[Callable[[], Any]] = [
        lambda: peft.get_peft_model(tiny(), config),
        lambda: peft.inject_adapter_in_model(config, tiny()),
        lambda: peft.get_peft_model(tiny(), config, low_cpu_mem_usage=True),  # fp32 factors
    ]
    for way, off in zip(ways, (1e-12, 1e-12, 1e-8), strict=True):
        model = way()
        torch.testing.assert_close(logits(model, batch(model)), base, rtol=0, atol=off)
        left = dict(model.named_parameters())
        (weight,) = (left[n] for n in left if n.endswith(f"{Q0}.base_layer.weight"))
        assert not torch.allclose(weight, tiny().get_submodule(Q0).weight)


def test_a_failed_start_leaves_a_peft_model_as_it_was() -> None:
    model = peft.get_peft_model(tiny(), LoraConfig(target_modules=["query"]))
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(UserError, match="r can be at most 32"):
        model.add_adapter("second", AILoRAConfig(r=33))
    assert [name for name, _ in model.named_modules()] == names
    assert list(model.peft_config) == ["default"]
    model.add_adapter("second", AILoRAConfig(r=2))


def test_a_state_dict_for_a_new_start_is_refused_with_the_call_that_loads() -> None:
    state = peft.get_peft_model_state_dict(peft.get_peft_model(tiny(), AILoRAConfig(r=2)))
    with pytest.raises(UserError, match=r"call ailora.load_adapter\(model, folder\)"):
        peft.inject_adapter_in_model(AILoRAConfig(r=2), tiny(), state_dict=state)


def test_roles_named_by_hand_select_in_a_model_nobody_knows() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask, self.give = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.give(torch.tanh(self.ask(x)))

    model, x = Own(), torch.randn(3, 8)
    before = model(x)
    roles = {
        "q": Role(init="principal", modules=["ask"]),
        "v": Role(init="minor", modules=["give"]),
    }
    wrapped = peft.get_peft_model(model, AILoRAConfig(r=2, roles=roles))
    assert torch.equal(wrapped(x), before)
    wrapped(x).sum().backward()
    assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)
