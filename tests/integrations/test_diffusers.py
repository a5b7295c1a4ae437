"""An AILoRAConfig in ``add_adapter`` of diffusers, and its files in diffusers without ailora."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

import ailora
from ailora import AILoRAConfig, Role
from ailora.errors import UserError
from tests.diffusion import MODELS, Inputs, build, output

pytest.importorskip("diffusers", reason="an optional dependency of the tests")

PIPELINES = {
    "unet": "StableDiffusionPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}
CONFIGS = {
    "default": AILoRAConfig(r=4),
    "all-linear": AILoRAConfig(r=4, target_modules="all-linear"),  # of two ranks in the file
    "ranks": AILoRAConfig(r=4, roles={"q": Role(init="principal", r=2), "v": Role(init="minor")}),
    "published": ailora.presets.pissa(4, published=True),
    "dora": AILoRAConfig(r=4, use_dora=True),
}


def train(model: Any, inputs: Inputs, steps: int = 3, lr: float = 1e-2) -> None:
    """Some steps of Adam, in train mode."""
    optimizer = ailora.create_optimizer(model, lr=lr)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs).sample.float().square().mean().backward()
        optimizer.step()


def started(kind: str, config: AILoRAConfig | None = None) -> tuple[Any, Inputs, Tensor]:
    """A model with a new adapter, its inputs, and what it predicted without."""
    model, inputs = build(kind)
    base = output(model, inputs)
    model.add_adapter(config or AILoRAConfig(r=4))
    return model, inputs, base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", MODELS)
def test_it_starts_at_the_base_trains_and_can_be_disabled(kind: str, dtype: torch.dtype) -> None:
    model, inputs = build(kind)
    model.to(dtype)
    inputs = {n: x.to(dtype) if x.ndim > 1 and "ids" not in n else x for n, x in inputs.items()}
    base = output(model, inputs)
    model.add_adapter(AILoRAConfig(r=4))
    assert torch.equal(output(model, inputs), base)
    train(model, inputs)
    after = output(model, inputs)
    assert (after - base).abs().max() > 1e-2
    model.disable_adapters()
    assert torch.equal(output(model, inputs), base)
    model.enable_adapters()
    assert torch.equal(output(model, inputs), after)
    model.unload_lora()
    assert torch.equal(output(model, inputs), base)


_LOAD = """
import copy
import sys
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file

kind, pipeline_class, folder = sys.argv[1], getattr(diffusers, sys.argv[2]), Path(sys.argv[3])
part = "unet" if kind == "unet" else "transformer"
model_class = {"unet": diffusers.UNet2DConditionModel, "sd3": diffusers.SD3Transformer2DModel,
               "flux": diffusers.FluxTransformer2DModel}[kind]
inputs = load_file(folder / "inputs.safetensors")
base = model_class.from_pretrained(folder / "base")


def check(files, model):
    with torch.no_grad():
        found = model.eval()(**inputs).sample
    off = (found - load_file(files.parent / "output.safetensors")["output"]).abs().max().item()
    print(files.parent.name, files.name, off)
    assert off < 1e-5, (files, off)


for files in sorted(folder.glob("*/*/")):
    model = copy.deepcopy(base)
    if files.name == "adapter":
        model.load_lora_adapter(files, prefix=None, use_safetensors=True)
    else:
        nothing = dict(scheduler=None, vae=None, text_encoder=None, tokenizer=None)
        if kind == "unet":
            nothing.update(safety_checker=None, feature_extractor=None)
            nothing["vae"] = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
        else:
            nothing.update(text_encoder_2=None, tokenizer_2=None)
        if kind == "sd3":
            nothing.update(text_encoder_3=None, tokenizer_3=None)
        pipeline = pipeline_class(**{part: model}, **nothing)
        pipeline.load_lora_weights(files, weight_name="pytorch_lora_weights.safetensors")
        model = getattr(pipeline, part)
    check(files, model)
