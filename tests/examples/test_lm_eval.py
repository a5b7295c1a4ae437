"""The lm-evaluation-harness example: an adapter as ``peft=`` is the merged model, to rounding."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import peft
import pytest
import torch
import transformers as hf

from tests.examples.conftest import EXAMPLES, Script

pytest.importorskip("lm_eval", reason="pip install lm-eval")


def numbers(printed: str, words: str) -> list[float]:
    return [float(found) for found in re.findall(rf"{words} ([\d.]+(?:e[+-]\d+)?)", printed)]


@torch.no_grad()
def likelihoods(model: torch.nn.Module, words: hf.PreTrainedTokenizerBase, rows: tuple) -> list:  # type: ignore[type-arg]
    """Summed log-probability of the tokens of each choice, of each question."""
    found = []
    for question, choices, _ in rows:
        for choice in choices:
            start = len(words(question)["input_ids"])
            ids = torch.tensor([words(f"{question} {choice}")["input_ids"]])
            logs = model.eval()(input_ids=ids).logits.log_softmax(-1)[0, :-1]
            each = logs.gather(-1, ids[0, 1:, None])[:, 0]
            found.append(float(each[start - 1 :].sum()))
    return found


def test_the_adapter_and_the_merged_model_have_the_same_likelihoods(
    script: Script, tiny_decoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    printed = script("lm_eval_harness", tiny_decoder, out=out)
    (moved,), (differ,) = (
        numbers(printed, "log-likelihood by up to"),
        numbers(printed, "by up to")[1:],
    )
    assert moved > 0.1 and differ < 1e-4
    assert len(numbers(printed, "accuracy")) == 3

    example = runpy.run_path(str(EXAMPLES / "lm_eval_harness.py"))
    words = hf.AutoTokenizer.from_pretrained(tiny_decoder)
    model = hf.AutoModelForCausalLM.from_pretrained(tiny_decoder, dtype=torch.float32)
    tuned = peft.PeftModel.from_pretrained(model, str(out / "adapter"))
    given = {"pretrained": str(tiny_decoder), "peft": str(out / "adapter")}
    _, found = example["evaluated"](out, **given)
    assert found == pytest.approx(likelihoods(tuned, words, example["QUESTIONS"]), abs=1e-4)
