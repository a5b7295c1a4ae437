"""How far a tuned model's predictions and hidden states are from its base's: figure 4b."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ailora.errors import UserError
from ailora.files import read_text
from ailora.lab.analysis.runs import Run
from ailora.lab.training.model import load_pretrained
from ailora.roles import unwrapped

MASKED = 0.15  # Devlin et al. 2019


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenBatch:
    """What a model reads, and where its predictions count.

    Attributes:
        inputs: ``input_ids``, ``attention_mask`` and what else the tokeniser gives, (b, t).
        counted: (b, t) bool: positions whose logits are compared; never padding.
    """

    inputs: dict[str, Tensor]
    counted: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """A pre-trained model that predicts tokens.

    Attributes:
        model: The model with its own head.
        tokenizer: The model's tokeniser.
        masked: Whether it predicts masked tokens (encoders) rather than the next one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    masked: bool

    def batches(self, texts: Sequence[str], *, seed: int = 0) -> Iterator[TokenBatch]:
        """Batches of texts with the positions that it predicts; ``seed`` draws the masks."""
        if self.masked:
            return masked_batches(texts, self.tokenizer, seed=seed)
        return next_token_batches(texts, self.tokenizer)


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """Predictions of a tuned model beside the base model's, in nats per position.

    Attributes:
        cross_entropy: - sum_t p(t) log q(t), p the base's prediction and q the tuned model's: the
            forgetting of Kalajdzievski (2024, arXiv 2401.05605), which the paper reports.
        kl: sum_t p(t) (log p(t) - log q(t)) = cross_entropy - entropy; exactly 0 for equal models.
        entropy: - sum_t p(t) log p(t): what the cross-entropy is when nothing is forgotten.
        positions: Number of positions that the means are over.
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
        tokens: Number of real tokens.
    """

    relative: float
    cosine: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class OnTexts:
    """How a tuned model differs from its base on texts.

    Attributes:
        texts: Number of texts.
        drift: Movement of the last hidden states.
        forgetting: Change of the predictions; None where the base has no head that predicts tokens.
        reason: Why ``forgetting`` is None.
    """

    texts: int
    drift: HiddenDrift
    forgetting: Forgetting | None = None
    reason: str = ""


