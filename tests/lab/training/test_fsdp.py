"""One run in two processes that share its parameters out, as ``accelerate launch`` starts it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ailora.errors import UserError
from ailora.lab import methods
from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train
from ailora.lab.training.kinds import kind_of
from tests.integrations.launching import free_port, fsdp
from tests.lab.training.launching import farthest, launched, result_of, trained, weights_of

SCRIPT = Path(__file__).with_name("fsdp_on_cpu.py")
METHODS = ("ailora", "full", "houlsby")  # saved by PEFT, by transformers, by ourselves
# Softmax does not see a shift of all scores, so Adam's steps of the key's bias follow roundings.
UNSEEN = "key.bias"


def sharded() -> tuple[str, ...]:
    """With accelerate's defaults for loading and saving, which a run has to settle."""
    launcher = fsdp(2, efficient=True, kind="SHARDED_STATE_DICT", layer="BertLayer")
    return (sys.executable, *launcher, free_port(), str(SCRIPT))


@pytest.fixture(scope="module")
def options(feelings: Path, plain_model: Path) -> str:
    return f"--model {plain_model} --task {feelings} --rank 2 --epochs 3 --batch-size 4 --lr 1e-2"


def accuracy_without_it(run: Path) -> float:
    """Of what the run saved, loaded in this one process, on the test rows."""
    made_of = result_of(run)["config"]
    config = RunConfig(model=made_of["model"], task=made_of["task"])
    kind = kind_of(load_task(made_of["task"]), config)
    base, tokenizer = kind.load()
    model = methods.load(base, run / "adapter")
    batch = kind.collator(tokenizer, base)(list(kind.encode(kind.task.test, tokenizer)))
    with torch.no_grad():
        return float((model(**batch).logits.argmax(-1) == batch["labels"]).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_fsdp2_ends_at_the_weights_and_scores_of_one_process(
    options: str, tmp_path: Path, method: str
) -> None:
    alone = trained(tmp_path / "alone", f"{options} --method {method}")
    shared = trained(tmp_path / "shared", f"{options} --method {method}", *sharded())
    one, two = result_of(alone), result_of(shared)
    assert (two["environment"]["processes"], two["environment"]["distributed"]) == (2, "FSDP")
    assert one["environment"]["distributed"] == "NO"
    first, second = weights_of(alone), weights_of(shared)
    assert first.keys() == second.keys()
    seen = [name for name in first if UNSEEN not in name]
    assert max(float((first[name] - second[name]).abs().max()) for name in seen) < 1e-5
    for name in ("metrics", "parameters", "step0_deviation"):
        assert two[name] == one[name]
    for mine, theirs in zip(one["updates"], two["updates"], strict=True):
        assert theirs["norm"] == pytest.approx(mine["norm"], rel=1e-5)
    assert accuracy_without_it(shared) == pytest.approx(two["metrics"]["test"]["accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut_at", "more"), [("13", ""), ("the end", "--early-stopping 1 --epochs 8")]
)
def test_a_killed_run_goes_on_under_fsdp2_to_the_same_bits(
    options: str, tmp_path: Path, cut_at: str, more: str
) -> None:
    whole = trained(tmp_path / "whole", f"{options} {more}", *sharded())
    killed = launched(tmp_path / "cut", f"{options} {more}", *sharded(), CUT_AT=cut_at)
    assert killed.returncode != 0
    (cut,) = (tmp_path / "cut").iterdir()
    assert not (cut / "result.json").exists()
    assert list((cut / "checkpoints").glob("checkpoint-*"))
    trained(tmp_path / "cut", f"{options} {more} --resume", *sharded())
    assert farthest(whole, cut) == 0
    assert result_of(cut)["metrics"] == result_of(whole)["metrics"]
    steps = [[line["step"] for line in result_of(run)["history"]] for run in (whole, cut)]
    assert steps[0] == steps[1]


def test_fsdp_version_1_is_refused_before_anything_is_written(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="version 1 is not supported; give accelerate launch"):
        train(config, load_task(config.task, **config.task_options()), tmp_path / "out")
    assert not (tmp_path / "out").exists()
