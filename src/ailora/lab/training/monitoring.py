"""What is watched while a run trains: steps, scores, that both stay numbers, and a wish to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ailora.files import sync_tree, unwritable
from ailora.lab.training.folder import RunFolder
from ailora.lab.training.machine import anywhere
from ailora.lab.training.results import DivergedError
from ailora.termination import Request, Terminated

OnProgress = Callable[[int, int, str], None]  # step, steps in all, a few words


def check_finite(outputs: npt.NDArray[Any]) -> None:
    """Raise a DivergedError if a model's outputs hold NaN or infinity."""
    if not np.isfinite(outputs).all():
        raise DivergedError(
            "training diverged: the model's outputs are not finite; lower the learning rate"
        )


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Writes one line per evaluation into the run's folder.

    A line holds the step, the epoch, the seconds of training steps so far (over all sessions of a
    resumed run), the mean training loss since the last line, the scores, and each role's learning
    rate and movement (`ailora.log_roles`).

    Args:
        folder: The run's folder.
        metrics: Scores to write, in Trainer's names without "eval_".
    """

    def __init__(self, folder: RunFolder, metrics: tuple[str, ...]) -> None:
        self.folder = folder
        self.metrics = metrics
        self.losses: list[tuple[float, int]] = []  # since the last line, each with its steps
        self.logged = 0
        self.roles: dict[str, float] = {}
        history = folder.history()
        self.seconds: float = history[-1]["seconds"] if history else 0.0
        self.began = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A resumed run was logged up to its checkpoint, which may lie between two lines."""
        for entry in _since_evaluation(state.log_history, f"eval_{self.metrics[0]}"):
            if "loss" not in entry:
                self.logged = entry["step"]
                continue
            self.losses.append((entry["loss"], entry["step"] - self.logged))
            self.logged, self.seconds = entry["step"], entry.get("seconds", self.seconds)
        self.logged = state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start timing the step."""
        self.began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Add the seconds of the step; let the loss be known when an evaluation needs it."""
        self.seconds += time.perf_counter() - self.began
        control.should_log |= control.should_evaluate

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Keep the training loss; stop a run whose loss is no longer a number."""
        logs = logs or {}
        if logs.get("loss") is None:
            return
        loss = float(logs["loss"])
        self.losses.append((loss, state.global_step - self.logged))
        self.logged = state.global_step
        state.log_history[-1]["seconds"] = self.seconds  # for a run that is resumed from here
        self.roles = {name: v for name, v in logs.items() if name.startswith(("lr/", "moved/"))}
        if not math.isfinite(loss):
            raise DivergedError(
                f"training diverged: the loss is {loss} at step {state.global_step}; "
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
        entry |= {"seconds": round(self.seconds, 4), "loss": self._mean_loss()}
        entry |= {_recorded(name): metrics[f"eval_{name}"] for name in self.metrics}
        self.folder.log(entry | self.roles)
        self.losses.clear()

    def _mean_loss(self) -> float | None:
        """Over the steps since the last line; as Trainer has it where it logged once."""
        if len(self.losses) < 2:
            return self.losses[0][0] if self.losses else None
        return sum(loss * n for loss, n in self.losses) / sum(n for _, n in self.losses)


def _since_evaluation(logs: list[dict[str, Any]], score: str) -> list[dict[str, Any]]:
    """The last evaluation in Trainer's history, if there is one, and the losses after it."""
    last = max((n for n, entry in enumerate(logs) if score in entry), default=None)
    if last is None:
        return [entry for entry in logs if "loss" in entry]
    return [logs[last], *(entry for entry in logs[last:] if "loss" in entry)]


def _recorded(name: str) -> str:
    """Name of a score in a line, where ``loss`` is that of the training rows."""
    return "selection_loss" if name == "loss" else name


class CheckpointOnRequest(TrainerCallback):  # type: ignore[misc]
    """Ends training by `Terminated` once it is asked to, after a checkpoint of that very step.

    The loss so far is logged, so that the resumed run's next line counts all of its steps. An
    evaluation that is under way ends first: the checkpoint comes after it.
    """

    def __init__(self, request: Request) -> None:
        self.request = request

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for the checkpoint."""
        if anywhere(self.request.asked):
            control.should_log = control.should_save = True
            self.request.asked = True

    def on_save(self, *_: Any, **__: Any) -> None:
        """The checkpoint is whole."""
        if anywhere(self.request.asked):
            raise Terminated(self.request.number)


class OnDisk(TrainerCallback):  # type: ignore[misc]
    """Synchronises each checkpoint, since Trainer does not: a machine that dies keeps it."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The checkpoint of this step has been written."""
        if args.should_save:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            try:
                sync_tree(checkpoint)
            except OSError as error:
                raise unwritable(checkpoint, error) from error


class Progress(TrainerCallback):  # type: ignore[misc]
    """Tells the caller about every step of training and every batch of an evaluation."""

    def __init__(self, tell: OnProgress) -> None:
        self.tell = tell
        self.predicted = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Tell of an optimiser step."""
        self.tell(state.global_step, state.max_steps, "training")

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Tell of a batch of an evaluation."""
        self.predicted += 1
        self.tell(self.predicted, max(self.predicted, len(eval_dataloader)), "evaluating")

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Count the next evaluation from 0."""
        self.predicted = 0

    def on_predict(self, *_: Any, **__: Any) -> None:
        """Count the next evaluation from 0."""
        self.predicted = 0
