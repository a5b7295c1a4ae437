"""SQuAD v1.1 and v2.0 on RoBERTa-large: the paper's epochs, rates and rank, the rest as usual."""

from __future__ import annotations

from collections.abc import Mapping

from ailora.lab.training.published.base import Cited, Published, publish, scale_one
from ailora.lab.training.settings import QA

EPOCHS: Mapping[str, int] = {"squad_v1": 3, "squad_v2": 2}


def squad_roberta_large(task: str) -> Published:
    """Settings for ``squad_v1`` or ``squad_v2`` on RoBERTa-large."""
    return publish(
        rank=Cited(8, "AILoRA section 4.1"),
        alpha=scale_one(8, "AdaLoRA's SQuAD script has 16"),
        dropout=Cited(0.0, "chosen here, as on GLUE: AILoRA states none"),
        lr=Cited(
            2e-4, "chosen here from AILoRA's grid, of which the paper does not say which rate won"
        ),
        epochs=Cited(EPOCHS[task], "AILoRA section 4.1"),
        batch_size=Cited(16, "AILoRA states none; AdaLoRA table 10, DeBERTa-v3-base"),
        warmup_ratio=Cited(0.0, "AILoRA states none; default of transformers' run_qa.py"),
        weight_decay=Cited(0.0, "AILoRA states none; default of transformers' run_qa.py"),
        max_length=Cited(384, "AILoRA states none; run_qa.py's default and AdaLoRA's script"),
        qa=Cited(
            QA(doc_stride=128, n_best=20, max_answer_length=30, null_threshold=0.0),
            "AILoRA states none; run_qa.py's defaults, which AdaLoRA's script keeps",
        ),
        rates=Cited((1e-4, 2e-4, 3e-4, 4e-4), "AILoRA section 4.1"),
        seeds=Cited(5, "AILoRA section 4.1"),
        notes=(
            "AdaLoRA warms up for 1,000 steps on v2.0 (its script); the AILoRA paper says that it "
            "uses transformers, whose script warms up for none",
        ),
    )
