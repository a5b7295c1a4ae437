"""What travels beside a saved adapter, so that training can go on from it exactly.

PEFT writes ``adapter_model.safetensors`` and ``adapter_config.json``: a plain LoRA for anyone.
Beside them go ``ailora.json`` (the config that made the adapter) and
``ailora_anchor.safetensors`` (A0 and, for folded adapters, B0), because A0 = (A0 + D_A) - D_A
costs a rounding and a folded adapter's residual base must be made again exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from safetensors.torch import save
from torch import Tensor

from ailora.adapters.config import AILoRAConfig
from ailora.files import write_atomic, write_json

MARKER = "ailora.json"
ANCHORS = "ailora_anchor.safetensors"
FORMAT = 1

README_LINE = {
    "anchored": (
        "This adapter was started by ailora and is a plain LoRA of the untouched base model: load "
        "it with PEFT as it is. To *continue training*, load it with "
        "`ailora.load_adapter(model, dir, is_trainable=True)`; stock `is_trainable=True` would "
        "train its frozen half as well. The base is the very model it was started from: if that "
        "was a merged or otherwise changed model, keep it and load it first."
    ),
    "folded": (
        "This adapter was trained on a *residual* base (W - s B0 A0) by ailora and is wrong on "
        "the original base model. Load it with `ailora.load_adapter(model, dir)`, which makes "
        "that base first."
    ),
}


class StartedLoraConfig(LoraConfig):  # type: ignore[misc]
    """A stock LoraConfig that also saves how its adapter started.

    PEFT saves every adapter's config after its weights, in ``save_pretrained`` and so in every
    Trainer checkpoint. That is the one place where the anchor can travel along without a patch
    of the model. The JSON it writes holds stock fields only.
    """

    start_config: AILoRAConfig | None = None
    anchors: Mapping[str, Any] | None = None  # name -> module with an `anchor`, or a tensor

    @classmethod
    def from_stock(cls, config: LoraConfig) -> StartedLoraConfig:
        """The same configuration, ready to remember a start."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(config)})

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the stock config, then the marker, the anchors and a line in the README."""
        ordered = copy(self)  # the one in use keeps PEFT's sets
        in_order(ordered)
        super(StartedLoraConfig, ordered).save_pretrained(save_directory, **kwargs)
        if self.start_config is not None:
            write_start(Path(save_directory), self.start_config, _tensors(self.anchors or {}))


def in_order(config: LoraConfig) -> None:
    """Sort the names that PEFT keeps as sets: their order on disk differs from run to run."""
    for key, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, key, sorted(value))


def remember(
    model: PeftModel, adapter: str, config: AILoRAConfig, anchors: Mapping[str, Any]
) -> None:
    """Let the adapter's config know its start, so that every save writes it along."""
    lora = model.peft_config[adapter]
    lora.start_config = config
    lora.anchors = anchors


def write_start(folder: Path, config: AILoRAConfig, anchors: Mapping[str, Tensor]) -> None:
    """Write the anchors, the marker and the README's lines beside a saved adapter."""
    write_atomic(folder / ANCHORS, save(dict(anchors), metadata={"format": "pt"}))
    write_json(folder / MARKER, {"format": FORMAT, "config": asdict(config)})
    say_start(folder / "README.md", config)


def say_start(readme: Path, config: AILoRAConfig) -> None:
    """Add to a card how the adapter started, where it does not say so yet."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    parts = ("## How this adapter started", README_LINE[config.base], f"- `{config!r}`")
    missing = [part for part in parts if part not in text]
    if missing:
        write_atomic(readme, "\n\n".join([text.rstrip(), *missing]) + "\n")


def _tensors(anchors: Mapping[str, Any]) -> dict[str, Tensor]:
    held = {name: getattr(owner, "anchor", owner) for name, owner in anchors.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in held.items()}
