"""The sentence-transformers example: what it prints is so, elsewhere and after a resumption too."""

from __future__ import annotations

import json
import random
import re
import runpy
import shutil
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from tests.conftest import BAD, FILLER, GOOD
from tests.examples.conftest import EXAMPLES, Script
from tests.other_process import run_elsewhere

pytest.importorskip("sentence_transformers", reason="in ailora[dev]")

# Mean of the token vectors, by transformers and PEFT alone.
STOCK = """
import json, sys
sys.modules["ailora"] = None  # cannot be imported
import peft, torch, transformers
model, adapter, rows = sys.argv[1:]
torch.set_num_threads(1)
words = transformers.AutoTokenizer.from_pretrained(model)
base = transformers.AutoModel.from_pretrained(model)
tuned = peft.PeftModel.from_pretrained(base, adapter).eval()
def vector(text):
    with torch.no_grad():
        return tuned(**words(text, return_tensors="pt")).last_hidden_state[0].mean(0)
pairs = [json.loads(line) for line in open(rows)]
print(json.dumps([float(torch.cosine_similarity(
    vector(p["sentence1"]), vector(p["sentence2"]), dim=0)) for p in pairs]))
"""


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two sentences, alike as far as both are of good words or of bad ones."""
    draw = random.Random(0)  # noqa: S311
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name, count in (("train", 64), ("test", 24)):
        lines = []
        for _ in range(count):
            good = [draw.randint(0, 4) for _ in range(2)]
            texts = [
                " ".join(
                    [*draw.choices(GOOD, k=n), *draw.choices(BAD, k=4 - n), draw.choice(FILLER)]
                )
                for n in good
            ]
            label = 5 - 1.25 * abs(good[0] - good[1])
            lines.append({"sentence1": texts[0], "sentence2": texts[1], "label": label})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


def scores(printed: str) -> list[float]:
    return [float(found) for found in re.findall(r"Spearman (-?[\d.]+)", printed)]


def test_it_learns_and_stock_peft_says_the_same_in_a_process_without_ailora(
    script: Script, tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    printed = script("sentence_transformers_sts", tiny_model, data=pairs, out=out, epochs=12)
    assert "64 pairs to train on, 24 to test on" in printed
    before, trained, stock = scores(printed)
    assert trained > before + 0.03 and trained == stock
    assert "'moved/v'" in printed

    rows = pairs / "test.jsonl"
    cosines = json.loads(run_elsewhere(STOCK, tiny_model, out / "adapter", rows))
    labels = [json.loads(line)["label"] for line in rows.read_text().splitlines()]
    assert spearmanr(cosines, labels).statistic == pytest.approx(trained, abs=1e-3)


def test_a_resumed_run_ends_in_the_same_bytes(
    script: Script, tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    script("sentence_transformers_sts", tiny_model, data=pairs, out=whole, epochs=3)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "adapter")
    shutil.rmtree(cut / "checkpoints" / "checkpoint-12")
    example = runpy.run_path(str(EXAMPLES / "sentence_transformers_sts.py"))
    example["main"](str(tiny_model), pairs, cut, epochs=3.0, resume=True)
    ends = [(out / "adapter" / "adapter_model.safetensors").read_bytes() for out in (whole, cut)]
    assert ends[0] == ends[1]


def test_without_data_it_runs_on_its_own_sentences(
    script: Script, tiny_model: Path, tmp_path: Path
) -> None:
    printed = script("sentence_transformers_sts", tiny_model, out=tmp_path)
    assert "36 pairs to train on, 9 to test on" in printed and len(scores(printed)) == 3
