"""Every block of Python in the README and the documentation runs, page by page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers as hf

from tests.conftest import one_thread, tokenizer
from tests.documents.conftest import save_pair
from tests.documents.pages import PAGES, ROOT
from tests.image_and_text import build
from tests.writers import save_llama

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
# Blocks that are a file of their own, or only the shape of one: tested where they are used.
APART = ("docs/tasks.md",)
TEXT_ENCODER = {
    "vocab_size": 64,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
LLAVA = "llava-hf/llava-1.5-7b-hf"
STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
WITH_PYTHON = [page for page in PAGES if BLOCK.search((ROOT / page).read_text(encoding="utf-8"))]


@pytest.fixture
def roberta(tmp_path: Path) -> Path:
    """A tiny model of the kind that the pages name."""
    config = hf.RobertaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
    )
    hf.RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    return tmp_path / "roberta"


@pytest.fixture
def stable_diffusion(tmp_path: Path) -> Path:
    """A tiny pipeline with random weights."""
    import diffusers

    from tests import diffusion

    pipeline = diffusers.StableDiffusionPipeline(
        unet=diffusion.build("unet")[0],
        vae=diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1),
        scheduler=diffusers.DDIMScheduler(),
        text_encoder=hf.CLIPTextModel(hf.CLIPTextConfig(**TEXT_ENCODER)),
        tokenizer=tokenizer(),
        safety_checker=None,
        feature_extractor=None,
    )
    pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def rows() -> list[dict[str, torch.Tensor | int]]:
    return [{"input_ids": torch.arange(4, 12), "labels": row % 2} for row in range(16)]


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page not in APART])
def test_the_blocks_of_a_page_run_in_order(
    page: str,
    roberta: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    models = {"FacebookAI/roberta-base": roberta}
    if page == "docs/how-to/diffusers.md":
        pytest.importorskip("diffusers")
        models[STABLE_DIFFUSION] = request.getfixturevalue("stable_diffusion")
    if LLAVA in (ROOT / page).read_text(encoding="utf-8"):
        build("llava").save_pretrained(tmp_path / "llava")
        models[LLAVA] = tmp_path / "llava"
    names = {"rows": rows(), "weight": torch.randn(40, 32)}
    if "my-adapter" in (ROOT / page).read_text() or "checkpoint-500" in (ROOT / page).read_text():
        trained(roberta, tmp_path, names)
    if '"TUNED"' in (ROOT / page).read_text():
        save_pair(save_llama(tmp_path / "llama"), tmp_path)
    with one_thread():
        for block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
            if block.startswith("trl."):
                continue  # one call of a class that tests/integrations/test_trl.py trains
            code = block
            for name, folder in models.items():
                code = code.replace(f'"{name}"', repr(str(folder)))
            exec(compile(code, page, "exec"), names)  # noqa: S102


def trained(roberta: Path, folder: Path, names: dict[str, object]) -> None:
    """What the pages that go on with an adapter take for granted."""
    import ailora

    def base() -> hf.PreTrainedModel:
        model: hf.PreTrainedModel = hf.AutoModelForSequenceClassification.from_pretrained(roberta)
        return model

    config = ailora.AILoRAConfig(r=8, task_type="SEQ_CLS")
    for name in ("my-adapter", "checkpoint-500"):
        ailora.get_peft_model(base(), config).save_pretrained(folder / name)
    names["base"] = base()


def test_pages_with_python_are_found() -> None:
    assert {"README.md", "docs/start/peft.md", "docs/how-to/embed.md"} <= set(WITH_PYTHON)
