"""A run's model beside its base on texts of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoModelForSequenceClassification

from ailora.errors import UserError
from ailora.lab.analysis.forgetting import Forgetting, HiddenDrift, forgetting, hidden_drift
from ailora.lab.analysis.language_model import load_language_model, on_tuned_body
from ailora.lab.analysis.runs import Run
from ailora.lab.analysis.tokens import next_token_batches
from ailora.lab.training.model import load_pretrained


@dataclass(frozen=True, kw_only=True)
class OnTexts:
    """What a tuned model does otherwise than its base.

    Attributes:
        texts: How many there were.
        drift: Of the last hidden states.
        forgetting: Of predicted tokens; None where the base has no head that predicts any.
        reason: Why there is none.
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
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a text file in UTF-8") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError(f"{path}: has no text; give a file with a text a line")
    return texts


def on_texts(run: Run, texts: Sequence[str], *, seed: int = 0) -> OnTexts:
    """Drift of hidden states, and forgetting where the base model predicts tokens.

    Args:
        run: Its model and what it learned.
        texts: One a row; best of a kind that the run was not trained on.
        seed: Of the masks, for encoders.

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
