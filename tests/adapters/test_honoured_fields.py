"""Each field of PEFT's LoraConfig does what it does there, or is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from packaging.version import Version
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora import config as lora_config
from torch import nn

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters import compatibility, peft_insides
from ailora.adapters.config import HONOURED, REFUSED
from ailora.errors import UserError
from ailora.versions import TESTED
from tests.adapters.models import Q0, V0, batch, logits, tiny, train
from tests.architectures import build

NAMES = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}


def pair(
    given: dict[str, Any], family: str = "bert", build: Callable[[], nn.Module] | None = None
) -> tuple[PeftModel, PeftModel]:
    """One model by our config and one by PEFT's, of the same fields."""
    if given.get("bias") == "lora_only" and not peft_insides.saves_lora_only_biases():
        pytest.skip("this PEFT (before 0.21) does not save these biases: refused")
    build = build or (lambda: tiny(family=family))
    fields = {"r": 2, "lora_alpha": 6, **given}
    ours = peft.get_peft_model(build(), AILoRAConfig(**fields))
    fields.setdefault("target_modules", NAMES[family])
    return ours, peft.get_peft_model(build(), LoraConfig(**fields))


def layers(model: PeftModel) -> dict[str, LoraLayer]:
    """What the adapter is in, by name: as PEFT keeps it, linear layers, embeddings and others."""
    return {
        name: layer
        for name, layer in model.get_base_model().named_modules()
        if isinstance(layer, LoraLayer) and "default" in layer.r
    }


def trainable(model: PeftModel) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters() if p.requires_grad}


def alike(ours: PeftModel, stock: PeftModel) -> None:
    """The same modules, scales, ranks (2r where it is anchored), and other trainable parameters."""
    mine, theirs = layers(ours), layers(stock)
    assert mine.keys() == theirs.keys() != set()
    blocks = ours.peft_config["default"].record.layers
    for name, layer in mine.items():
        assert layer.scaling["default"] == pytest.approx(theirs[name].scaling["default"]), name
        anchored = any(block.anchored for block in blocks.get(name, ()))
        assert layer.r["default"] == theirs[name].r["default"] * (2 if anchored else 1), name
    assert trainable(ours).keys() == trainable(stock).keys()
    for name, shape in trainable(ours).items():
        if "lora_A" not in name and "lora_B.default.weight" not in name:
            assert shape == trainable(stock)[name], name


def comes_back(
    model: PeftModel,
    folder: Path,
    family: str = "bert",
    build: Callable[[], nn.Module] | None = None,
) -> None:
    """Trained a little and saved, stock PEFT and `load_adapter` have it again exactly."""
    build = build or (lambda: tiny(family=family))
    inputs = batch(model, family)
    start = logits(model, inputs)
    train(model, inputs, 3)
    wanted = logits(model, inputs)
    assert (wanted - start).abs().max() > 1e-3
    model.save_pretrained(folder)
    for again in (
        PeftModel.from_pretrained(build(), str(folder)),
        ailora.load_adapter(build(), folder, is_trainable=True),
    ):
        torch.testing.assert_close(logits(again.eval(), inputs), wanted, rtol=0, atol=1e-12)
    assert trainable(again) == trainable(model)


ON_BERT: dict[str, dict[str, Any]] = {
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "exclude a name": {"exclude_modules": ["layer.0.attention.self.query"]},
    "exclude a pattern": {"exclude_modules": r".*layer\.1.*value"},
    "one layer": {"layers_to_transform": 1},
    "layers": {"layers_to_transform": [0]},
    "layers of a pattern": {"layers_to_transform": [1], "layers_pattern": "layer"},
    "modules to save": {"modules_to_save": ["pooler", "classifier"]},
    "a task": {"task_type": "SEQ_CLS"},
    "rank pattern": {"rank_pattern": {"layer.1.attention.self.query": 4, "value": 3}},
    "alpha pattern": {"alpha_pattern": {"layer.1.attention.self.query": 1, "value": 5}},
    "both patterns": {"rank_pattern": {"query": 3}, "alpha_pattern": {"^bert.*query": 5}},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "rslora and patterns": {"use_rslora": True, "rank_pattern": {"query": 4}},
    "lora bias": {"lora_bias": True},
    "dropout": {"lora_dropout": 0.3},
    "names": {"target_modules": ["query", "value", "key", "attention.output.dense"]},
    "all of a name": {"target_modules": ["query", "dense"], "modules_to_save": ["classifier"]},
    "a set": {"target_modules": {"query", "key"}},
    "full names": {"target_modules": [Q0, V0]},
    "a regular expression": {"target_modules": r".*layer\.1\.attention\.self\.(query|key)"},
    "all linear": {"target_modules": "all-linear"},
    "all linear but": {"target_modules": "all-linear", "exclude_modules": ["intermediate.dense"]},
    "names in one layer": {"target_modules": ["query", "dense"], "layers_to_transform": [1]},
    "embeddings": {"target_modules": ["query", "word_embeddings"]},
}


