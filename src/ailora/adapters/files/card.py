"""The model card says how an adapter started, also where others write it anew.

``PeftModel.push_to_hub`` and Trainer's write a card of their own over the one that was saved.
"""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

from peft import PeftModel

from ailora.adapters.files.saved import say_start


def guard_card() -> None:
    """Let PEFT's models with started adapters say so in every card; once a process."""
    if hasattr(PeftModel.create_or_update_model_card, "__wrapped__"):
        return
    PeftModel.create_or_update_model_card = _saying(PeftModel.create_or_update_model_card)
    PeftModel._upload_modified_files = _carded(PeftModel._upload_modified_files)


def _saying(write: Any) -> Any:
    @wraps(write)
    def saying(model: PeftModel, output_dir: str) -> None:
        write(model, output_dir)
        for lora in model.peft_config.values():
            if getattr(lora, "start_config", None) is not None:
                say_start(Path(output_dir) / "README.md", lora.start_config)

    return saying


def _carded(upload: Any) -> Any:
    @wraps(upload)
    def carded(model: PeftModel, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        if any(getattr(lora, "start_config", None) for lora in model.peft_config.values()):
            model.create_or_update_model_card(working_dir)
        return upload(model, working_dir, *args, **kwargs)

    return carded
