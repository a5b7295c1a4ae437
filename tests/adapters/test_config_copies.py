"""A config that is copied, derived, sent elsewhere or used twice is its own start, or refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters.record import StartedConfig
from ailora.errors import UserError
from tests.adapters.models import Q0, batch, factors, logits, parts, tiny, train, trained
from tests.other_process import run_elsewhere

CONFIG = AILoRAConfig(
    r=3,
    lora_dropout=0.1,
    bias="all",
    target_modules=["query", "value", "key"],
    rank_pattern={"key": 2},
    roles={"q": Role(init="principal", r=4), "v": Role(init="minor", lora_alpha=5)},
    bake_rates=True,
)
COPIES: dict[str, Callable[[AILoRAConfig], AILoRAConfig]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda config: pickle.loads(pickle.dumps(config)),  # noqa: S301
    "replace": lambda config: dataclasses.replace(config),
    "to_dict": lambda config: AILoRAConfig(**config.to_dict()),
    "from_peft_type": lambda config: AILoRAConfig.from_peft_type(**config.to_dict()),
}


def state(model: PeftModel) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if "lora_" in name}


def same_state(left: PeftModel, right: PeftModel) -> bool:
    ours, theirs = state(left), state(right)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def other(seed: int = 1) -> nn.Module:
    """The same architecture, other weights."""
    model = tiny()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter += 0.2 * noise
    return model


def started(model: nn.Module, config: Any) -> PeftModel:
    torch.manual_seed(7)
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_the_same_config_and_starts_the_same_adapter(how: str) -> None:
    made = COPIES[how](CONFIG)
    assert type(made) is AILoRAConfig and made is not CONFIG
    assert made == CONFIG
    assert same_state(started(tiny(), made), started(tiny(), CONFIG))


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle", "replace"])
def test_a_used_config_is_copied_as_an_unused_one(how: str) -> None:
    config = copy.deepcopy(CONFIG)
    started(tiny(), config)
    assert same_state(started(other(), COPIES[how](config)), started(other(), CONFIG))


def test_a_replaced_rank_takes_its_scale_along() -> None:
    """lora_alpha=None is each module's own rank, also of the new one; a number stays."""
    for given, scale in ((None, 1.0), (4, 0.25)):
        config = dataclasses.replace(AILoRAConfig(r=8, lora_alpha=given), r=16)
        model = started(tiny(), config)
        assert {part.scaling for part in parts(model).values()} == {scale}
        assert {part.A.shape[0] for part in parts(model).values()} == {16}


ELSEWHERE = """
import pickle, sys, torch
torch.set_num_threads(1)
from tests.adapters.models import tiny
import peft
with open(sys.argv[1], "rb") as stream:
    config = pickle.load(stream)
torch.manual_seed(7)
model = peft.get_peft_model(tiny(), config)
torch.save({n: v for n, v in model.state_dict().items() if "lora_" in n}, sys.argv[2])
"""


@pytest.mark.parametrize("which", ["new", "started"])
def test_a_pickled_config_starts_in_another_process(which: str, tmp_path: Path) -> None:
    config = CONFIG if which == "new" else started(tiny(), CONFIG).peft_config["default"]
    (tmp_path / "config").write_bytes(pickle.dumps(config))
    run_elsewhere(ELSEWHERE, tmp_path / "config", tmp_path / "out")
    found, wanted = torch.load(tmp_path / "out"), state(started(tiny(), CONFIG))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# --- The config of a started model -----------------------------------------------------------


@pytest.mark.parametrize("anchored", [True, False])
def test_given_to_another_model_it_starts_from_that_models_weights(
    anchored: bool, tmp_path: Path
) -> None:
    first = trained(anchored=anchored)
    second = started(other(), first.peft_config["default"])
    wanted = started(other(), first.peft_config["default"].record.origin)
    assert same_state(second, wanted)
    base = logits(other(), batch(second))
    torch.testing.assert_close(logits(second, batch(second)), base, rtol=0, atol=1e-11)
    train(second, batch(second), 3)
    second.save_pretrained(tmp_path)
    again = ailora.load_adapter(other(), tmp_path, is_trainable=True)
    assert torch.equal(logits(again, batch(again)), logits(second, batch(second)))