@pytest.mark.parametrize("given", ON_BERT.values(), ids=ON_BERT)
def test_a_field_does_what_it_does_in_peft(given: dict[str, Any], tmp_path: Path) -> None:
    ours, stock = pair(given)
    alike(ours, stock)
    base = tiny()
    assert torch.equal(logits(ours.eval(), batch(base)), logits(base, batch(base)))
    comes_back(ours, tmp_path)


@pytest.mark.parametrize("roles", [("*",), ("q", "*")], ids=" and ".join)
@pytest.mark.parametrize("layers", [1, [1]], ids=["a number", "a list"])
def test_layers_to_transform_holds_for_every_other_layer_too(
    roles: tuple[Any, ...], layers: Any
) -> None:
    """Which ``roles["*"]`` takes where target_modules names none."""
    config = AILoRAConfig(
        r=2, roles=dict.fromkeys(roles, Role(init="principal")), layers_to_transform=layers
    )
    model = peft.get_peft_model(tiny(), config)
    names = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    assert len(names) == 6 and all(".layer.1." in name for name in names)


def test_a_layer_that_is_not_there_is_refused_for_every_other_layer_too() -> None:
    config = AILoRAConfig(r=2, roles={"*": Role(init="principal")}, layers_to_transform=[1, 7])
    with pytest.raises(UserError, match=r"^layers_to_transform has 7, where this Bert"):
        peft.get_peft_model(tiny(), config)


@pytest.mark.parametrize("targets", [None, [], set()], ids=["None", "a list", "a set"])
def test_no_target_modules_is_the_same_however_it_is_written(targets: Any) -> None:
    model = peft.get_peft_model(tiny(), AILoRAConfig(r=2, target_modules=targets))
    names = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    assert len(names) == 4


def test_a_model_of_no_known_layers_is_asked_to_name_modules() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(UserError, match=r"^this Sequential has no .*name the modules in target_mo"):
        peft.get_peft_model(model, AILoRAConfig(r=2, roles={"*": Role(init="principal")}))


def tied() -> nn.Module:
    return tiny(family="smollm2")


ON_LLAMA: dict[str, dict[str, Any]] = {
    "token indices": {"trainable_token_indices": [5, 6]},
    "token indices of a layer": {"trainable_token_indices": {"embed_tokens": [7]}},
    "tokens as TRL writes them": {
        "trainable_token_indices": {"embed_tokens": [5, 6]},
        "modules_to_save": ["lm_head"],
    },
    "alora": {"task_type": "CAUSAL_LM", "alora_invocation_tokens": [11, 12]},
    "all linear of a decoder": {"target_modules": "all-linear", "task_type": "CAUSAL_LM"},
}


@pytest.mark.parametrize("given", ON_LLAMA.values(), ids=ON_LLAMA)
def test_a_field_does_what_it_does_in_peft_on_decoders(
    given: dict[str, Any], tmp_path: Path
) -> None:
    ours, stock = pair(given, "llama")
    alike(ours, stock)
    base = tiny(family="llama")
    ask = batch(base, "llama", labels=False)
    assert torch.equal(logits(ours.eval(), ask), logits(base, ask))
    if "alora_invocation_tokens" not in given:
        comes_back(ours, tmp_path, "llama")


