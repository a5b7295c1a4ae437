"""What is left out of "all-linear" with a line that says why, and refused when asked for."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel
from torch import Tensor, nn

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters.selection import select
from ailora.errors import UserError
from tests.architectures import small_settings
from tests.more_towers import CONVOLUTIONS
from tests.towers import HALVES, build_tower, is_there, tower_inputs

_SPEECH = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    **CONVOLUTIONS,
    "vocab_size": 20,
    "tdnn_dim": [16, 16],
    "tdnn_kernel": [3, 1],
    "tdnn_dilation": [1, 1],
    "xvector_output_dim": 12,
}


def _build(model_class: Any, **settings: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(model_class.config_class(**settings)).eval()
    return model.requires_grad_(False)  # torch rounds otherwise where a weight is to be trained


def _names(model: nn.Module, config: AILoRAConfig) -> set[str]:
    return {one.projection.name for one in select(model, config).chosen}


@torch.no_grad()
def _shift(model: nn.Module) -> None:
    """Factors as after some training."""
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn_like(parameter))


@torch.no_grad()
def _see(model: Any) -> Tensor:
    found: Tensor = model.eval()(**tower_inputs("siglip")(2)).pooler_output
    return found


def test_a_layer_that_torch_never_calls_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    base = build_tower("siglip").requires_grad_(False)
    before = _see(base)
    everything = {"target_modules": "all-linear"}
    folded = ailora.get_peft_model(
        copy.deepcopy(base), presets.pissa(4, anchored=False, **everything)
    )
    assert "head.attention.out_proj: the module around it reads" in caplog.text
    assert torch.allclose(_see(folded), before, atol=1e-5)
    model = ailora.get_peft_model(base, presets.pissa(4, **everything))
    _shift(model)
    after = _see(model)
    assert (after - before).abs().max() > 1e-3
    assert torch.allclose(_see(model.merge_and_unload()), after, atol=1e-5)


@pytest.mark.parametrize(
    "asked",
    [
        AILoRAConfig(r=2, target_modules=["out_proj"]),
        AILoRAConfig(r=2, target_modules=r".*head\.attention\.out_proj"),
        AILoRAConfig(r=2, roles={"o": Role(init="minor", modules=["attention.out_proj"])}),
    ],
)
def test_a_layer_that_is_never_called_is_refused_when_asked_for(asked: AILoRAConfig) -> None:
    model = build_tower("siglip")
    with pytest.raises(UserError, match=r"head\.attention\.out_proj .* never calls the layer"):
        ailora.get_peft_model(model, asked)
    assert not any("lora" in name for name, _ in model.named_modules())


def test_wavlm_is_refused_and_all_linear_takes_its_feed_forward_blocks() -> None:
    model = _build(hf.WavLMModel, **_SPEECH)
    with pytest.raises(UserError, match="'q_proj' itself and never calls"):
        ailora.get_peft_model(model, AILoRAConfig(r=2))
    names = _names(model, presets.milora(2, target_modules="all-linear"))
    assert {name.rpartition(".")[2] for name in names} >= {"intermediate_dense", "output_dense"}
    assert not any(name.endswith(("q_proj", "k_proj", "v_proj", "out_proj")) for name in names)


def test_a_name_at_the_top_that_ends_others_selects_itself_alone(tmp_path: Path) -> None:
    model = _build(hf.Wav2Vec2ForXVector, **_SPEECH)
    plain = copy.deepcopy(model)
    model = ailora.get_peft_model(model, AILoRAConfig(r=2, target_modules="all-linear"))
    adapted = {n for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert "feature_extractor" in adapted and "wav2vec2.feature_extractor" not in adapted
    model.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(plain, tmp_path)
    assert adapted == {n for n, m in stock.get_base_model().named_modules() if hasattr(m, "lora_A")}


SEVERAL = {
    "Qwen2VLForConditionalGeneration": "vision",
    "Qwen2AudioForConditionalGeneration": "audio",
}


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_parts_it_is_said_which_are_adapted(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model_class, part = getattr(hf, name), SEVERAL[name]
    with torch.device("meta"):
        model = model_class(model_class.config_class())
    select(model, AILoRAConfig(r=2))
    assert f"has several parts (language, {part}, projector): the language part" in caplog.text
    select(model, AILoRAConfig(r=2, target_modules=["q_proj", "fc1", "fc2"]))
    assert re.search(rf"selects in several parts .*\(language \d+, {part} \d+\)", caplog.text)


def test_a_head_that_peft_could_not_save_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = _build(hf.Wav2Vec2ForCTC, **_SPEECH)
    model = ailora.get_peft_model(
        copy.deepcopy(base), presets.milora(2, target_modules="all-linear")
    )
    assert "such as lm_head: PEFT saves a layer of this name with the embeddings" in caplog.text
    _shift(model)
    model.save_pretrained(tmp_path)
    waves = tower_inputs("wav2vec2")(2)
    stock = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(stock(**waves).logits, model.eval()(**waves).logits, atol=1e-5)


def test_a_head_tied_to_the_embeddings_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    text = {**HALVES["text_config"], "projection_dim": 16, "encoder_hidden_size": 32}
    config = hf.BlipConfig(text_config=text, vision_config=HALVES["vision_config"])
    model = hf.BlipForConditionalGeneration(config)
    names = _names(model, presets.milora(2, target_modules="all-linear"))
    assert not any(name.endswith("predictions.decoder") for name in names)
    assert "word_embeddings too, which a merge would change" in caplog.text


def test_a_head_too_small_for_the_rank_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    vision = {**HALVES["vision_config"], "num_labels": 3}
    model = _build(hf.ViTForImageClassification, **vision)
    everything = presets.pissa(4, target_modules="all-linear")
    assert "classifier" not in _names(model, everything)
    assert "such as classifier: its weight is 3 x 32, too small for a start" in caplog.text
    assert "classifier" in _names(model, AILoRAConfig(r=4, target_modules="all-linear"))
    with pytest.raises(UserError, match="its weight is 3 x 32, so r can be at most 3"):
        ailora.get_peft_model(model, presets.pissa(4, target_modules=["classifier"]))


@pytest.mark.skipif(not is_there("mistral_large4"), reason="of a later transformers")
def test_what_peft_would_not_load_again_is_left_out_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = _build(hf.MistralLarge4TextModel, **small_settings(hf.MistralLarge4TextConfig))
    with pytest.raises(UserError, match=r"shared_experts.*would not load them again"):
        ailora.get_peft_model(base, AILoRAConfig(r=2, roles={"down": Role(init="minor")}))
    model = ailora.get_peft_model(
        copy.deepcopy(base), presets.milora(2, target_modules="all-linear")
    )
    assert "such as layers.1.mlp.shared_experts" in caplog.text
    _shift(model)
    model.save_pretrained(tmp_path)
    ids = torch.arange(5, 15)[None]
    stock = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        wanted = model.eval()(ids).last_hidden_state
        assert torch.allclose(stock(ids).last_hidden_state, wanted, atol=1e-5)