assert "ailora" not in sys.modules
"""


@pytest.mark.parametrize("kind", MODELS)
def test_its_files_give_the_same_function_without_ailora(kind: str, tmp_path: Path) -> None:
    import diffusers
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_diffusers

    base, inputs = build(kind)
    base.save_pretrained(tmp_path / "base")
    save_file(inputs, tmp_path / "inputs.safetensors")
    part = "unet" if kind == "unet" else "transformer"
    pipeline = getattr(diffusers, PIPELINES[kind])
    for name, config in CONFIGS.items():
        model, inputs, before = started(kind, config)
        train(model, inputs)
        after = output(model, inputs)
        assert (after - before).abs().max() > 1e-2
        folder = tmp_path / name
        model.save_lora_adapter(folder / "adapter")
        layers = {f"{part}_lora_layers": get_peft_model_state_dict(model)}
        pipeline.save_lora_weights(folder / "tensors alone", **layers)
        pipeline.save_lora_weights(
            folder / "with metadata", **layers, **_collate_lora_metadata({part: model})
        )
        if kind == "unet" and name in ("default", "ranks"):
            # Of layers outside attention diffusers loses those names, of any LoRA; DoRA has none.
            old = {f"{part}_lora_layers": convert_state_dict_to_diffusers(*layers.values())}
            pipeline.save_lora_weights(folder / "older names", **old)
        save_file({"output": after}, folder / "output.safetensors")
    arguments = [sys.executable, "-c", _LOAD, kind, PIPELINES[kind], str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 3 * len(CONFIGS) + 2 * (kind == "unet"), done.stdout


def test_the_file_has_twice_the_rank_and_stock_fields(tmp_path: Path) -> None:
    import json

    from safetensors import safe_open

    model, _, _ = started("unet")
    model.save_lora_adapter(tmp_path)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    ranks = {B.shape[1] for name, B in load_file(path).items() if "lora_B" in name}
    assert ranks == {8}
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 8, True)
    assert set(config) <= set(LoraConfig(r=1).to_dict())


REFUSED: dict[str, tuple[AILoRAConfig, str]] = {
    "alpha": (AILoRAConfig(r=4, lora_alpha=8), "would have the scale 2,"),
    "alpha of a role": (
        AILoRAConfig(r=4, roles={"v": Role(init="minor", lora_alpha=2)}), "the scale 0.5,",
    ),
    "pattern": (AILoRAConfig(r=4, alpha_pattern={"attn1.to_q": 16}), "the scale 4,"),
    "baked rates": (AILoRAConfig(r=4, bake_rates=True), "to_v would have the scale 4,"),
    "rsLoRA": (AILoRAConfig(r=4, lora_alpha=4, use_rslora=True), "the scale 2,"),
    "plain LoRA": (AILoRAConfig(r=4, lora_alpha=2, roles={"q": Role(init="gaussian")}), "0.5,"),
    "convolution": (
        AILoRAConfig(r=4, lora_alpha=8, target_modules=["conv1"]), "conv1 would have the scale 2,",
    ),
    "folded": (AILoRAConfig(r=4, anchored=False), "anchored=False: diffusers would load"),
    "biases": (AILoRAConfig(r=4, bias="all"), "bias='all': diffusers leaves that out"),
    "modules": (AILoRAConfig(r=4, modules_to_save=["conv_out"]), "modules_to_save="),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_diffusers_would_load_as_another_function_is_refused(name: str) -> None:
    config, message = REFUSED[name]
    model, inputs = build("unet")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        model.add_adapter(config)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    model.add_adapter(AILoRAConfig(r=4))  # the name is still free
    train(model, inputs, steps=1)


def test_diffusers_takes_scale_one_for_tensors_alone() -> None:
    """What the refusals above are for; should this fail, diffusers has learned to keep alphas."""
    model, inputs = build("unet")
    twin = copy.deepcopy(model)
    model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    twin.load_lora_adapter(get_peft_model_state_dict(model), prefix=None)
    assert not torch.allclose(output(twin, inputs), output(model, inputs), atol=1e-3)
    model.set_adapters("default", 0.5)
    assert torch.allclose(output(twin, inputs), output(model, inputs), atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_fused_and_unfused(kind: str) -> None:
    model, inputs, base = started(kind)
    train(model, inputs)
    after = output(model, inputs)
    model.fuse_lora()
    assert torch.allclose(output(model, inputs), after, atol=1e-4)
    model.disable_adapters()  # what is fused is in the weights
    model.enable_adapters()
    model.unfuse_lora()
    assert torch.allclose(output(model, inputs), after, atol=1e-4)
    model.disable_adapters()
    assert torch.allclose(output(model, inputs), base, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_two_adapters_with_weights(kind: str, tmp_path: Path) -> None:
    model, inputs, base = started(kind)
    stock = build(kind)[0]
    train(model, inputs)
    alone = output(model, inputs)
    model.add_adapter(AILoRAConfig(r=2, roles={"o": Role(init="minor")}), "second")
    assert torch.equal(output(model, inputs), base)
    train(model, inputs)
    for name in ("default", "second"):
        model.save_lora_adapter(tmp_path / name, adapter_name=name)
        stock.load_lora_adapter(
            tmp_path / name, prefix=None, adapter_name=name, use_safetensors=True
        )
    for weights in ([1.0, 1.0], [0.5, 2.0], [0.0, 1.0]):
        for one in (model, stock):
            one.set_adapters(["default", "second"], weights)
        assert torch.allclose(output(model, inputs), output(stock, inputs), atol=1e-6)
    model.set_adapters("default", 1.0)
    assert torch.equal(output(model, inputs), alone)
    model.delete_adapters("second")
    assert torch.equal(output(model, inputs), alone)


def test_a_checkpoint_read_into_a_new_start_goes_on_as_before() -> None:
    """The scripts of diffusers resume so: the adapter added again, its tensors put in by name."""
    model, inputs, _ = started("flux")
    train(model, inputs)
    saved = {name: value.clone() for name, value in get_peft_model_state_dict(model).items()}
    again, _, _ = started("flux")
    set_peft_model_state_dict(again, saved)
    assert torch.equal(output(again, inputs), output(model, inputs))
    for one in (model, again):
        train(one, inputs)
    assert torch.equal(output(again, inputs), output(model, inputs))
    again.disable_adapters()
    assert torch.equal(output(again, inputs), output(build("flux")[0], inputs))


def test_convolutions_start_as_plain_lora_or_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    names = ["to_q", "to_v", "conv1"]
    with caplog.at_level("INFO", logger="ailora"):
        model, inputs, base = started("unet", AILoRAConfig(r=4, target_modules=names))
    assert torch.equal(output(model, inputs), base)
    assert "no linear layers and start as plain LoRA" in caplog.text
    train(model, inputs)
    config = AILoRAConfig(r=4, target_modules=names, roles={"*": Role(init="principal")})
    with pytest.raises(UserError, match="conv1 is no linear layer"):
        build("unet")[0].add_adapter(config)