def test_alora_acts_after_its_invocation_alone(tmp_path: Path) -> None:
    given = {"task_type": "CAUSAL_LM", "alora_invocation_tokens": [11, 12]}
    ours, _ = pair(given, "llama")
    ids = torch.tensor([[7, 8, 9, 11, 12, 20, 21], [7, 11, 12, 20, 21, 22, 23]])
    train(ours, {"input_ids": ids, "labels": ids}, 3)
    base, after = logits(tiny(family="llama"), {"input_ids": ids}), logits(ours, {"input_ids": ids})
    same = (after == base).all(-1)
    assert same[0, :3].all() and same[1, :1].all()
    assert not same[0, 3:].any() and not same[1, 1:].any()
    ours.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(tiny(family="llama"), str(tmp_path))
    assert torch.equal(logits(stock, {"input_ids": ids}), after)


@pytest.mark.filterwarnings("ignore:.*tied")
@pytest.mark.parametrize(
    "given",
    [
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"trainable_token_indices": [5, 6], "ensure_weight_tying": True},
    ],
    ids=["modules", "tokens"],
)
def test_tied_weights_stay_tied_where_that_is_asked_for(
    given: dict[str, Any], tmp_path: Path
) -> None:
    ours, stock = pair({"task_type": "CAUSAL_LM", **given}, "llama", tied)
    alike(ours, stock)
    comes_back(ours, tmp_path, "llama", tied)
    merged = ours.merge_and_unload()
    assert torch.equal(merged.lm_head.weight, merged.model.embed_tokens.weight)


@pytest.mark.filterwarnings("ignore:.*tied")
@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["q_proj", "embed_tokens"]], ids=str)
def test_targets_that_a_start_would_untie_are_refused(targets: list[str]) -> None:
    """PEFT has one pair of factors for both; a start gives each layer its own."""
    model = tied()
    with pytest.raises(UserError, match=r"^ensure_weight_tying=True: [^\n]* shares its weight"):
        peft.get_peft_model(
            model, AILoRAConfig(r=2, target_modules=targets, ensure_weight_tying=True)
        )
    assert not any(isinstance(module, LoraLayer) for module in model.modules())
    peft.get_peft_model(
        model, AILoRAConfig(r=2, target_modules=["q_proj"], ensure_weight_tying=True)
    )


def test_conv1d_is_fan_in_fan_out_as_in_peft(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {"vocab_size": 64, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}
    config = hf.GPT2Config(**settings, bos_token_id=1, eos_token_id=2)
    model = hf.GPT2LMHeadModel(config).double().eval()
    model.save_pretrained(tmp_path / "base")

    def build() -> nn.Module:
        found = hf.GPT2LMHeadModel.from_pretrained(tmp_path / "base", dtype=torch.float64)
        return found.eval()

    for given in ({}, {"fan_in_fan_out": True}):
        ours = peft.get_peft_model(build(), AILoRAConfig(r=2, **given))
        stock = peft.get_peft_model(
            build(), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
        )
        assert layers(ours).keys() == layers(stock).keys() != set()
        assert {layer.fan_in_fan_out for layer in layers(ours).values()} == {True}
        assert ours.peft_config["default"].fan_in_fan_out is True
        comes_back(ours, tmp_path / "adapter", "llama", build)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_parameters_of_experts_beside_roles(kind: str, tmp_path: Path) -> None:
    if not any(name.endswith("experts.gate_up_proj") for name, _ in moe(kind).named_parameters()):
        pytest.skip("in transformers 4 experts are modules with layers, not parameters")
    given = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
    ours, stock = pair({**given, "task_type": "CAUSAL_LM"}, "llama", lambda: moe(kind))
    assert trainable(ours).keys() == trainable(stock).keys()
    experts = {name: shape for name, shape in trainable(stock).items() if "experts" in name}
    assert len(experts) == 8
    assert {name: trainable(ours)[name] for name in experts} == experts
    attention = {name for name in layers(ours) if name.endswith(("q_proj", "v_proj"))}
    assert attention == {name for name in layers(stock) if name.endswith(("q_proj", "v_proj"))}
    for name in attention:
        assert layers(ours)[name].r["default"] == 4
        assert layers(ours)[name].scaling == layers(stock)[name].scaling
    base, ask = moe(kind), batch(ours, "llama", labels=False)
    assert torch.equal(logits(ours, ask), logits(base, ask))
    comes_back(ours, tmp_path, "llama", lambda: moe(kind))


def moe(kind: str) -> nn.Module:
    config_class, model_class = {
        "mixtral": (hf.MixtralConfig, hf.MixtralForCausalLM),
        "qwen3_moe": (hf.Qwen3MoeConfig, hf.Qwen3MoeForCausalLM),
    }[kind]
    experts = {"num_local_experts": 2} if kind == "mixtral" else {"num_experts": 2, "head_dim": 8}
    config = config_class(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts_per_tok=1,
        initializer_range=0.2,
        pad_token_id=1,
        **experts,
        **({"moe_intermediate_size": 24, "decoder_sparse_step": 1} if kind != "mixtral" else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).double().eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the others have no fp64
    return model


def test_dropout_is_one_mask_for_both_halves(tmp_path: Path) -> None:
    """As if it were drawn in W x - W0 x of the start: the same as in stock layers of rank 2r."""
    ours, _ = pair({"lora_dropout": 0.5})
    train(ours, batch(ours), 3)
    ours.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path))
    seen = []
    for model in (ours, stock):
        torch.manual_seed(3)
        seen.append(logits(model.train(), batch(ours)))
    assert torch.equal(*seen)
    assert not torch.equal(seen[0], logits(ours.eval(), batch(ours)))


