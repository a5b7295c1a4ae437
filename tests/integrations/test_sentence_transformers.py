"""An AILoRAConfig in ``add_adapter`` of sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf

import ailora
from ailora import AILoRAConfig
from tests.conftest import tokenizer

sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="runs in the environments of noxfile.py that have it"
)
TEXTS = ["the good film", "the bad film was very long"]


def test_it_starts_at_the_base_trains_and_comes_back(tiny_model: Path, tmp_path: Path) -> None:
    if not accepted():
        pytest.skip("this transformers refuses this PEFT in its own add_adapter")
    model = sentence_transformers.SentenceTransformer(str(tiny_model), device="cpu")
    base = torch.from_numpy(model.encode(TEXTS))
    model.add_adapter(AILoRAConfig(r=4, task_type="FEATURE_EXTRACTION"))
    assert torch.equal(torch.from_numpy(model.encode(TEXTS)), base)
    optimizer = ailora.create_optimizer(model, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(tokenizer()(TEXTS, return_tensors="pt", padding=True))[
            "sentence_embedding"
        ].square().sum().backward()
        optimizer.step()
    after = torch.from_numpy(model.encode(TEXTS))
    assert (after - base).abs().max() > 1e-3
    model.save(str(tmp_path / "adapter"))
    fresh = sentence_transformers.SentenceTransformer(str(tiny_model), device="cpu")
    fresh.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(torch.from_numpy(fresh.encode(TEXTS)), after)


def accepted() -> bool:
    """Whether transformers takes the installed PEFT (5.24 asks for one that is not released)."""
    try:
        hf.integrations.peft.check_peft_version(min_version=hf.integrations.peft.MIN_PEFT_VERSION)
    except (ValueError, ImportError):
        return False
    return True
