"""The kind of task that a model of transformers is for."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers as hf

from ailora.checkpoints.structure import task_type_of

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}


@pytest.mark.parametrize(
    ("made", "task"),
    [
        (hf.AutoModelForSequenceClassification, "SEQ_CLS"),
        (hf.AutoModelForCausalLM, "CAUSAL_LM"),
        (hf.AutoModel, None),
    ],
)
def test_the_task_is_what_the_class_is_for(made: type, task: str | None) -> None:
    with torch.device("meta"):
        model = made.from_config(hf.RobertaConfig(**SMALL, is_decoder=True))
    assert task_type_of(model) == task


@pytest.mark.parametrize(("segments", "task"), [(1, "QUESTION_ANS"), (2, "FEATURE_EXTRACTION")])
def test_only_a_model_without_segments_takes_pefts_own_class_for_questions(
    segments: int, task: str
) -> None:
    config = hf.RobertaConfig(**SMALL, type_vocab_size=segments)
    with torch.device("meta"):
        model = hf.AutoModelForQuestionAnswering.from_config(config)
    assert task_type_of(model) == task


def test_the_task_is_found_without_importing_other_models() -> None:
    code = (
        "import sys, transformers as hf\n"
        "from ailora.checkpoints.structure import task_type_of\n"
        f"config = hf.RobertaConfig(**{SMALL})\n"
        "model = hf.RobertaForSequenceClassification(config)\n"
        "before = set(sys.modules)\n"
        "assert task_type_of(model) == 'SEQ_CLS'\n"
        "print([name for name in set(sys.modules) - before if '.modeling_' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]")
