"""What every method promises, on an encoder, a decoder and an encoder-decoder."""

from __future__ import annotations

import pytest
import torch

from ailora.errors import UserError
from ailora.lab.methods import METHODS
from ailora.lab.settings import RunConfig
from tests.adapters.models import same
from tests.lab.methods.models import (
    CASES,
    MOVES_THE_BASE,
    adapted,
    batch_of,
    fresh,
    gpt2,
    life,
    step,
)

every = pytest.mark.parametrize(("family", "name"), CASES)
# What a start may move a logit by. Houlsby promises near-identity, the orthogonal start B A = 0 up
# to rounding; all others start as the base model, to the bit.
TOLERANCE_AT_STEP_0 = {"houlsby": 1e-4, "orthogonal": 5e-6}


@every
def test_the_start_is_the_base_model(family: str, name: str) -> None:
    moved = (life(family, name).step0 - life(family, name).base).abs().max()
    assert moved <= TOLERANCE_AT_STEP_0.get(name, 0.0)


@every
def test_a_few_steps_lower_the_loss(family: str, name: str) -> None:
    losses = life(family, name).losses
    assert losses[-1] < losses[0] - 1e-3
    assert life(family, name).trained.isfinite().all()


@every
def test_what_is_loaded_computes_what_was_saved_to_the_bit(family: str, name: str) -> None:
    lived = life(family, name)
    assert torch.equal(lived.loaded, lived.trained)
    assert torch.equal(lived.loaded_to_train, lived.trained)
    assert not torch.equal(lived.trained, lived.step0)


@every
def test_training_goes_on_from_the_files_as_it_would_have(family: str, name: str) -> None:
    lived = life(family, name)
    assert torch.equal(lived.loaded_and_trained_on, lived.trained_on)
    assert not torch.equal(lived.trained_on, lived.trained)


@every
def test_loading_trains_nothing_unless_asked_to(family: str, name: str) -> None:
    lived = life(family, name)
    assert lived.loaded_counts.trainable == 0
    assert lived.counts_to_train == lived.counts


@every
def test_merging_leaves_a_plain_model_of_the_same_function(family: str, name: str) -> None:
    lived = life(family, name)
    if name == "houlsby":
        assert lived.merged is None
    else:
        assert lived.merged is not None
        torch.testing.assert_close(lived.merged, lived.trained, atol=5e-6, rtol=0)


@every
def test_the_base_weights_stay_as_they_are(family: str, name: str) -> None:
    lived = life(family, name)
    assert same(lived.body_before, lived.body_after) == (name not in MOVES_THE_BASE)


def test_bitfit_moves_biases_alone() -> None:
    lived = life("minilm", "bitfit")
    moved = {
        name
        for name, value in lived.body_after.items()
        if not torch.equal(value, lived.body_before[name])
    }
    assert moved
    assert all(name.endswith(".bias") for name in moved)


def test_bitfit_says_when_there_is_no_bias() -> None:
    with pytest.raises(UserError, match=r"LlamaForCausalLM \(model type 'llama'\) has none"):
        adapted("llama", "bitfit")


@pytest.mark.parametrize("name", ["eva", "lora_ga", "corda"])
def test_starts_from_data_say_that_they_need_some(name: str) -> None:
    assert METHODS[name].needs_data
    if name == "corda":
        pytest.importorskip("attr")
    for none in (None, list):
        with pytest.raises(UserError, match=f"method '{name}' starts from data"):
            METHODS[name].build(fresh("minilm"), RunConfig(), none)


def test_no_other_method_needs_data() -> None:
    needing = {name for name, method in METHODS.items() if method.needs_data}
    assert needing == {"eva", "lora_ga", "corda"}


@pytest.mark.parametrize("name", ["vera", "olora", "orthogonal", "mica"])
def test_whole_layer_methods_refuse_fused_layers_by_name(name: str) -> None:
    with pytest.raises(UserError, match=rf"method '{name}' adapts whole layers.*c_attn"):
        METHODS[name].build(gpt2(), RunConfig(rank=2, vera_rank=4), None)


@pytest.mark.parametrize("name", ["lora", "ailora", "rslora", "houlsby", "bitfit", "full"])
def test_the_other_methods_train_a_model_with_fused_layers(name: str) -> None:
    model = METHODS[name].build(gpt2(), RunConfig(rank=2, bottleneck=4), None).eval()
    batch = {**batch_of("llama")}
    losses = step(model, batch, 3, 1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["full", "houlsby", "bitfit", "vera", "olora", "mica"])
def test_ranks_by_role_are_refused_where_there_are_no_roles(name: str) -> None:
    with pytest.raises(UserError, match=f"method '{name}' has no ranks by role.*'k': 8"):
        METHODS[name].build(fresh("minilm"), RunConfig(ranks={"k": 8}), None)
