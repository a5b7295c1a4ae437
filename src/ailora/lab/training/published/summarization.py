"""Summarisation with BART-large: the paper's epochs, beams and batches, the rest AdaLoRA's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ailora.lab.training.published.base import Cited, Published, publish, scale_one
from ailora.lab.training.settings import Generation

_SCRIPT = "AdaLoRA's run_bart script"
_WARM_UP_STEPS = 3000
_EPOCHS = 15


class _Set(NamedTuple):
    rows: int  # of the official train split
    batch_size: int
    num_beams: int
    source_tokens: int
    target_tokens: int


SETS: Mapping[str, _Set] = {
    "xsum": _Set(204_045, 64, 8, 768, 64),
    "cnn_dailymail": _Set(287_113, 32, 4, 1024, 160),
}


def summarization_bart_large(task: str) -> Published:
    """Settings for ``xsum`` or ``cnn_dailymail`` on BART-large."""
    one = SETS[task]
    steps = _EPOCHS * -(-one.rows // one.batch_size)
    return publish(
        rank=Cited(8, "AILoRA appendix A.3"),
        alpha=scale_one(8, f"{_SCRIPT} has 32"),
        dropout=Cited(0.0, "chosen here, as on GLUE: AILoRA states none"),
        lr=Cited(
            5e-4, f"AILoRA searches a grid and does not say which rate won; of it, {_SCRIPT}'s"
        ),
        epochs=Cited(_EPOCHS, "AILoRA appendix A.3"),
        batch_size=Cited(one.batch_size, "AILoRA appendix A.3"),
        warmup_ratio=Cited(
            round(_WARM_UP_STEPS / steps, 4),
            f"AILoRA states none; {_SCRIPT}: {_WARM_UP_STEPS:,} steps, here of the {steps:,} that "
            f"the official {one.rows:,} training rows take",
        ),
        weight_decay=Cited(0.0, f"AILoRA states none; {_SCRIPT}: its default"),
        max_length=Cited(one.source_tokens, f"AILoRA states none; {_SCRIPT}: source tokens"),
        generation=Cited(
            Generation(max_new_tokens=one.target_tokens, num_beams=one.num_beams),
            f"AILoRA appendix A.3 for the beams; {_SCRIPT} for the target tokens, which bound the "
            "search; length penalty and repeated n-grams as in the model's own configuration",
        ),
        rates=Cited((5e-5, 1e-4, 5e-4), "AILoRA appendix A.3"),
        seeds=Cited(5, "chosen here: appendix A.3 states none; as in AILoRA section 4"),
        notes=(
            "epochs: AILoRA has 15 for both sets; AdaLoRA's table 13 has 25 for XSum, its text 15",
            "batch: AILoRA and AdaLoRA's table 13 agree; AdaLoRA's appendix E.2 says 16",
            "AdaLoRA adapts six matrices a layer, AILoRA query and value",
            "AdaLoRA's script scores the validation split; nothing says which one AILoRA scored",
        ),
    )
