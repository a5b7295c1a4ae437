"""Forgetting against SciPy's own entropies, position by position."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import transformers as hf
from scipy.special import log_softmax, rel_entr
from transformers import PreTrainedModel

from ailora.errors import UserError
from ailora.lab.analysis.forgetting import (
    TokenBatch,
    forgetting,
    hidden_drift,
    load_language_model,
    masked_batches,
    next_token_batches,
    on_tuned_body,
)
from tests.adapters.models import train
from tests.conftest import sentences, tokenizer
from tests.families import FAMILIES
from tests.lab.analysis.models import classifier_on, masked_lm
from tests.lab.methods.models import adapted as adapted_family

TEXTS = [text for text, _ in sentences(24)]


def _masking() -> hf.PreTrainedTokenizerFast:
    made = tokenizer()
    made.add_special_tokens({"mask_token": "[MASK]"})
    return made


def _shaken(model: PreTrainedModel, size: float = 0.05) -> PreTrainedModel:
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(size * torch.randn(value.shape, generator=generator))
    return other


def _masked() -> list[TokenBatch]:
    return list(masked_batches(TEXTS, _masking(), batch_size=7))


def _next() -> list[TokenBatch]:
    return list(next_token_batches(TEXTS, tokenizer(), batch_size=7))


def _drop_types(batches: list[TokenBatch]) -> list[TokenBatch]:
    return [
        TokenBatch(
            inputs={k: v for k, v in batch.inputs.items() if k != "token_type_ids"},
            counted=batch.counted,
        )
        for batch in batches
    ]


def test_equal_models_have_a_kl_of_exactly_zero_and_forget_nothing() -> None:
    model = masked_lm()
    found = forgetting(model, copy.deepcopy(model), _masked())
    assert found.kl == 0
    assert found.cross_entropy == found.entropy > 0


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_it_is_scipys_cross_entropy_over_the_positions_by_hand(family: str) -> None:
    base = masked_lm() if family == "bert" else FAMILIES["llama"]()
    tuned = _shaken(base)
    batches = _masked() if family == "bert" else _drop_types(_next())
    kls, crosses, entropies = [], [], []
    for batch in batches:
        with torch.no_grad():
            p, q = (m(**batch.inputs).logits.double().numpy() for m in (base, tuned))
        for row, column in np.argwhere(batch.counted.numpy()):
            log_p, log_q = log_softmax(p[row, column]), log_softmax(q[row, column])
            kls.append(rel_entr(np.exp(log_p), np.exp(log_q)).sum())
            crosses.append(-(np.exp(log_p) * log_q).sum())
            entropies.append(-(np.exp(log_p) * log_p).sum())
    found = forgetting(base, tuned, batches)
    assert found.positions == len(kls)
    assert found.kl == pytest.approx(np.mean(kls), rel=1e-4)
    assert found.kl > 1e-3
    assert found.cross_entropy == pytest.approx(np.mean(crosses), rel=1e-5)
    assert found.entropy == pytest.approx(np.mean(entropies), rel=1e-5)
    assert found.cross_entropy - found.kl == pytest.approx(found.entropy, rel=1e-5)


def test_more_change_is_more_forgetting() -> None:
    base = masked_lm()
    kls = [forgetting(base, _shaken(base, size), _masked()).kl for size in (0.01, 0.03, 0.1)]
    assert kls == sorted(kls)
    assert kls[2] > 10 * kls[0]


def test_rows_padded_more_and_batched_otherwise_count_the_same() -> None:
    base = FAMILIES["llama"]()
    tuned = _shaken(base)
    found = [
        forgetting(
            base, tuned, _drop_types(list(next_token_batches(TEXTS, tokenizer(), batch_size=size)))
        )
        for size in (1, 24)
    ]
    assert found[0].positions == found[1].positions
    assert found[0].kl == pytest.approx(found[1].kl, rel=1e-4)


def test_padding_is_never_counted_and_the_next_token_is_real() -> None:
    for batch in _next():
        real = batch.inputs["attention_mask"].bool()
        assert int(batch.counted.sum()) == int((real.sum(dim=1) - 1).sum())
        assert not (batch.counted & ~real).any()
    for batch in _masked():
        assert not (batch.counted & ~batch.inputs["attention_mask"].bool()).any()


def test_masks_are_berts_seeded_and_leave_special_tokens_and_the_global_state() -> None:
    made, texts = _masking(), TEXTS * 40
    state = torch.get_rng_state()
    plain = list(next_token_batches(texts, made))
    masked = list(masked_batches(texts, made, seed=1))
    again = list(masked_batches(texts, made, seed=1))
    other = list(masked_batches(texts, made, seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a.counted, b.counted) for a, b in zip(masked, again, strict=True))
    assert any(not torch.equal(a.counted, b.counted) for a, b in zip(masked, other, strict=True))
    ordinary = chosen = hidden = kept = 0
    for before, after in zip(plain, masked, strict=True):
        old, new = before.inputs["input_ids"], after.inputs["input_ids"]
        usual = old >= 4
        assert not (after.counted & ~usual).any()
        assert torch.equal(old[~after.counted], new[~after.counted])
        ordinary, chosen = ordinary + int(usual.sum()), chosen + int(after.counted.sum())
        hidden += int((new[after.counted] == made.mask_token_id).sum())
        kept += int((new == old)[after.counted].sum())
    assert chosen / ordinary == pytest.approx(0.15, abs=0.02)
    assert hidden / chosen == pytest.approx(0.8, abs=0.05)
    assert kept / chosen == pytest.approx(0.1, abs=0.05)


def test_a_tokenizer_without_a_mask_and_texts_without_positions_are_refused() -> None:
    with pytest.raises(UserError, match="no mask token"):
        next(masked_batches(TEXTS, tokenizer()))
    with pytest.raises(UserError, match="no position"):
        forgetting(masked_lm(), masked_lm(), iter(()))


def test_other_vocabularies_and_broken_models_are_refused() -> None:
    base = masked_lm()
    with pytest.raises(UserError, match="64 tokens and the tuned one 70"):
        forgetting(base, masked_lm(70), _masked())
    broken = copy.deepcopy(base)
    with torch.no_grad():
        broken.cls.predictions.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="not numbers"):
        forgetting(base, broken, _masked())


@pytest.mark.parametrize("name", ["ailora", "full", "houlsby"])
def test_the_bases_head_goes_on_a_tuned_body(name: str) -> None:
    """A classifier tuned by any method, asked for tokens; untrained it forgets exactly nothing."""
    from ailora.lab.methods import METHODS
    from ailora.lab.settings import RunConfig

    base = masked_lm()
    model = METHODS[name].build(classifier_on(base), RunConfig(rank=2, bottleneck=4), None)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    headed = on_tuned_body(base, model)
    start = forgetting(base, headed, _masked())
    assert start.kl == 0 if name != "houlsby" else start.kl < 1e-3
    inputs = {**_masked()[0].inputs, "labels": torch.zeros(7, dtype=torch.long)}
    train(model, inputs, 5, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]))
    moved = forgetting(base, headed, _masked())
    assert moved.kl > start.kl
    assert moved.kl > 1e-7
    after = base.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_tuned_decoder_speaks_for_itself_and_another_architecture_is_refused() -> None:
    base = FAMILIES["llama"]()
    tuned = adapted_family("llama", "ailora")
    assert on_tuned_body(base, tuned) is tuned
    with pytest.raises(UserError, match="is a llama and the base a bert"):
        on_tuned_body(masked_lm(), tuned)


def test_the_mode_of_both_models_is_given_back() -> None:
    base = masked_lm()
    tuned = _shaken(base).train()
    forgetting(base, tuned, _masked())
    assert tuned.training
    assert not base.training


def test_hidden_states_drift_by_what_is_measured_by_hand() -> None:
    base = classifier_on(masked_lm())
    tuned = _shaken(base, 0.02)
    batches = _next()
    same = hidden_drift(base, copy.deepcopy(base), batches)
    assert same.relative == 0
    assert same.cosine == pytest.approx(1, abs=1e-9)
    found = hidden_drift(base, tuned, batches)
    relative = []
    for batch in batches:
        for row, length in enumerate(batch.inputs["attention_mask"].sum(dim=1)):
            with torch.no_grad():
                h, g = (
                    m.bert(**batch.inputs).last_hidden_state[row, :length].double().numpy()
                    for m in (base, tuned)
                )
            relative += list(np.linalg.norm(g - h, axis=1) / np.linalg.norm(h, axis=1))
    assert found.tokens == len(relative)
    assert found.relative == pytest.approx(np.mean(relative), rel=1e-6)
    assert found.relative > 1e-3


@pytest.fixture
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("lm")
    masked_lm().save_pretrained(folder)
    _masking().save_pretrained(folder)
    yield str(folder)


def test_a_model_with_its_head_is_loaded_and_one_without_is_refused(
    saved: str, tiny_model: object
) -> None:
    loaded = load_language_model(saved)
    assert loaded.masked
    found = forgetting(loaded.model, masked_lm(), loaded.batches(TEXTS))
    assert found.kl == pytest.approx(0, abs=1e-12)
    with pytest.raises(UserError, match="no head that predicts tokens"):
        load_language_model(str(tiny_model))


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(UserError, match="encoder-decoders"):
        hidden_drift(FAMILIES["bart"](), FAMILIES["bart"](), [])
