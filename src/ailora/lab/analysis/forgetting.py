"""How far a tuned model's predictions are from the base model's: the paper's figure 4b."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ailora.errors import UserError
from ailora.lab.analysis.tokens import TokenBatch
from ailora.roles import unwrapped


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """Predictions of a tuned model beside the base model's, in nats a position.

    Attributes:
        cross_entropy: - sum_t p(t) log q(t), p the base's prediction and q the tuned model's: the
            forgetting of Kalajdzievski (2024, arXiv 2401.05605), which the paper reports.
        kl: sum_t p(t) (log p(t) - log q(t)) = cross_entropy - entropy; exactly 0 for equal models.
        entropy: - sum_t p(t) log p(t): what the cross-entropy is when nothing is forgotten.
        positions: How many positions the means are over.
    """

    cross_entropy: float
    kl: float
    entropy: float
    positions: int


@dataclass(frozen=True, kw_only=True)
class HiddenDrift:
    """How far the last hidden states moved; says nothing of what is predicted from them.

    Attributes:
        relative: Mean of ||h' - h|| / ||h|| over real tokens.
        cosine: Mean of cos(h', h) over real tokens.
        tokens: How many there were.
    """

    relative: float
    cosine: float
    tokens: int


@torch.no_grad()
def forgetting(base: nn.Module, tuned: nn.Module, batches: Iterable[TokenBatch]) -> Forgetting:
    """Cross-entropy and KL of the tuned model's predictions against the base model's.

    Both read the same batches in evaluation mode; one batch is held at a time. Log-softmax is in
    float32, sums over positions in float64.

    Args:
        base: The untouched language model.
        tuned: A model with logits over the same vocabulary, see
            `ailora.lab.analysis.language_model.on_tuned_body`.
        batches: Of `ailora.lab.analysis.tokens`.

    Raises:
        UserError: The vocabularies differ, no position counts, or predictions are NaN.
    """
    sums, positions = torch.zeros(3, dtype=torch.float64), 0
    with _evaluating(base, tuned):
        for batch in batches:
            log_p, log_q = (_log_predictions(model, batch) for model in (base, tuned))
            if log_p.shape != log_q.shape:
                raise UserError(
                    f"the base model predicts {log_p.shape[-1]} tokens and the tuned one "
                    f"{log_q.shape[-1]}; give a model and its own fine-tuned version"
                )
            sums += _sums(log_p, log_q)
            positions += log_p.shape[0]
    if not positions:
        raise UserError("no position to predict in these texts; give more or longer ones")
    if not torch.isfinite(sums).all():
        raise UserError("the predictions are not numbers; the base or the tuned model is broken")
    cross_entropy, kl, entropy = (sums / positions).tolist()
    return Forgetting(cross_entropy=cross_entropy, kl=kl, entropy=entropy, positions=positions)


@torch.no_grad()
def hidden_drift(base: nn.Module, tuned: nn.Module, batches: Iterable[TokenBatch]) -> HiddenDrift:
    """Distance of the last hidden states, for encoders whose files have no masked-token head.

    Args:
        base: The untouched model, with any head or none.
        tuned: The tuned one, likewise.
        batches: Of `ailora.lab.analysis.tokens`; every real token counts, predicted or not.

    Raises:
        UserError: An encoder-decoder; there are no tokens, or hidden states are NaN.
    """
    if getattr(unwrapped(base).config, "is_encoder_decoder", False):
        raise UserError("hidden states of encoder-decoders are not compared here")
    sums, tokens = torch.zeros(2, dtype=torch.float64), 0
    with _evaluating(base, tuned):
        for batch in batches:
            before, after = (_hidden(model, batch) for model in (base, tuned))
            relative = (after - before).norm(dim=-1) / before.norm(dim=-1)
            cosine = functional.cosine_similarity(before, after, dim=-1)
            sums += torch.stack([relative.sum(), cosine.sum()])
            tokens += before.shape[0]
    if not tokens or not torch.isfinite(sums).all():
        raise UserError("no hidden states, or not numbers; give texts, and models that are whole")
    relative_mean, cosine_mean = (sums / tokens).tolist()
    return HiddenDrift(relative=relative_mean, cosine=cosine_mean, tokens=tokens)


def _log_predictions(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Log-probabilities at the counted positions, (positions, vocabulary) float32."""
    device = next(model.parameters()).device
    logits = model(**{name: value.to(device) for name, value in batch.inputs.items()}).logits
    return torch.log_softmax(logits[batch.counted.to(device)].float(), dim=-1).cpu()


def _sums(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    terms = (-p * log_q, p * (log_p - log_q), -p * log_p)
    return torch.stack([term.sum(dtype=torch.float64) for term in terms])


def _hidden(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Last hidden states of the real tokens, (tokens, width) float64."""
    body: Any = unwrapped(model).base_model
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in batch.inputs.items()}
    hidden: Tensor = body(**inputs).last_hidden_state
    return hidden[inputs["attention_mask"].bool()].double().cpu()


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    before = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, training in zip(models, before, strict=True):
            model.train(training)