def test_cross_validation_with_one_started_config_trains_each_fold_alike() -> None:
    first = trained()
    losses = [
        train(started(tiny(), first.peft_config["default"]), batch(first), 3) for _ in range(2)
    ]
    assert losses[0] == losses[1]
    assert losses[0] == train(started(tiny(), first.peft_config["default"].record.origin),
                              batch(first), 3)  # fmt: skip


def test_a_deep_copy_of_a_model_has_the_same_start_under_its_own_weights() -> None:
    twin = copy.deepcopy(trained())
    assert type(twin.peft_config["default"]) is StartedConfig
    twin.add_adapter("ref", twin.peft_config["default"])
    twin.set_adapter("ref")
    assert torch.equal(logits(twin, batch(twin)), logits(tiny(), batch(twin)))


@pytest.mark.parametrize("anchored", [True, False])
def test_the_same_model_gets_a_second_adapter_of_the_same_start(anchored: bool) -> None:
    """TRL's reference adapter: the anchors of the one that is there, and nothing trained."""
    model = trained(anchored=anchored)
    model.add_adapter("ref", model.peft_config["default"])
    for key, part in parts(model, "ref").items():
        mine = parts(model)[key]
        if anchored:
            torch.testing.assert_close(part.A0, mine.A0, rtol=0, atol=1e-14)
            assert torch.equal(part.B0, mine.B0)
            assert torch.equal(part.A, part.A0) and torch.equal(part.B, part.B0)
        assert not torch.equal(part.A, mine.A)
    model.set_adapter("ref")
    torch.testing.assert_close(
        logits(model, batch(model)), logits(tiny(), batch(model)), rtol=0, atol=1e-11
    )


def test_after_its_adapter_was_deleted_it_is_a_start_of_its_own_again() -> None:
    model = trained()
    config = model.peft_config["default"]
    model.delete_adapter("default")
    model.add_adapter("again", config)
    model.set_adapter("again")
    assert torch.equal(logits(model, batch(model)), logits(tiny(), batch(model)))
    wanted = started(tiny(), config.record.origin)
    for key, part in parts(model, "again").items():
        assert torch.equal(part.A, parts(wanted)[key].A)


@pytest.mark.parametrize("trainable", [True, False])
def test_a_loaded_adapters_config_starts_another_model_anew(
    trainable: bool, tmp_path: Path
) -> None:
    trained().save_pretrained(tmp_path)
    loaded = ailora.load_adapter(tiny(), tmp_path, is_trainable=trainable)
    second = started(other(), loaded.peft_config["default"])
    wanted = started(other(), trained().peft_config["default"].record.origin)
    assert same_state(second, wanted)
    assert any(parameter.requires_grad for parameter in second.parameters())


@pytest.mark.parametrize("trainable", [True, False])
def test_a_loaded_adapters_config_gives_the_same_model_its_own_start(
    trainable: bool, tmp_path: Path
) -> None:
    trained().save_pretrained(tmp_path)
    model = ailora.load_adapter(tiny(), tmp_path, is_trainable=trainable)
    model.add_adapter("ref", model.peft_config["default"])
    for key, part in parts(model, "ref").items():
        torch.testing.assert_close(part.A0, parts(model)[key].A0, rtol=0, atol=1e-12)
        assert torch.equal(part.B0, parts(model)[key].B0)
        assert torch.equal(part.A, part.A0) and torch.equal(part.B, part.B0)


@pytest.mark.parametrize("change", [{"r": 4}, {"lora_alpha": 8}, {"target_modules": ["key"]}])
def test_a_changed_copy_of_a_started_config_is_refused_with_what_to_change(
    change: dict[str, Any],
) -> None:
    """Its rank is 2r and its fields are those of the file: r=4 would mean something else."""
    model = trained()
    changed = dataclasses.replace(model.peft_config["default"], **change)
    for start in (
        lambda: model.add_adapter("second", changed),
        lambda: peft.get_peft_model(tiny(), changed),
    ):
        with pytest.raises(UserError, match=r"change the AILoRAConfig instead \(config\.record\.o"):
            start()
    assert list(model.peft_config) == ["default"]


# --- What PEFT derives from started adapters -------------------------------------------------


def two(folder: Path) -> tuple[PeftModel, PeftModel]:
    """A model with two of our adapters, and stock copies of their files."""
    model = ailora.get_peft_model(tiny(), presets.ailora(2), "first")
    ailora.get_peft_model(model, presets.reailora(2), "second")
    for name in ("first", "second"):
        model.set_adapter(name)
        train(model, batch(model), 3)
    model.save_pretrained(folder)
    stock = PeftModel.from_pretrained(tiny(), str(folder / "first"), "first")
    stock.load_adapter(str(folder / "second"), "second")
    return model, stock


