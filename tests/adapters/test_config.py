from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict
from typing import Any

import numpy as np
import pytest
from peft import TaskType

from ailora import AILoRAConfig, Role, presets
from ailora.adapters.files.reading import _config
from ailora.errors import UserError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 0}, "AILoRAConfig.r=0: the rank must be an integer of at least 1"),
        ({"r": None}, "AILoRAConfig.r=None: the rank must be an integer of at least 1"),
        ({"r": 2.5}, "AILoRAConfig.r=2.5: the rank must be an integer of at least 1"),
        ({"r": True}, "AILoRAConfig.r=True: the rank must be an integer of at least 1"),
        ({"alpha": -1}, "AILoRAConfig.alpha=-1: must be a positive number"),
        ({"alpha": "8"}, "AILoRAConfig.alpha='8': must be a positive number"),
        ({"alpha": float("nan")}, "AILoRAConfig.alpha=nan: must be a positive number"),
        ({"dropout": 1.0}, "AILoRAConfig.dropout=1.0: must be in [0, 1)"),
        ({"dropout": -0.1}, "AILoRAConfig.dropout=-0.1: must be in [0, 1)"),
        ({"dropout": "0.1"}, "AILoRAConfig.dropout='0.1': must be in [0, 1)"),
        ({"base": "frozen"}, "AILoRAConfig.base='frozen': must be one of anchored, folded"),
        ({"lr_mode": "none"}, "AILoRAConfig.lr_mode='none': must be one of groups, baked"),
        ({"roles": {}}, "AILoRAConfig.roles={}: name at least one of q, k, v, o"),
        ({"roles": None}, "AILoRAConfig.roles=None: name at least one of q, k, v, o"),
        ({"roles": {"x": Role(init="minor")}}, "AILoRAConfig.roles='x': must be one of q, k, v, o"),
        ({"roles": {"q": "minor"}}, "AILoRAConfig.roles['q']='minor': must be an ailora.Role"),
        ({"task_type": "SEQCLS"}, "AILoRAConfig.task_type='SEQCLS': must be one of SEQ_CLS"),
        ({"modules_to_save": "head"}, "AILoRAConfig.modules_to_save='head': give a non-empty list"),
        ({"modules_to_save": [1]}, "AILoRAConfig.modules_to_save=[1]: give a non-empty list"),
        ({"layers": []}, "AILoRAConfig.layers=[]: give a non-empty list of layer indices"),
        ({"layers": 3}, "AILoRAConfig.layers=3: give a non-empty list of layer indices"),
        ({"layers": [True]}, "AILoRAConfig.layers=[True]: give a non-empty list"),
    ],
)
def test_a_config_out_of_range_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        AILoRAConfig(**fields)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init": "svd"}, "Role.init='svd': must be one of principal, minor, gaussian"),
        ({"r": 0}, "Role.r=0: the rank must be an integer of at least 1"),
        ({"alpha": 0}, "Role.alpha=0: must be a positive number"),
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


def test_configs_are_frozen_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        AILoRAConfig().r = 4  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Role(init="minor").r = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        AILoRAConfig(8)  # type: ignore[misc]


def test_a_config_does_not_follow_later_changes_of_what_it_was_given() -> None:
    roles, layers = {"q": Role(init="minor")}, [0]
    config = AILoRAConfig(roles=roles, layers=layers)
    roles["v"] = Role(init="principal")
    layers.append(1)
    assert set(config.roles) == {"q"}
    assert config.layers == (0,)


def test_the_repr_says_what_each_role_does() -> None:
    roles = {"q": Role(init="principal", r=4, alpha=16), "v": Role(init="minor", lr_ratio=2)}
    config = AILoRAConfig(r=8, roles=roles, dropout=0.1, layers=[0])
    assert repr(config) == (
        "AILoRAConfig(q: principal r=4 scale=4 lr x1; v: minor r=8 scale=1 lr x2; "
        "base=anchored, lr_mode=groups, dropout=0.1, layers=(0,))"
    )


def test_rank_and_scale_fall_back_from_role_to_config_to_rank() -> None:
    config = AILoRAConfig(
        r=8,
        alpha=4,
        roles={
            "q": Role(init="principal"),
            "k": Role(init="minor", r=2),
            "v": Role(init="minor", alpha=24),
            "o": Role(init="minor", r=2, alpha=3),
        },
    )
    assert [config.rank_of(role) for role in "qkvo"] == [8, 2, 8, 2]
    assert [config.scaling_of(role) for role in "qkvo"] == [0.5, 2.0, 3.0, 1.5]
    assert AILoRAConfig(r=5).scaling_of("q") == 1.0


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
    config = getattr(presets, name)(3, alpha=6, dropout=0.2, base="folded", task_type="CAUSAL_LM")
    assert (config.r, config.alpha, config.dropout) == (3, 6, 0.2)
    assert (config.base, config.task_type) == ("folded", "CAUSAL_LM")


def test_a_config_survives_json() -> None:
    config = AILoRAConfig(
        r=4,
        alpha=np.float32(2.5),  # type: ignore[arg-type]
        task_type=TaskType.SEQ_CLS,
        modules_to_save=["classifier"],
        layers=range(1, 3),
        roles={"q": Role(init="minor", lr_ratio=2, modules=["a.b"])},
    )
    assert _config(json.loads(json.dumps(asdict(config)))) == config