def test_inference_mode_trains_nothing_as_in_peft() -> None:
    ours, stock = pair({"inference_mode": True})
    assert layers(ours).keys() == layers(stock).keys()
    assert trainable(ours) == trainable(stock) == {}
    assert ours.peft_config["default"].inference_mode is True


def test_the_revision_is_kept(tmp_path: Path) -> None:
    model = peft.get_peft_model(tiny(), AILoRAConfig(r=2), revision="v1")
    assert model.peft_config["default"].revision == "v1"
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["revision"] == "v1"
    other = peft.get_peft_model(tiny(), AILoRAConfig(r=2, revision="v2"))
    assert other.peft_config["default"].revision == "v2"


def test_the_name_of_the_base_is_kept(tmp_path: Path) -> None:
    base = tiny()
    base.config._name_or_path = base.name_or_path = "someone/base"
    peft.get_peft_model(base, AILoRAConfig(r=2)).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == "someone/base"


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_where_the_bases_biases_train_a_disabled_adapter_is_no_reference(bias: str) -> None:
    ours, _ = pair({"bias": bias})
    ours.train()
    message = rf"^bias='{bias}' trains the base's own biases"
    with pytest.raises(UserError, match=message), ours.disable_adapter():
        pass
    none, _ = pair({})
    with none.train().disable_adapter():
        pass


def test_biases_that_peft_would_not_save_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "saves_lora_only_biases", lambda: False)
    model = tiny()
    with pytest.raises(UserError, match=r"^bias='lora_only': PEFT [^\n]*$"):
        peft.get_peft_model(model, AILoRAConfig(r=2, bias="lora_only"))
    assert "lora" not in str(model)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_all_linear_leaves_the_routers_of_experts_out(kind: str) -> None:
    """They choose, and are no part of what an expert computes."""
    ours = peft.get_peft_model(moe(kind), AILoRAConfig(r=2, target_modules="all-linear"))
    assert layers(ours) and not any(name.endswith("gate") for name in layers(ours))


def test_a_router_is_told_by_its_name_wherever_the_experts_are() -> None:
    """JetMoE's, and Granite's before transformers 5.10, have none beside them called so."""
    stock = peft.get_peft_model(build("jetmoe"), LoraConfig(target_modules="all-linear"))
    config = AILoRAConfig(r=2, roles={"*": Role(init="minor")}, target_modules="all-linear")
    ours = peft.get_peft_model(build("jetmoe"), config)
    assert any("router" in name for name, _ in stock.named_modules() if name.endswith("lora_A"))
    assert layers(ours) and not any("router" in name for name in layers(ours))


# --- What is refused -------------------------------------------------------------------------

OTHERWISE: dict[str, Any] = {
    "init_lora_weights": "pissa",
    "loftq_config": "LoftQConfig",
    "eva_config": "EvaConfig",
    "corda_config": "CordaConfig",
    "lora_ga_config": "LoraGAConfig",
    "velora_config": "VeloraConfig",
    "kasa_config": "KasaConfig",
    "monteclora_config": "MontecloraConfig",
    "use_qalora": True,
    "qalora_group_size": 8,
    "use_bdlora": "BdLoraConfig",
    "arrow_config": "ArrowConfig",
    "megatron_config": {"tensor_model_parallel_size": 1},
    "megatron_core": "other.core",
    "layer_replication": [(0, 2), (1, 2)],
}