def save_or_skip(model: PeftModel, folder: Path) -> None:
    try:
        model.save_pretrained(folder, selected_adapters=["both"])
    except ValueError as error:
        if "non contiguous" not in str(error):
            raise
        pytest.skip("this PEFT (before 0.19) cannot save what its svd makes, of stock LoRA neither")


@pytest.mark.parametrize("kind", ["linear", "svd", "cat", "ties", "magnitude_prune"])
def test_a_weighted_adapter_is_the_one_of_stock_copies(kind: str, tmp_path: Path) -> None:
    density = {"density": 0.5} if kind in ("ties", "magnitude_prune") else {}
    found = []
    for model in two(tmp_path / "files"):
        model.add_weighted_adapter(
            ["first", "second"], [0.7, 0.6], "both", combination_type=kind, **density
        )
        model.set_adapter("both")
        found.append(logits(model, batch(model)))
        assert type(model.peft_config["both"]) is not AILoRAConfig
        assert getattr(model.peft_config["both"], "record", None) is None
        assert type(factors(model, Q0, "both")[0]) is nn.Linear
        save_or_skip(model, tmp_path / "out")
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)
    assert (found[0] - logits(tiny(), batch(model))).abs().max() > 1e-3
    assert not (tmp_path / "out/both/ailora.json").exists()
    again = PeftModel.from_pretrained(tiny(), str(tmp_path / "out/both"))
    torch.testing.assert_close(logits(again, batch(again)), found[0], rtol=0, atol=1e-10)


def test_a_weighted_adapter_can_be_weighted_again_and_given_on(tmp_path: Path) -> None:
    model, _ = two(tmp_path)
    model.add_weighted_adapter(["first", "second"], [1.0, 1.0], "both", combination_type="cat")
    model.add_weighted_adapter(["both", "first"], [1.0, -1.0], "left", combination_type="cat")
    model.set_adapter("second")
    wanted = logits(model, batch(model))
    model.set_adapter("left")
    torch.testing.assert_close(logits(model, batch(model)), wanted, rtol=0, atol=1e-10)
    peft.get_peft_model(tiny(), model.peft_config["both"])


def test_a_folded_adapter_cannot_be_weighted() -> None:
    model = trained(anchored=False)
    with pytest.raises(UserError, match="cannot be weighted"):
        model.add_weighted_adapter(["default"], [0.5], "half", combination_type="svd")


def reduced(model: PeftModel) -> PeftModel:
    intruders = pytest.importorskip("peft.tuners.lora.intruders", reason="newer than this PEFT")
    intruders.reduce_intruder_dimension(
        model, "default", "less", threshold_epsilon=0.9999, logging_sink=None
    )
    return model


def test_a_reduced_intruder_dimension_is_the_one_of_a_stock_copy(tmp_path: Path) -> None:
    two(tmp_path)
    ours = ailora.load_adapter(tiny(), tmp_path / "first")
    before = logits(ours, batch(ours))
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path / "first"))
    found = [logits(reduced(one), batch(one)) for one in (ours, stock)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)
    assert not torch.allclose(found[0], before)
    assert not torch.allclose(found[0], logits(tiny(), batch(ours)))
    ours.save_pretrained(tmp_path / "out", selected_adapters=["less"])
    assert not (tmp_path / "out/less/ailora.json").exists()
    again = PeftModel.from_pretrained(tiny(), str(tmp_path / "out/less"))
    torch.testing.assert_close(logits(again, batch(again)), found[0], rtol=0, atol=1e-10)


def test_a_reduced_intruder_dimension_is_a_stock_adapter(tmp_path: Path) -> None:
    two(tmp_path)
    ours = reduced(ailora.load_adapter(tiny(), tmp_path / "first", is_trainable=True))
    assert getattr(ours.peft_config["less"], "record", None) is None
    assert type(factors(ours, Q0, "less")[0]) is nn.Linear


def test_a_stock_config_is_left_alone() -> None:
    """The negative control: nothing of ours is on PEFT's own configs."""
    model = peft.get_peft_model(tiny(), LoraConfig(r=2, target_modules=["query"]))
    changed = dataclasses.replace(model.peft_config["default"], r=4)
    model.add_adapter("second", changed)
    assert type(model.peft_config["second"]) is LoraConfig
