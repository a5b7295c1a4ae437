"""PEFT's own PiSSA and LoRA as oracles of the presets of those names."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig

import ailora
from ailora import presets
from ailora.adapters.factors import Factor
from tests.adapters.models import Q0, V0, batch, encoder, factors, logits, sentences, tiny, train


def test_pissa_is_pefts_pissa_up_to_fp32() -> None:
    """PEFT decomposes in fp32 by a dense SVD; the product B A is free of the signs' choice."""
    theirs = peft.get_peft_model(
        encoder(),
        LoraConfig(
            r=8, lora_alpha=16, target_modules=["query", "value"], init_lora_weights="pissa"
        ),
    )
    for anchored in (True, False):
        config = presets.pissa(8, lora_alpha=16, anchored=anchored, tol=1e-8)
        ours = ailora.get_peft_model(encoder(), config)
        for name in (Q0, V0):
            A, B = factors(theirs, name)
            their_part = B.weight @ A.weight
            A, B = factors(ours, name)
            A0, B0 = (A.weight[:8], B.weight[:, 8:]) if anchored else (A.weight, B.weight)
            off = (B0 @ A0 - their_part).norm() / their_part.norm()
            assert float(off) < 1e-5, (anchored, name)
    folded = ours.get_base_model().get_submodule(Q0).base_layer.weight
    residual = theirs.get_base_model().get_submodule(Q0).base_layer.weight
    torch.testing.assert_close(folded, residual, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("tol", "exact"), [(None, True), (1e-8, True), (0.5, False)])
def test_at_the_default_tol_the_sizes_are_those_of_the_full_svd_in_fp32(
    tol: float | None, exact: bool
) -> None:
    base = encoder()
    model = ailora.get_peft_model(base, presets.pissa(8, **({} if tol is None else {"tol": tol})))
    for name in (Q0, V0):
        layer = base.get_submodule(name)
        wanted = np.linalg.svd(layer.base_layer.weight.double().numpy(), compute_uv=False)[:8]
        A, B = (factor.weight.detach().double().numpy() for factor in factors(model, name))
        found = np.linalg.svd(B[:, 8:] @ A[:8], compute_uv=False)[:8]
        assert (np.abs(found / wanted - 1).max() < 1e-6) == exact, name


def test_pissa_trains_as_pefts_pissa_does() -> None:
    base = encoder()
    theirs = peft.get_peft_model(
        encoder(),
        LoraConfig(r=4, lora_alpha=4, target_modules=["query", "value"], init_lora_weights="pissa"),
    )
    ours, inputs = ailora.get_peft_model(base, presets.pissa(4)), sentences(labels=True)
    start = logits(ours, inputs)
    wanted, got = (train(model, inputs, 5, lr=1e-3) for model in (theirs, ours))
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=1e-3, atol=1e-4)
    assert float((logits(ours, inputs) - start).norm()) > 20 * float(
        (logits(ours, inputs) - logits(theirs, inputs)).norm()
    )


def test_lora_is_pefts_lora_but_for_the_random_numbers(tmp_path) -> None:
    ours = ailora.get_peft_model(tiny(), presets.lora(4))
    theirs = peft.get_peft_model(
        tiny(), LoraConfig(r=4, lora_alpha=4, target_modules=["query", "value"])
    )
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    assert [type(m) for m in theirs.modules()] == [
        torch.nn.Linear if type(m) is Factor else type(m) for m in ours.modules()
    ]
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    train(ours, batch(ours), 2)
    ours.save_pretrained(tmp_path)
    saved = peft.utils.load_peft_weights(str(tmp_path), device="cpu")
    assert {min(value.shape) for value in saved.values()} == {4}
    again = peft.PeftModel.from_pretrained(tiny(), str(tmp_path))
    assert torch.equal(logits(again, batch(again)), logits(ours, batch(ours)))
