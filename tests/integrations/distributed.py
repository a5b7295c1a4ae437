"""A script for two processes: start, train with Trainer, resume, save."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers as hf
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from datasets import Dataset
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

import ailora
from ailora import presets
from ailora.errors import UserError

ROWS = [{"input_ids": row, "labels": row} for row in torch.arange(4, 16).view(2, 6).tolist() * 8]


def shard_on_cpu(trainer: hf.Trainer) -> None:
    """Accelerate has FSDP for accelerators alone; its code for it runs on processors as well."""
    state = trainer.accelerator.state._shared_state
    state["fsdp_plugin"] = FullyShardedDataParallelPlugin()
    for shared in (state, PartialState._shared_state):  # the first is refilled from the second
        shared["distributed_type"] = DistributedType.FSDP
    trainer.is_fsdp_enabled = True


def join_deepspeed(arguments: hf.TrainingArguments) -> None:
    """DeepSpeed counts processes by a group of its own, which on processors nobody starts."""
    import deepspeed

    assert arguments.world_size == 2  # which starts torch's
    deepspeed.init_distributed("gloo")


class AtRolesRates(hf.Trainer):
    """What Trainer asks for where FSDP takes no ``optimizers=``."""

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Every role at its own rate, and decay."""
        lr, decay = self.args.learning_rate, 0.0 if self.args.deepspeed else 0.1
        self.optimizer = ailora.create_optimizer(model or self.model, lr=lr, weight_decay=decay)
        return self.optimizer


def save(trainer: hf.Trainer, folder: Path) -> None:
    """As Trainer does, which writes no adapter at all where it saves in shards."""
    trainer.save_model(str(folder))
    if os.environ.get("FSDP_STATE_DICT_TYPE") == "SHARDED_STATE_DICT":
        whole = get_model_state_dict(trainer.model, options=StateDictOptions(full_state_dict=True))
        main = PartialState().is_main_process
        trainer.model.save_pretrained(folder, state_dict=whole, is_main_process=main)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--deepspeed", help="its configuration")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--folded", action="store_true")
    parser.add_argument("--without-rates", action="store_true", help="neither baked nor grouped")
    options = parser.parse_args()
    arguments = hf.TrainingArguments(
        output_dir=str(options.out),
        max_steps=6,
        per_device_train_batch_size=2,
        learning_rate=5e-3,
        weight_decay=options.weight_decay,
        save_steps=3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        deepspeed=options.deepspeed,
    )
    if options.deepspeed:  # before a model is loaded in pieces; on a GPU accelerate does it
        join_deepspeed(arguments)
    base = hf.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    fused = base.config.model_type == "gpt2"  # whose roles have one scale
    bake_rates = not (fused or options.without_rates)
    if base.config.model_type == "mixtral":
        stacks = ["experts.gate_up_proj", "experts.down_proj"]
        config = presets.pissa(2, published=True, bake_rates=bake_rates, target_parameters=stacks)
    else:
        config = presets.ailora(3, bake_rates=bake_rates, anchored=not options.folded)
    hf.set_seed(0)
    model = ailora.get_peft_model(base, config)
    rank = PartialState().process_index
    factors = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }
    save_file(factors, options.out / f"start-{rank}.safetensors")
    kind = AtRolesRates if fused else hf.Trainer
    trainer = kind(model=model, args=arguments, train_dataset=Dataset.from_list(ROWS))
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpu(trainer)
    trainer.train(resume_from_checkpoint=options.resume or None)
    save(trainer, options.out / "adapter")
    whole = all(parameter.numel() for parameter in trainer.model.parameters())
    if not whole:
        with pytest.raises(UserError, match="holds the adapter in pieces, and save_pretrained"):
            model.save_pretrained(options.out / "pieces")
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    sharded = sum(isinstance(parameter, DTensor) for parameter in trainer.model.parameters())
    found = {
        "losses": losses,
        "sharded": sharded,
        "whole": whole,
        "kind": str(trainer.accelerator.distributed_type),
    }
    (options.out / f"done-{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
