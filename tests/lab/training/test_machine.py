"""One run in two processes, as torchrun starts it, is the run of one process."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ailora.errors import UserError
from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, machine, train
from ailora.lab.training.trainer import LengthGroupedOrder, SharedBatches
from tests.conftest import one_thread, sentences
from tests.lab.training.launching import AILORA, farthest, result_of, trained
from tests.writers import save_llama

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("--no-python", AILORA),
)


@pytest.mark.slow
def test_two_processes_end_at_the_weights_of_one(
    feelings: Path, plain_model: Path, tmp_path: Path
) -> None:
    options = (
        f"--model {plain_model} --task {feelings} --rank 2 --epochs 3 --batch-size 4 --lr 1e-2"
    )
    alone = trained(tmp_path / "alone", options)
    shared = trained(tmp_path / "shared", options, *TORCHRUN)
    assert alone.name == shared.name
    assert farthest(alone, shared) < 1e-5
    one, two = result_of(alone), result_of(shared)
    assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
    assert two["metrics"]["test"] == pytest.approx(one["metrics"]["test"], abs=1e-6)
    assert [line["step"] for line in two["history"]] == [line["step"] for line in one["history"]]
    for line, other in zip(one["history"][1:], two["history"][1:], strict=True):
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-5)
    answers = [(run / "predictions-test.jsonl").read_text().splitlines() for run in (alone, shared)]
    assert len(answers[0]) == len(answers[1]) == 13
    unlike = trained(tmp_path / "unlike", options + " --seed 1")
    assert farthest(alone, unlike) > 1e-3  # so the comparison can fail


@pytest.mark.slow
def test_two_processes_learn_to_write_as_one_does(tmp_path: Path) -> None:
    rows = [{"instruction": f"say {text}", "output": text} for text, _ in sentences(26, seed=3)]
    task = tmp_path / "say.jsonl"
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = save_llama(tmp_path / "llama", positions=256)
    options = f"--model {model} --task {task} --metrics exact --rank 2 --epochs 2 --batch-size 4"
    options += " --max-new-tokens 3 --max-length 120"
    alone = trained(tmp_path / "alone", options)
    shared = trained(tmp_path / "shared", options, *TORCHRUN)
    assert farthest(alone, shared) < 1e-5
    assert result_of(shared)["metrics"] == result_of(alone)["metrics"]


def test_every_row_of_a_batch_is_in_one_process() -> None:
    lengths = torch.arange(1, 31).tolist()
    order = LengthGroupedOrder(lengths, 8, seed=3)
    whole = [list(order)[first : first + 8] for first in range(0, 30, 8)]
    shares = [list(SharedBatches(order, process, 2)) for process in (0, 1)]
    assert len(SharedBatches(order, 0, 2)) == len(shares[0]) == len(shares[1]) == 4
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted([*parts[0], *parts[1]]) == sorted(batch)


def test_rows_fewer_than_processes_are_taken_by_all() -> None:
    order = LengthGroupedOrder([5] * 9, 4, seed=0)
    last = [list(SharedBatches(order, process, 3))[-1] for process in range(3)]
    assert last[0] == last[1] == last[2] == list(order)[-1:]


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Three:
        num_processes = 3

    monkeypatch.setattr(machine, "state", Three)
    assert machine.share_of(12) == 4
    with pytest.raises(UserError, match="8 rows at once cannot be shared out to 3 processes"):
        machine.share_of(8)


def test_micro_batches_learn_what_the_whole_batch_does(
    feelings: Path, plain_model: Path, tmp_path: Path
) -> None:
    """Trainer would add their gradients up, which clipping and the loss on record then show."""
    task = load_task(feelings, limit=24)
    common = RunConfig(
        model=str(plain_model), task=str(feelings), limit=24, rank=2, epochs=2, batch_size=8,
        lr=1e-2, precision="fp32",
    )  # fmt: skip
    with one_thread():
        whole, parts = (
            train(replace(common, micro_batch_size=size), task, tmp_path) for size in (None, 4)
        )
    for line, other in zip(whole["history"][1:], parts["history"][1:], strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=0.02)
