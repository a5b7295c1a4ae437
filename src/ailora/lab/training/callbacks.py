"""What a run tells while it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ailora.lab.training.folder import RunFolder
from ailora.lab.training.measure import DivergedError

OnProgress = Callable[[int, int, str], None]  # step, steps in all, a few words


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Writes one line an evaluation.

    Step, epoch, seconds of training steps so far (over all sessions of a resumed run), mean
    training loss since the last line, scores.
    """

    def __init__(self, folder: RunFolder, metrics: tuple[str, ...]) -> None:
        self.folder = folder
        self.metrics = metrics
        self.loss: float | None = None
        history = folder.history()
        self.seconds: float = history[-1]["seconds"] if history else 0.0
        self.began = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the watch."""
        self.began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop the watch."""
        self.seconds += time.perf_counter() - self.began

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Keep the last training loss; stop a run whose loss is no longer a number."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        self.loss = float(loss)
        if not math.isfinite(self.loss):
            raise DivergedError(
                f"training diverged: the loss is {self.loss} at step {state.global_step}; "
                "lower the learning rate"
            )

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Write the evaluation down, unless it is the final one of another split."""
        if f"eval_{self.metrics[0]}" not in metrics or not state.is_world_process_zero:
            return
        entry: dict[str, Any] = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4)}
        entry |= {"seconds": round(self.seconds, 4), "loss": self.loss}
        entry |= {_recorded(name): metrics[f"eval_{name}"] for name in self.metrics}
        self.folder.log(entry)


def _recorded(name: str) -> str:
    """A line's ``loss`` is the training rows'."""
    return "selection_loss" if name == "loss" else name


class Progress(TrainerCallback):  # type: ignore[misc]
    """Tells the caller about every step, of training and of evaluation."""

    def __init__(self, tell: OnProgress) -> None:
        self.tell = tell
        self.predicted = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """After each optimiser step."""
        self.tell(state.global_step, state.max_steps, "training")

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """After each batch of an evaluation."""
        self.predicted += 1
        self.tell(self.predicted, max(self.predicted, len(eval_dataloader)), "evaluating")

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """The next evaluation counts anew."""
        self.predicted = 0

    def on_predict(self, *_: Any, **__: Any) -> None:
        """Likewise."""
        self.predicted = 0