FIELDS = {item.name for item in fields(LoraConfig)}
HERE = [name for name in REFUSED if name in FIELDS]


def otherwise(name: str) -> object:
    """A value that is not the field's default; of a config's own class, one of that."""
    value = OTHERWISE[name]
    is_class = isinstance(value, str) and value.endswith("Config")
    return getattr(lora_config, value)() if is_class else value


def test_every_field_of_pefts_config_is_honoured_or_refused() -> None:
    assert HONOURED | set(REFUSED) >= FIELDS
    assert not HONOURED & set(REFUSED)
    assert set(OTHERWISE) == set(REFUSED)
    if Version(peft.__version__) >= Version(TESTED["peft"][1]):
        assert HONOURED | set(REFUSED) == FIELDS


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("way", ["given", "written"])
@pytest.mark.filterwarnings("ignore:.*will be ignored")
def test_a_refused_field_is_named_when_the_config_meets_a_model(name: str, way: str) -> None:
    """Written by others too, long after the config was made."""
    if way == "given":
        config = AILoRAConfig(r=2, **{name: otherwise(name)})
    else:
        config = AILoRAConfig(r=2)
        setattr(config, name, otherwise(name))
    model = tiny()
    with pytest.raises(UserError, match=rf"^{name}=.* cannot be had with an AILoRAConfig: [^\n]+$"):
        peft.get_peft_model(model, config)
    assert "lora" not in str(model)


@pytest.mark.parametrize("name", HERE)
def test_the_default_of_a_refused_field_may_be_spelled_out(name: str) -> None:
    (item,) = (item for item in fields(LoraConfig) if item.name == name)
    value = item.default if item.default is not MISSING else item.default_factory()
    peft.get_peft_model(tiny(), AILoRAConfig(r=2, **{name: value}))


@dataclass
class OfTheFuture(AILoRAConfig):
    """A PEFT of next year has a field that nobody here has heard of."""

    use_next_years_method: bool = False


def test_a_field_of_a_future_peft_is_refused_by_name_until_somebody_has_looked_at_it() -> None:
    peft.get_peft_model(tiny(), OfTheFuture(r=2))
    with pytest.raises(UserError, match=r"^use_next_years_method=True cannot be had .*not known"):
        peft.get_peft_model(tiny(), OfTheFuture(r=2, use_next_years_method=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_modules": ["query", "quary"]}, "'quary'"),
        ({"target_modules": "nothing.*"}, "selects no module"),
        ({"rank_pattern": {"quary": 3}}, "rank_pattern: 'quary'"),
        ({"alpha_pattern": {"quary": 3}}, "alpha_pattern: 'quary'"),
        ({"exclude_modules": ["query", "value"]}, "leave nothing"),
        ({"target_modules": ["query"], "exclude_modules": ["query"]}, "selects no module"),
    ],
)
def test_what_selects_nothing_is_said(given: dict[str, Any], message: str) -> None:
    model = tiny()
    with pytest.raises(UserError, match=message):
        peft.get_peft_model(model, AILoRAConfig(r=2, **given))
    assert "lora" not in str(model)


def test_a_start_for_all_other_layers_reaches_them() -> None:
    roles = {"q": Role(init="principal"), "*": Role(init="minor", r=3)}
    config = AILoRAConfig(r=2, roles=roles, target_modules=["query", "value", "output.dense"])
    model = peft.get_peft_model(tiny(), config)
    blocks = {
        name: (block.init, block.rank)
        for name, (block,) in model.peft_config["default"].record.layers.items()
    }
    assert len(blocks) == 8
    for name, found in blocks.items():
        assert found == (("principal", 2) if name.endswith("query") else ("minor", 3)), name
    base = tiny()
    assert torch.equal(logits(model, batch(base)), logits(base, batch(base)))


def test_others_of_a_selection_start_as_plain_lora_where_no_role_is_for_them() -> None:
    config = presets.pissa(2)
    config.target_modules = ["query", "output.dense"]
    record = peft.get_peft_model(tiny(), config).peft_config["default"].record
    inits = {name: block.init for name, (block,) in record.layers.items()}
    assert {init for name, init in inits.items() if name.endswith("query")} == {"principal"}
    assert {init for name, init in inits.items() if name.endswith("dense")} == {"gaussian"}
