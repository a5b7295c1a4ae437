"""AILoRA in sentence-transformers: similarity of sentences, trained, saved, loaded, resumed.

Run it:  python examples/sentence_transformers_sts.py --data DIR

DIR holds train and test (and dev) as .jsonl or .jsonl.gz with sentence1, sentence2 and a label from
0 to 5, as GLUE's STS-B has them. Without it, a few sentences below show that all of it works.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import peft
from datasets import Dataset, load_dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from transformers.integrations import peft as bridge

import ailora
from ailora.lab.demo import encoder_dir

# transformers 5.24 asks for PEFT 0.22, which is not released, and does nothing that 0.21 cannot.
bridge.MIN_PEFT_VERSION = "0.18.0"

ABOUT = ("a man plays the flute", "the plane is taking off", "two dogs run on the beach")
SAME = ("a man is playing a flute", "an air plane takes off", "dogs are running by the sea")


def few() -> dict[str, Dataset]:
    """Each sentence with its paraphrase, and with those of the others."""
    pairs = [
        {"sentence1": one, "sentence2": two, "label": 5.0 * (i == j)}
        for i, one in enumerate(ABOUT)
        for j, two in enumerate(SAME)
    ]
    return {"train": Dataset.from_list(pairs * 4), "test": Dataset.from_list(pairs)}


def read(folder: Path) -> dict[str, Dataset]:
    """The splits of a folder of .jsonl or .jsonl.gz files."""
    files = {name: [str(path) for path in folder.glob(f"{name}.jsonl*")] for name in few()}
    return dict(load_dataset("json", data_files=files))


def scaled(rows: Dataset) -> Dataset:
    """Labels from 0 to 1, as cosines are."""
    return rows.map(lambda row: {"label": row["label"] / 5})


def spearman(model: SentenceTransformer, rows: Dataset) -> float:
    """Rank correlation of the cosines with the labels."""
    columns = (list(rows[name]) for name in ("sentence1", "sentence2", "label"))
    return float(EmbeddingSimilarityEvaluator(*columns, name="test")(model)["test_spearman_cosine"])


def main(model: str, data: Path | None, out: Path, epochs: float, resume: bool) -> None:
    """Train, save, load with stock PEFT, and print Spearman's correlation each time."""
    folder = str(encoder_dir()) if model == "demo" else model
    rows = {name: scaled(split) for name, split in (read(data) if data else few()).items()}
    tuned = SentenceTransformer(folder, device="cpu")
    print(f"{len(rows['train'])} pairs to train on, {len(rows['test'])} to test on")
    print(f"before:        Spearman {spearman(tuned, rows['test']):.4f}")

    tuned.add_adapter(ailora.AILoRAConfig(r=8))
    trainer = SentenceTransformerTrainer(
        model=tuned,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(out / "checkpoints"),
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            warmup_steps=0.1,  # a tenth of them
            save_strategy="epoch",
            logging_steps=25,
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=rows["train"].select_columns(["sentence1", "sentence2", "label"]),
        loss=CosineSimilarityLoss(tuned),
        optimizers=(ailora.create_optimizer(tuned, lr=1e-3), None),  # V at twice Q's rate
    )
    ailora.log_roles(trainer)
    trainer.train(resume_from_checkpoint=resume)
    tuned[0].model.save_pretrained(out / "adapter")
    print(f"as trained:    Spearman {spearman(tuned, rows['test']):.4f}")

    stock = SentenceTransformer(folder, device="cpu")
    stock[0].model = peft.PeftModel.from_pretrained(stock[0].model, out / "adapter")
    print(f"in stock PEFT: Spearman {spearman(stock, rows['test']):.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="an encoder: a folder or a hub name")
    parser.add_argument("--data", type=Path, help="a folder with train.jsonl and test.jsonl")
    parser.add_argument("--out", type=Path, default=Path("runs/sentence_transformers_sts"))
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    main(**vars(parser.parse_args()))
