"""What an `AILoRAConfig` holds, what it refuses, and that it is PEFT's LoraConfig."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model

import ailora
from ailora import AILoRAConfig, Role, linalg, presets
from ailora.adapters.config import as_json, from_json
from ailora.errors import UserError
from tests.adapters.models import tiny


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 0}, "r=0: the rank must be an integer of at least 1"),
        ({"r": None}, "r=None: the rank must be an integer of at least 1"),
        ({"r": 2.5}, "r=2.5: the rank must be an integer of at least 1"),
        ({"r": True}, "r=True: the rank must be an integer of at least 1"),
        ({"rank_pattern": {"query": 0}}, "rank_pattern['query']=0: the rank must be an integer"),
        ({"lora_alpha": -1}, "lora_alpha=-1: must be a positive number"),
        ({"lora_alpha": "8"}, "lora_alpha='8': must be a positive number"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan: must be a positive number"),
        ({"alpha_pattern": {"query": -1}}, "alpha_pattern['query']=-1: must be a positive number"),
        ({"tol": 0}, "tol=0: must be between 0 and 1, such as 1e-8 or 1e-2"),
        ({"tol": 1.0}, "tol=1.0: must be between 0 and 1"),
        ({"tol": "1e-2"}, "tol='1e-2': must be between 0 and 1"),
        ({"tol": float("nan")}, "tol=nan: must be between 0 and 1"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0: must be in [0, 1)"),
        ({"lora_dropout": -0.1}, "lora_dropout=-0.1: must be in [0, 1)"),
        ({"lora_dropout": "0.1"}, "lora_dropout='0.1': must be in [0, 1)"),
        ({"anchored": "folded"}, "anchored='folded': must be True or False"),
        ({"anchored": None}, "anchored=None: must be True or False"),
        ({"bake_rates": "baked"}, "bake_rates='baked': must be True or False"),
        ({"use_rslora": 1}, "use_rslora=1: must be True or False"),
        ({"use_dora": "yes"}, "use_dora='yes': must be True or False"),
        ({"lora_bias": None}, "lora_bias=None: must be True or False"),
        ({"roles": {}}, "roles={}: name at least one of q, k, v, o"),
        ({"roles": None}, "roles=None: name at least one of q, k, v, o"),
        ({"roles": {"x": Role(init="minor")}}, "roles='x': must be one of "),
        ({"roles": {"q": "minor"}}, "roles['q']='minor': must be an ailora.Role"),
        ({"roles": {"*": Role(init="minor", modules=["a"])}}, 'roles["*"].modules: it is for'),
    ],
)
def test_a_config_out_of_range_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        AILoRAConfig(**fields)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("r", 0, "^r=0: the rank"),
        ("lora_alpha", -2, "^lora_alpha=-2: must be a positive number"),
        ("anchored", "folded", "^anchored='folded'"),
        ("roles", {}, "^roles={}: name at least one"),
    ],
)
def test_a_field_that_is_written_later_is_checked_when_the_config_meets_a_model(
    name: str, value: Any, message: str
) -> None:
    config, model = AILoRAConfig(r=2), tiny()
    setattr(config, name, value)
    modules = [id(module) for module in model.modules()]
    with pytest.raises(UserError, match=message):
        ailora.get_peft_model(model, config)
    assert [id(module) for module in model.modules()] == modules


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init": "svd"}, "Role.init='svd': must be one of principal, minor, orthonormal"),
        ({"r": 0}, "Role.r=0: the rank must be an integer of at least 1"),
        ({"lora_alpha": 0}, "Role.lora_alpha=0: must be a positive number"),
        ({"lr_ratio": 0}, "Role.lr_ratio=0: must be a positive number"),
        ({"lr_ratio": float("inf")}, "Role.lr_ratio=inf: must be a positive number"),
        ({"modules": "q_proj"}, "Role.modules='q_proj': give a non-empty list of module names"),
        ({"modules": []}, "Role.modules=[]: give a non-empty list of module names"),
    ],
)
def test_a_role_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Role(**{"init": "minor", **fields})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["alpha", "dropout", "base", "lr_mode", "layers"])
def test_the_names_of_version_0_1_0_are_unknown_not_dropped(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        AILoRAConfig(**{name: 1})


def test_it_is_pefts_config_with_five_fields_more() -> None:
    config = AILoRAConfig(r=4, lora_dropout=0.1, bias="lora_only", exclude_modules=["key"])
    assert isinstance(config, LoraConfig) and isinstance(config, PeftConfig)
    stock = LoraConfig(r=4, lora_dropout=0.1, bias="lora_only", exclude_modules=["key"])
    ours, theirs = vars(config), vars(stock)
    assert {"roles", "anchored", "bake_rates", "parts", "tol"} == ours.keys() - theirs.keys()
    different = {name for name, value in theirs.items() if ours[name] != value}
    assert different == {"lora_alpha"}  # None, each module's own rank


def test_roles_are_frozen_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        Role(init="minor").r = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        Role("minor")  # type: ignore[misc]


def test_a_config_does_not_follow_later_changes_of_the_roles_it_was_given() -> None:
    roles = {"q": Role(init="minor")}
    config = AILoRAConfig(roles=roles)
    roles["v"] = Role(init="principal")
    assert set(config.roles) == {"q"}


def test_roles_may_be_given_as_mappings_as_in_files() -> None:
    config = AILoRAConfig(roles={"q": {"init": "minor", "r": 3}})  # type: ignore[dict-item]
    assert config.roles == {"q": Role(init="minor", r=3)}


def test_the_repr_says_what_is_not_default_and_what_each_role_does() -> None:
    roles = {"q": Role(init="principal", r=4, lora_alpha=16)}
    config = AILoRAConfig(r=8, roles=roles, lora_dropout=0.1, layers_to_transform=[0])
    text = repr(config)
    assert text.startswith("AILoRAConfig(r=8, ") and text.endswith(")")
    for part in (repr(roles), "lora_dropout=0.1", "layers_to_transform=[0]"):
        assert part in text
    assert "bias" not in text and "anchored" not in text and "\n" not in text
    assert eval(text, {"AILoRAConfig": AILoRAConfig, "Role": Role}) == config  # noqa: S307


def test_presets_are_the_five_starts() -> None:
    def starts(config: AILoRAConfig) -> dict[str, tuple[str, float]]:
        return {name: (role.init, role.lr_ratio) for name, role in config.roles.items()}

    assert starts(presets.ailora()) == {"q": ("principal", 1.0), "v": ("minor", 2.0)}
    assert starts(presets.reailora()) == {"q": ("minor", 1.0), "v": ("principal", 2.0)}
    assert starts(presets.pissa()) == {"q": ("principal", 1.0), "v": ("principal", 1.0)}
    assert starts(presets.milora()) == {"q": ("minor", 1.0), "v": ("minor", 1.0)}
    assert starts(presets.lora()) == {"q": ("gaussian", 1.0), "v": ("gaussian", 1.0)}
    assert presets.ailora() == AILoRAConfig()


@pytest.mark.parametrize("name", presets.__all__)
def test_presets_take_the_rank_and_every_other_field(name: str) -> None:
    more = {"lora_alpha": 6, "lora_dropout": 0.2, "anchored": False, "task_type": "CAUSAL_LM"}
    config = getattr(presets, name)(3, **more)
    assert {key: getattr(config, key) for key in ("r", *more)} == {"r": 3, **more}


@pytest.mark.parametrize(("name", "init"), [("pissa", "principal"), ("milora", "minor")])
def test_one_start_for_all_reaches_every_module_that_is_selected(name: str, init: str) -> None:
    config = getattr(presets, name)(3, target_modules="all-linear")
    assert {role: value.init for role, value in config.roles.items()} == dict.fromkeys("qv*", init)
    assert "*" not in getattr(presets, name)(3).roles
    assert "*" not in presets.ailora(3, target_modules="all-linear").roles


def test_a_config_survives_json() -> None:
    config = AILoRAConfig(
        r=4,
        lora_alpha=np.float32(2.5),  # type: ignore[arg-type]
        task_type=TaskType.SEQ_CLS,
        modules_to_save=["classifier"],
        layers_to_transform=[1, 2],
        target_modules={"b", "a"},
        rank_pattern={"query": 3},
        anchored=False,
        roles={"q": Role(init="minor", lr_ratio=2, modules=["a.b"]), "*": Role(init="gaussian")},
    )
    text = json.dumps(as_json(config))
    again = from_json(json.loads(text))
    assert json.loads(json.dumps(as_json(again))) == json.loads(text)
    assert (again.roles, again.rank_pattern, again.anchored) == (config.roles, {"query": 3}, False)
    assert set(again.target_modules) == {"a", "b"} and again.layers_to_transform == [1, 2]


def test_a_config_is_not_saved_or_read_before_it_has_started_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has started no adapter yet"):
        AILoRAConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"ailora.load_adapter\(model, folder\)"):
        AILoRAConfig.from_pretrained(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_tol_reaches_the_decompositions_and_not_the_saved_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AILORA_CACHE", str(tmp_path / "cache"))
    seen: list[float] = []
    real = linalg.decompose

    def noted(*args: Any, tol: float, **more: Any) -> linalg.Triplets:
        seen.append(tol)
        return real(*args, tol=tol, **more)

    monkeypatch.setattr(linalg, "decompose", noted)
    config = AILoRAConfig(r=2, tol=1e-2)
    assert "tol=0.01" in repr(config)
    assert from_json(json.loads(json.dumps(as_json(config)))).tol == 1e-2
    model = get_peft_model(tiny(), config)
    assert seen and set(seen) == {1e-2}
    model.save_pretrained(str(tmp_path / "saved"))
    stored = json.loads((tmp_path / "saved" / "adapter_config.json").read_text(encoding="utf-8"))
    assert "tol" not in stored
    PeftModel.from_pretrained(tiny(), str(tmp_path / "saved"))
