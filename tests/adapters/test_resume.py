"""transformers' Trainer stopped half-way and started again ends in the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import ailora
from ailora import AILoRAConfig
from tests.adapters.models import factors, same, tiny
from tests.other_process import run_elsewhere

STEPS, KILLED = 8, 4
ONE_RUN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.adapters.test_resume import run
run(Path(sys.argv[1]), True)
"""


class Rows(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {
            "input_ids": torch.randint(5, 64, (7,), generator=generator),
            "labels": torch.tensor(index % 2),
        }


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            control.should_training_stop = True
        return control


def run(
    out: Path,
    anchored: bool,
    *,
    baked: bool = False,
    stop: int | None = None,
    resume: bool | str = False,
) -> PeftModel:
    """One run, with dropout, warm-up and decay; PEFT saves a checkpoint at step 4."""
    torch.manual_seed(11)  # Gaussian starts and the head
    dropout = 0.1 if anchored else 0.0  # beside the model's own
    config = AILoRAConfig(
        r=2, anchored=anchored, bake_rates=baked, lora_dropout=dropout, task_type="SEQ_CLS"
    )
    model = ailora.get_peft_model(tiny(torch.float32), config)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            per_device_train_batch_size=4,
            max_steps=STEPS,
            save_steps=KILLED,
            warmup_steps=2,
            lr_scheduler_type="linear",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            logging_strategy="no",
            seed=5,
        ),
        train_dataset=Rows(),
        optimizers=(ailora.create_optimizer(model, lr=5e-3, weight_decay=0.1), None),
        callbacks=[StopAt(stop)] if stop else None,
    )
    trainer.train(resume_from_checkpoint=resume)
    model.save_pretrained(out / "end")
    return model


def end_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "end/adapter_model.safetensors")


@pytest.mark.parametrize(("anchored", "baked"), [(True, False), (False, False), (True, True)])
def test_a_resumed_trainer_ends_in_the_same_bits(
    anchored: bool, baked: bool, tmp_path: Path
) -> None:
    """Baked rates too, whose files hold another B than trains."""
    run(tmp_path / "whole", anchored, baked=baked)
    run(tmp_path / "parts", anchored, baked=baked, stop=KILLED)
    whole, half = end_of(tmp_path / "whole"), end_of(tmp_path / "parts")
    assert not same(whole, half)
    run(tmp_path / "parts", anchored, baked=baked, resume=True)
    assert same(end_of(tmp_path / "parts"), whole)
    assert any("classifier" in name for name in whole)


def test_a_checkpoint_of_another_process_ends_in_the_same_bits(tmp_path: Path) -> None:
    run(tmp_path / "whole", True)
    run_elsewhere(ONE_RUN, tmp_path / "other")
    run(tmp_path / "again", True, resume=str(tmp_path / f"other/checkpoint-{KILLED}"))
    assert same(end_of(tmp_path / "again"), end_of(tmp_path / "whole"))


def test_every_checkpoint_can_be_loaded_for_training(tmp_path: Path) -> None:
    model = run(tmp_path, True)
    name = "bert.encoder.layer.0.attention.self.value"
    last = ailora.load_adapter(
        tiny(torch.float32), tmp_path / f"checkpoint-{STEPS}", is_trainable=True
    )
    for ours, theirs in zip(factors(model, name), factors(last, name), strict=True):
        assert torch.equal(ours.weight, theirs.weight) and ours.blocks == theirs.blocks


def test_trainer_gives_every_role_its_rate(tmp_path: Path) -> None:
    """After the decay of the schedule to zero the groups still stand two to one."""
    model = ailora.get_peft_model(tiny(torch.float32), AILoRAConfig(r=2))
    optimizer = ailora.create_optimizer(model, lr=1e-3)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        lr_scheduler_type="constant",
    )
    Trainer(model=model, args=args, train_dataset=Rows(), optimizers=(optimizer, None)).train()
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 2e-3]


def test_a_trainer_left_to_itself_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ailora.get_peft_model(tiny(torch.float32), AILoRAConfig(r=2))
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        warmup_steps=1,
    )
    Trainer(model=model, args=args, train_dataset=Rows()).train()
    heard = [record for record in caplog.records if "at one rate" in record.message]
    assert len(heard) == 1
