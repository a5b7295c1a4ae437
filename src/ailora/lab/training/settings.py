"""Settings that only some kinds of task have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ailora.errors import UserError

LossOn = Literal["answer", "sequence"]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a task that is answered with text is learned, and how its answers are generated.

    Attributes:
        loss_on: Tokens a decoder is trained on: the "answer" alone, or the whole "sequence" with
            the prompt, as LLM-Adapters does. An encoder-decoder always learns the answer.
        max_new_tokens: Most tokens of an answer; None for the task's own.
        num_beams: Of the search; 1 is greedy, None the task's own.
        max_source_tokens: Tokens kept of a source, a decoder's template not counted; None for the
            task's own or, where the run says a ``max_length``, what that leaves.
        batch_size: Prompts answered at once.

    Raises:
        UserError: A value out of its range, named.
    """

    loss_on: LossOn = "answer"
    max_new_tokens: int | None = None
    num_beams: int | None = None
    max_source_tokens: int | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.loss_on not in get_args(LossOn):
            raise UserError(f"loss_on={self.loss_on!r}: must be answer or sequence")
        for name in ("max_new_tokens", "num_beams", "max_source_tokens", "batch_size"):
            at_least_one(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class QA:
    """How a context is cut into windows and an answer chosen, as transformers' run_qa does.

    Attributes:
        doc_stride: Tokens that neighbouring windows share.
        n_best: Starts and ends considered in each window.
        max_answer_length: Tokens of an answer at most.
        null_threshold: Nothing is answered where the score of that minus the best answer's is
            larger; only for tasks with questions that have no answer.

    Raises:
        UserError: A value out of its range, named.
    """

    doc_stride: int = 128
    n_best: int = 20
    max_answer_length: int = 30
    null_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("doc_stride", "n_best", "max_answer_length"):
            at_least_one(name, getattr(self, name))


def at_least_one(name: str, value: int | None) -> None:
    """Raise a UserError for a count below 1; None passes."""
    if value is not None and value < 1:
        raise UserError(f"{name}={value!r}: must be at least 1")
