"""What ``find_projections`` says when it cannot do as asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from ailora.errors import UserError
from ailora.roles import find_projections
from tests.families import FAMILIES

GPT2 = hf.GPT2Config(vocab_size=64, n_positions=40, n_embd=32, n_layer=2, n_head=4)
MAMBA = hf.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)


def _complaint(model: nn.Module, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        find_projections(model, *args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_architecture_is_told_what_it_has_and_how_to_name_it() -> None:
    message = _complaint(hf.MambaForCausalLM(MAMBA), ["v"])
    assert message == (
        "MambaForCausalLM (model type 'mamba') is no architecture known here; its linear layers "
        "are named 'in_proj', 'x_proj', 'dt_proj', 'out_proj', 'lm_head'; "
        'name them by hand: roles={"v": Role(modules=["..."])}'
    )


def test_a_model_without_config_is_called_by_its_class() -> None:
    layers = {"ask": nn.Linear(8, 6), "tell": nn.Linear(8, 4), "norm": nn.LayerNorm(8)}
    message = _complaint(nn.ModuleDict(layers))
    assert "ModuleDict (model type 'ModuleDict') is no architecture known here" in message
    assert "'ask', 'tell'" in message and "'norm'" not in message


def test_a_model_without_linear_layers_is_told_so() -> None:
    assert "it has no linear layer" in _complaint(nn.LayerNorm(4))


def test_a_known_architecture_without_a_role_is_told_which() -> None:
    model = FAMILIES["bert"]()
    for layer in model.bert.encoder.layer:
        layer.attention.self.value = nn.Identity()
    message = _complaint(model, ["q", "v"])
    assert "role 'v': 'bert.encoder.layer.0.attention.self.value' is of class Identity" in message
    for layer in model.bert.encoder.layer:
        del layer.attention.self.value
    message = _complaint(model, ["q", "v"])
    assert (
        "BertForSequenceClassification (model type 'bert') has no projection of role 'v'" in message
    )
    assert "'query', 'key'" in message and 'roles={"v": Role(modules=["..."])}' in message


def test_a_weight_of_integers_is_no_projection_and_the_message_says_so() -> None:
    model = FAMILIES["bert"]()
    for layer in model.bert.encoder.layer:
        packed = nn.Parameter(torch.zeros(32, 32, dtype=torch.uint8), requires_grad=False)
        layer.attention.self.query.weight = packed
    assert "query' is of class Linear with a torch.uint8 weight" in _complaint(model)
    by_hand = _complaint(model, ["q"], modules={"q": ["query"]})
    assert "'query' fits nothing usable" in by_hand and "torch.uint8" in by_hand


def test_a_long_list_of_layers_is_cut_short() -> None:
    model = nn.ModuleDict({f"part{i}": nn.Linear(2, 2) for i in range(20)})
    message = _complaint(model)
    assert "'part11' and 8 more;" in message and "'part12'" not in message


@pytest.mark.parametrize(
    ("entry", "hint"),
    [
        ("quary", "did you mean 'query'?"),
        ("self.valu", "did you mean 'self.value'"),
        ("c_attn", "there are 'query', 'key', 'value', 'dense', 'classifier'"),
        ("bert.encoder.layer.7.attention.self.query", "layer.0.attention.self.query'"),
    ],
)
def test_a_name_that_fits_nothing_gets_near_names(entry: str, hint: str) -> None:
    message = _complaint(FAMILIES["bert"](), ["q"], modules={"q": [entry]})
    assert f"modules of role 'q': no module is named {entry!r} or ends with it; " in message
    assert hint in message


def test_one_wrong_name_among_right_ones_is_not_passed_over() -> None:
    message = _complaint(FAMILIES["bert"](), ["q"], modules={"q": ["query", "kay"]})
    assert "'kay'" in message and "'key'" in message


def test_a_name_of_something_else_than_a_linear_layer_is_refused() -> None:
    message = _complaint(
        hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64)),
        ["q"],
        modules={"q": ["c_attn"]},
    )
    assert "'transformer.h.0.attn.c_attn', of which only some rows are 'q'" in message
    message = _complaint(FAMILIES["bert"](), ["q"], modules={"q": ["attention"]})
    assert "BertAttention" in message


def test_one_module_cannot_have_two_roles() -> None:
    model = FAMILIES["bert"]()
    both = "module 'bert.encoder.layer.0.attention.self.key' is named for roles 'q' and 'k'"
    assert both in _complaint(model, ["q", "k"], modules={"q": ["self.key"]})
    assert both in _complaint(model, ["q", "k"], modules={"q": ["self.key"], "k": ["key"]})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"roles": ["q", "x"]}, "roles has 'x', which is no role: choose from 'q', 'k', 'v', 'o'"),
        ({"roles": []}, "roles=[]: give"),
        ({"roles": "qv"}, "roles='qv': give"),
        ({"roles": ["q"], "modules": {"v": ["value"]}}, "modules names role 'v', but"),
        ({"modules": {"q": "query"}}, "modules of role 'q' is 'query': give a list"),
        ({"modules": {"q": []}}, "modules of role 'q' is []: give a list"),
        ({"modules": {"q": [""]}}, "modules of role 'q' is ['']: give a list"),
        ({"layers": [0, -1]}, "layers has -1: give layer indices from 0"),
        ({"layers": [True]}, "layers has True: give"),
        ({"layers": []}, "layers=[]: give"),
        ({"layers": 1}, "layers=1: give"),
        ({"layers": "1"}, "layers has '1': give"),
        ({"layers": [1, 2]}, "layers has 2, but the projections of role 'q' are in layers 0 to 1"),
    ],
)
def test_a_senseless_argument_is_quoted(arguments: dict[str, Any], complaint: str) -> None:
    assert complaint in _complaint(FAMILIES["bert"](), **arguments)


def test_layers_of_shared_weights_cannot_be_chosen() -> None:
    message = _complaint(FAMILIES["albert"](), layers=[0])
    assert "belong to no one layer (shared or not numbered); leave layers out" in message


def test_a_role_that_is_absent_from_a_chosen_layer_is_not_dropped_in_silence() -> None:
    modules = {"v": ["layer.0.attention.self.value"]}
    message = _complaint(FAMILIES["bert"](), ["q", "v"], modules=modules, layers=[1])
    assert message == "layers has 1, but the projections of role 'v' are in layers 0"


def _l1(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 3)


@pytest.mark.parametrize("compute", [weight_norm, _l1])
def test_a_weight_that_is_computed_at_each_call_is_refused_and_said(compute: Any) -> None:
    model = FAMILIES["llama"]()
    for layer in model.model.layers:
        compute(layer.self_attn.q_proj)
    message = _complaint(model, ["q"])
    assert "'model.layers.0.self_attn.q_proj' has a weight that torch computes from" in message
    assert "torch computes from" in _complaint(model, ["v"], modules={"v": ["q_proj"]})
    assert len(find_projections(model, ["v"])) == 2


def test_a_parametrised_layer_is_no_projection() -> None:
    model = FAMILIES["llama"]()
    parametrizations.weight_norm(model.model.layers[1].self_attn.q_proj)
    assert "q_proj.parametrizations.weight' in it is not understood" in _complaint(model, ["q"])
    assert "torch computes from" in _complaint(model, ["v"], modules={"v": ["1.self_attn.q_proj"]})
