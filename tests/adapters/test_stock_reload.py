"""Every checkpoint is a plain LoRA: stock PEFT, in a process that never imports ``ailora``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.lab.demo import encoder_dir
from tests.adapters.models import encoder, logits, sentences, train
from tests.other_process import run_elsewhere

STOCK_PROCESS = """
import sys
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

base, adapter, inputs, out = sys.argv[1:]
torch.set_num_threads(1)
model = PeftModel.from_pretrained(
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=2), adapter
).eval()
alone = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=2).eval()
batch = load_file(inputs)
with torch.no_grad():
    result = {
        "logits": model(**batch).logits,
        "alone": alone(**batch).logits,
        "merged": model.merge_and_unload()(**batch).logits,
    }
assert "ailora" not in sys.modules
save_file(result, out)
"""

MIXED = AILoRAConfig(
    r=4,
    lora_alpha=6,
    bake_rates=True,
    task_type="SEQ_CLS",
    roles={
        "q": Role(init="principal", r=3),
        "k": Role(init="gaussian", lr_ratio=0.5),
        "v": Role(init="minor", lr_ratio=2.0, lora_alpha=9),
    },
)


@pytest.mark.parametrize(
    ("config", "rounded"),
    [
        (presets.ailora(8, task_type="SEQ_CLS"), 0.0),
        (presets.ailora(8, task_type="SEQ_CLS", bake_rates=True), 0.0),
        (MIXED, 3e-6),  # one scale in the files, where these differ by no power of two
    ],
)
def test_stock_peft_in_another_process_reproduces_the_logits(
    config: AILoRAConfig, rounded: float, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    model, inputs = ailora.get_peft_model(encoder(), config), sentences()
    start = logits(model, inputs)
    train(model, sentences(labels=True), 3)
    wanted = logits(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    save_file(inputs, tmp_path / "inputs")
    paths = (encoder_dir(), tmp_path / "adapter", tmp_path / "inputs", tmp_path / "out")
    run_elsewhere(STOCK_PROCESS, *paths)
    result = load_file(tmp_path / "out")
    assert float((wanted - start).abs().max()) > 0.01
    torch.testing.assert_close(result["logits"], wanted, rtol=0, atol=rounded)
    torch.testing.assert_close(result["alone"], wanted, rtol=0, atol=rounded)
    torch.testing.assert_close(result["merged"], wanted, rtol=0, atol=1e-5)


def test_the_saved_config_is_a_stock_one_and_its_start_is_never_run_again(tmp_path: Path) -> None:
    model = ailora.get_peft_model(encoder(), MIXED)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved.keys() == LoraConfig().to_dict().keys()
    assert saved["init_lora_weights"] is True
    assert saved["peft_type"] == "LORA"
    assert not any("ailora" in json.dumps(value) for key, value in saved.items()
                   if key != "base_model_name_or_path")  # fmt: skip
    assert set(saved["target_modules"]) == {"query", "key", "value"}
    assert (saved["r"], saved["rank_pattern"]) == (6, {"key": 4, "value": 8})


def test_the_folder_says_how_to_go_on_training_it(tmp_path: Path) -> None:
    for anchored in (True, False):
        ailora.get_peft_model(encoder(), AILoRAConfig(r=2, anchored=anchored)).save_pretrained(
            tmp_path / str(anchored)
        )
        readme = (tmp_path / str(anchored) / "README.md").read_text()
        assert "ailora.load_adapter(model, dir" in readme
    assert "wrong on the original base model" in readme


def test_weights_alone_in_the_adapters_file(tmp_path: Path) -> None:
    ailora.get_peft_model(encoder(), AILoRAConfig(r=2)).save_pretrained(tmp_path)
    names = {
        name.rpartition(".lora_")[2] for name in load_file(tmp_path / "adapter_model.safetensors")
    }
    assert names == {"A.weight", "B.weight"}
