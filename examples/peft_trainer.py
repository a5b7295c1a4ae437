"""AILoRA in your own transformers Trainer: one line to wrap, one for the rates by role.

Run it:  python examples/peft_trainer.py

The adapter is saved, and loaded again by PEFT alone, on the untouched base model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Dataset
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

import ailora
from ailora.lab.demo import encoder_dir
from ailora.lab.tasks import load_task


def load_base(model: str, labels: int) -> PreTrainedModel:
    """Load the pre-trained model with a new head."""
    return AutoModelForSequenceClassification.from_pretrained(model, num_labels=labels)


def tokenized(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Turn the column ``text`` into tokens."""
    return rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=64))


def accuracy(model: PeftModel, trained_with: Trainer, rows: Dataset) -> float:
    """Share of rows that the model sorts rightly."""
    trainer = Trainer(
        model=model, args=trained_with.args, processing_class=trained_with.processing_class
    )
    predicted = trainer.predict(rows)
    return float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())


def main(model: str, task: str, out: Path) -> None:
    """Train, save, load in stock PEFT, and print the score of both."""
    model = str(encoder_dir()) if model == "demo" else model
    data = load_task(task, limit=1000, eval_limit=500)
    tokenizer = AutoTokenizer.from_pretrained(model)
    train, test = (tokenized(rows, tokenizer) for rows in (data.train, data.test))

    set_seed(0)
    config = ailora.AILoRAConfig(r=8, task_type="SEQ_CLS")
    tuned = ailora.get_peft_model(load_base(model, data.num_outputs), config)
    tuned.print_trainable_parameters()
    trainer = Trainer(
        model=tuned,
        args=TrainingArguments(
            output_dir=str(out / "checkpoints"),
            num_train_epochs=1,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            warmup_steps=5,
            logging_steps=16,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=train,
        processing_class=tokenizer,
        optimizers=(ailora.create_optimizer(tuned, lr=2e-3), None),  # V at twice Q's rate
    )
    trainer.train()
    tuned.save_pretrained(out / "adapter")
    print(f"as trained:    accuracy {accuracy(tuned, trainer, test):.3f} on {len(test)} rows")

    stock = PeftModel.from_pretrained(load_base(model, data.num_outputs), out / "adapter")
    print(f"in stock PEFT: accuracy {accuracy(stock, trainer, test):.3f} on {len(test)} rows")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="an encoder: a folder or a hub name")
    parser.add_argument("--task", default="movies", help="or a table with text and label")
    parser.add_argument("--out", type=Path, default=Path("runs/peft_trainer"), help="a folder")
    main(**vars(parser.parse_args()))