def read_texts(path: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        UserError: It cannot be read as UTF-8, or has no text.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a text file in UTF-8") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError(f"{path}: has no text; give a file with one text per line")
    return texts


def on_texts(run: Run, texts: Sequence[str], *, seed: int = 0) -> OnTexts:
    """Drift of hidden states, and forgetting where the base model predicts tokens.

    Args:
        run: A finished run.
        texts: One per row; best of a kind that the run was not trained on.
        seed: Seed of the masks, for encoders.

    Raises:
        UserError: An encoder-decoder.
    """
    body, tokenizer = load_pretrained(run.model, AutoModelForSequenceClassification, seed=0)
    drift = hidden_drift(body, run.tuned, next_token_batches(texts, tokenizer))
    try:
        base = load_language_model(run.model)
    except UserError as error:
        return OnTexts(texts=len(texts), drift=drift, reason=str(error))
    tuned = on_tuned_body(base.model, run.tuned)
    return OnTexts(
        texts=len(texts),
        drift=drift,
        forgetting=forgetting(base.model, tuned, base.batches(texts, seed=seed)),
    )


@torch.no_grad()
def forgetting(base: nn.Module, tuned: nn.Module, batches: Iterable[TokenBatch]) -> Forgetting:
    """Cross-entropy and KL of the tuned model's predictions against the base model's.

    Both read the same batches in evaluation mode; one batch is held at a time. Log-softmax is in
    float32, sums over positions in float64.

    Args:
        base: The untouched language model.
        tuned: A model with logits over the same vocabulary, see
            `on_tuned_body`.
        batches: From `LanguageModel.batches`.

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
        batches: Batches of tokens; every real token counts, predicted or not.

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


def load_language_model(name: str) -> LanguageModel:
    """Load a model with the head it was pre-trained with.

    Args:
        name: ``"demo-decoder"``, a folder or a hub name.

    Raises:
        UserError: No such model; an encoder-decoder; or its files have no such head, as those of
            sentence encoders (``"demo"``), which `hidden_drift` is for.
    """
    model, tokenizer = load_pretrained(name, _AutoWithItsHead, seed=0)
    return LanguageModel(model=model.eval(), tokenizer=tokenizer, masked=_is_masked(model.config))


def on_tuned_body(language_model: PreTrainedModel, tuned: nn.Module) -> nn.Module:
    """The tuned model with logits over tokens.

    Args:
        language_model: The base, with its head; it is not changed.
        tuned: A model of the same architecture, with any head, wrapped by PEFT or not.

    Returns:
        The tuned model itself if it predicts tokens, else a copy of the base's head on the tuned
        model's body, which is shared and not copied.

    Raises:
        UserError: The two are not of one architecture.
    """
    inner: Any = unwrapped(tuned)
    if inner.config.model_type != language_model.config.model_type:
        raise UserError(
            f"the tuned model is a {inner.config.model_type} and the base a "
            f"{language_model.config.model_type}; give the base that it was tuned from"
        )
    if isinstance(inner, type(language_model)):
        return tuned
    prefix = language_model.base_model_prefix
    body = getattr(language_model, prefix)
    try:
        setattr(language_model, prefix, nn.Identity())  # not copied, only to be replaced
        headed: nn.Module = copy.deepcopy(language_model)
    finally:
        setattr(language_model, prefix, body)
    setattr(headed, prefix, inner.base_model)
    return headed


def next_token_batches(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 128,
    batch_size: int = 16,
) -> Iterator[TokenBatch]:
    """For decoders: each position that has a real token after it.

    Args:
        texts: One per row.
        tokenizer: One with a padding token; it may pad on either side.
        max_length: Tokens kept of a row.
        batch_size: Rows per batch.
    """
    for inputs in _encoded(texts, tokenizer, max_length, batch_size):
        real = inputs["attention_mask"].bool()
        counted = torch.zeros_like(real)
        counted[:, :-1] = real[:, :-1] & real[:, 1:]
        yield TokenBatch(inputs=inputs, counted=counted)


def masked_batches(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
    max_length: int = 128,
    batch_size: int = 16,
) -> Iterator[TokenBatch]:
    """For encoders: 15 % of the ordinary tokens, 80 % of them masked, 10 % random, 10 % left.

    That is BERT's own training (Devlin et al. 2019). The draw is transformers' and seeded: the
    same texts and seed give the same batches, and the global random state is left alone.

    Args:
        texts: One per row.
        tokenizer: One with a mask token.
        seed: Seed of what is masked.
        max_length: Tokens kept of a row.
        batch_size: Rows per batch.

    Raises:
        UserError: The tokeniser has no mask token.
    """
    if tokenizer.mask_token is None:
        raise UserError(
            "the model's tokenizer has no mask token; masked tokens cannot be predicted"
        )
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=MASKED)
    for index, inputs in enumerate(_encoded(texts, tokenizer, max_length, batch_size)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1_000_003 + index)
            ids, labels = collate.torch_mask_tokens(inputs["input_ids"].clone())
        counted = (labels != -100) & inputs["attention_mask"].bool()
        yield TokenBatch(inputs={**inputs, "input_ids": ids}, counted=counted)


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


class _AutoWithItsHead:
    """Chooses between transformers' auto classes, and refuses a head that would be random."""

    @staticmethod
    def from_pretrained(path: str, **options: Any) -> Any:
        config = options["config"]
        if config.is_encoder_decoder:
            raise UserError("forgetting of encoder-decoders is not measured here")
        auto: Any = AutoModelForMaskedLM if _is_masked(config) else AutoModelForCausalLM
        model, loaded = auto.from_pretrained(path, **options)
        if loaded["missing_keys"]:
            raise UserError(
                "the base model's files have no head that predicts tokens "
                f"({min(loaded['missing_keys'])} is missing); give one with a head, or compare "
                "hidden states alone"
            )
        return model, loaded


def _is_masked(config: Any) -> bool:
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _encoded(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, batch_size: int
) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(texts), batch_size):
        rows = list(texts[start : start + batch_size])
        yield dict(
            tokenizer(
                rows, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            )
        )
