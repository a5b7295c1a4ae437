"""Examples with trainers and servers that are not ailora's: what they print is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor

from ailora.lab.tasks import TextTask, load_task
from tests.examples.conftest import Script

TOKENS = torch.arange(10, 50).view(4, 10)


def decoder(folder: Path, adapter: Path | None = None) -> torch.nn.Module:
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return (peft.PeftModel.from_pretrained(model, str(adapter)) if adapter else model).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(input_ids=TOKENS).logits


def numbers(printed: str, pattern: str) -> list[float]:
    """Every number that follows the words of a pattern, in order."""
    return [float(found) for found in re.findall(pattern + r"\s*([\d.]+(?:e[+-]\d+)?)", printed)]


def dense_updates(adapter: Path) -> dict[str, Tensor]:
    """Updates dW = s B A of each module of a saved stock adapter, by its name, in float64."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert not config["rank_pattern"] and not config["alpha_pattern"]
    factors = load_file(adapter / "adapter_model.safetensors")
    return {
        name.removesuffix(".lora_A.weight"): config["lora_alpha"]
        / config["r"]
        * (factors[name.replace("lora_A", "lora_B")].double() @ A.double())
        for name, A in factors.items()
        if name.endswith("lora_A.weight")
    }


def test_trainer_and_stock_peft_have_the_score_that_is_printed(
    script: Script, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    printed = script("peft_trainer", tiny_model, task=reviews, out=tmp_path)
    scores = numbers(printed, "accuracy")
    assert len(scores) == 2 and scores[0] == scores[1]

    base = hf.AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    task = load_task(str(reviews))
    assert isinstance(task, TextTask)
    batch = hf.AutoTokenizer.from_pretrained(tiny_model)(
        list(task.test["text"]), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        said = model(**batch).logits.argmax(-1)
    right = (said == torch.tensor(task.test["label"])).float().mean()
    assert scores[0] == pytest.approx(float(right), abs=5e-4)
    assert all(update.norm() > 1e-3 for update in dense_updates(tmp_path / "adapter").values())


def test_sft_answers_with_the_adapter_that_it_saves(
    script: Script, tiny_decoder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("trl", reason="TRL needs Python 3.11")
    printed = script("trl_sft", tiny_decoder, out=tmp_path)
    losses = numbers(printed, r"'loss': '")
    assert losses[-1] < losses[0]
    before, after = (re.findall(rf"{when}: +(.+)", printed) for when in ("before", "after"))
    words = hf.AutoTokenizer.from_pretrained(tiny_decoder)
    messages = re.findall(r"(.+)\n  before", printed)
    assert len(messages) == len(before) == len(after) == 3

    def answers(model: torch.nn.Module) -> list[str]:
        return [repr(greedy(model, words, f"Message: {message}\nTeam:")) for message in messages]

    assert before == answers(decoder(tiny_decoder))
    assert after == answers(decoder(tiny_decoder, tmp_path))
    assert before != after


@torch.no_grad()
def greedy(model: torch.nn.Module, words: hf.PreTrainedTokenizerBase, prompt: str) -> str:
    """Twelve tokens, each the likeliest, up to an end token; without a cache."""
    ids = words(prompt, return_tensors="pt")["input_ids"]
    new: list[int] = []
    while len(new) < 12 and words.eos_token_id not in new:
        new.append(int(model(input_ids=ids).logits[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([new[-1:]])], dim=1)
    return words.decode(new, skip_special_tokens=True).strip()


def test_files_come_back_as_a_lora_of_the_original(
    script: Script, tiny_decoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    printed = script("offline_files", tiny_decoder, out=out)
    (moved,), (differ,) = numbers(printed, "by up to"), numbers(printed, "they differ by")
    assert moved > 1e-2 and differ < 1e-3 * moved
    wanted = logits(decoder(out / "start" / "model", out / "trained"))
    torch.testing.assert_close(
        logits(decoder(tiny_decoder, out / "plain")), wanted, rtol=1e-3, atol=1e-3
    )
    unconverted = logits(decoder(tiny_decoder, out / "trained"))  # would add B0 A0 twice
    assert (unconverted - wanted).abs().max() > 0.1


def test_the_check_of_the_trainers_pages_sees_an_adapter_that_was_not_exported(
    script: Script, tiny_decoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    script("offline_files", tiny_decoder, out=out)
    check = Path(__file__).parents[2] / "examples" / "trainers" / "compare_logits.py"
    folders = [tiny_decoder, out / "start" / "model", out / "trained", out / "plain"]
    printed = subprocess.run(
        [sys.executable, check, *folders], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert "ailora imported: False" in printed
    moved, off, unconverted = (float(line.split()[-1]) for line in printed.splitlines()[-3:])
    assert off < 1e-3 * moved < 1e-3 * unconverted


def test_the_loss_of_a_smaller_export_is_the_one_of_a_full_svd(
    script: Script, tiny_decoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    printed = script("serve_exported", tiny_decoder, out=out)
    ranks, lost = numbers(printed, "rank"), numbers(printed, "lost at most")
    off, merging = numbers(printed, "logits off by"), numbers(printed, "moves them by")
    assert ranks == [16, 8] and lost[0] == 0.0
    assert off[0] < 1e-5 < off[1] and max(merging) < 1e-4
    assert json.loads((out / "small" / "adapter_config.json").read_text())["r"] == 8

    shares = []
    small = dense_updates(out / "small")
    for name, update in dense_updates(out / "exact").items():
        squares = torch.linalg.svdvals(update).square()
        shares.append(float((squares[8:].sum() / squares.sum()).sqrt()))
        assert float((update - small[name]).norm() / update.norm()) == pytest.approx(
            shares[-1], rel=1e-3
        )
    assert lost[1] == pytest.approx(100 * max(shares), abs=0.05 + 1e-9)
    assert lost[1] > 1


@pytest.mark.parametrize("name", ["offline_files", "serve_exported"])
def test_files_of_an_earlier_call_are_never_touched(
    script: Script, tiny_decoder: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=tmp_path.name):
        script(name, tiny_decoder, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_moved_is_what_the_saved_factors_say(
    script: Script, tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    printed = script("analyse_run", tiny_model, task=reviews, out=tmp_path)
    (adapter,) = tmp_path.glob("*/adapter")
    updates = dense_updates(adapter)
    for layer in (0, 1):
        (line,) = re.findall(rf"^{layer} +(.+)$", printed, flags=re.MULTILINE)
        found = [float(number) for number in line.split()]  # of each measure, q and v
        for place, role in enumerate(("query", "value")):
            (update,) = (
                dW for name, dW in updates.items() if f"layer.{layer}." in name and role in name
            )
            values = torch.linalg.svdvals(update)
            shares = values[values > 0] / values.sum()
            effective = float((-(shares * shares.log()).sum()).exp())
            W = weight(tiny_model, layer, role)
            wanted = [effective, float(update.norm()), float(update.norm() / W.norm())]
            assert found[place::2] == pytest.approx(wanted, abs=2e-4)
    assert (tmp_path / "what_moved.png").read_bytes().startswith(b"\x89PNG")


def weight(model: Path, layer: int, role: str) -> Tensor:
    weights = load_file(model / "model.safetensors")
    (name,) = (
        key for key in weights if key.endswith(f"layer.{layer}.attention.self.{role}.weight")
    )
    return weights[name].double()
