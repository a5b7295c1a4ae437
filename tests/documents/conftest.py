"""What the commands of the pages name: files of data, models, adapters; all tiny."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
import transformers as hf

import ailora
from tests.commands import Call, Ended, call
from tests.conftest import one_thread, sentences, write_csv
from tests.documents.pages import ROOT
from tests.writers import save_bart, save_llama

__all__ = ["Call", "Ended", "call"]

MAKE_START = "init MODEL --out start"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role + ': ' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{% else %}{{ m.content + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
ARITHMETIC = ("gsm8k", "mawps", "multiarith", "addsub", "singleeq", "svamp")


@pytest.fixture(scope="session")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model in place of each kind that the pages name."""
    folder = tmp_path_factory.mktemp("named")
    with one_thread():
        decoder = save_llama(folder / "llama", positions=1024)
        (decoder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
        bart = save_bart(folder / "bart")
    large = shutil.copytree(tiny_model, folder / "roberta-large")
    return {"encoder": tiny_model, "roberta-large": large, "decoder": decoder, "bart": bart}


@pytest.fixture(scope="session")
def material(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file and folder that a command of a page takes for granted."""
    folder = tmp_path_factory.mktemp("material")
    _tables(folder)
    _task_folders(folder / "DIR")
    _adapters(folder, models["decoder"])
    shutil.copytree(models["decoder"], folder / "my-tuned-opt")
    (folder / "sentences.txt").write_text("a fine film\nnot a good plot at all\n")
    sweep = (
        f"[common]\nmodel = {json.dumps(str(models['encoder']))}\ntask = 'reviews.csv'\n"
        "text = ['body']\nlabel = 'stars'\nlimit = 16\neval_limit = 4\nepochs = 1\n"
        "[grid]\nmethod = ['lora', 'ailora']\n"
    )
    (folder / "sweep.toml").write_text(sweep)
    (folder / "search.toml").write_text(f"{sweep}[search.space]\nlr = [1e-3, 2e-3]\n")
    shutil.copy(ROOT / "examples" / "my_task.py", folder)
    return folder


@pytest.fixture
def here(call: Call, material: Path) -> Iterator[Callable[[str], Ended]]:
    """Run a command in a copy of that folder."""
    shutil.copytree(material, Path.cwd(), dirs_exist_ok=True)
    with one_thread():
        yield call


def _tables(folder: Path) -> None:
    rows = [(text, max(1, feeling)) for text, feeling in sentences(60)]
    write_csv(folder / "reviews.csv", ("body", "stars"), [(text, f"{n} stars") for text, n in rows])
    teams = [(text, ("billing", "login")[n > 1]) for text, n in rows]
    write_csv(folder / "tickets.csv", ("message", "team"), teams)
    texts = [text for text, _ in rows]
    _lines(
        folder / "codes.jsonl",
        [{"instruction": f"Say it. {i} {text}", "output": text} for i, text in enumerate(texts)],
    )
    _lines(folder / "minutes.jsonl", [{"document": t, "summary": t.split()[0]} for t in texts])
    _lines(folder / "opening_hours.jsonl", _questions(texts))
    roles = ("user", "assistant")
    chats = [[dict(zip(("role", "content"), (r, t), strict=True)) for r in roles] for t in texts]
    _lines(folder / "chat.jsonl", [{"messages": turns} for turns in chats])


def _questions(texts: list[str], *, unanswered: bool = False) -> list[dict[str, object]]:
    return [
        {
            "id": str(i),
            "title": f"page {i % 9}",
            "question": "what was it",
            "context": f"Then {text} {i}",
            "answers": {"text": [], "answer_start": []}
            if unanswered and i % 3 == 0
            else {"text": ["Then"], "answer_start": [0]},
        }
        for i, text in enumerate(texts)
    ]


def _task_folders(data: Path) -> None:
    for seed, split in enumerate(("train", "dev")):
        rows = sentences(40, seed=seed)
        judged = [{"sentence": text, "label": int(n > 0)} for text, n in rows]
        _lines(data / "cola" / f"{split}.jsonl", judged)
        for task, unanswered in (("squad_v1", False), ("squad_v2", True)):
            asked = _questions([f"{seed} {text}" for text, _ in rows], unanswered=unanswered)
            _lines(data / task / f"{split}.jsonl", asked)
        papers = [{"document": text, "summary": text.split()[0]} for text, _ in rows]
        _lines(data / "scitldr" / f"{split}.jsonl", papers)
    for place, name in enumerate(ARITHMETIC):
        for split in ("train", "dev") if name == "mawps" else ("train", "dev", "test"):
            _lines(data / name / f"{split}.jsonl", _problems(place, len(split)))


def _problems(place: int, shift: int) -> list[dict[str, str]]:
    numbers = [100 * place + 10 * shift + n for n in range(8)]
    return [
        {
            "instruction": f"What is {n} + 1?",
            "output": f"The answer is {n + 1}.",
            "answer": f"{n + 1}",
        }
        for n in numbers
    ]


def _adapters(folder: Path, decoder: Path) -> None:
    shutil.copytree(decoder, folder / "MODEL")
    model = hf.AutoModelForCausalLM.from_pretrained(folder / "MODEL")
    config = ailora.AILoRAConfig(r=8, task_type="CAUSAL_LM")
    ailora.get_peft_model(model, config).save_pretrained(folder / "CHECKPOINT")
    save_pair(decoder, folder)


def save_pair(decoder: Path, folder: Path) -> None:
    """BASE and TUNED: a model, and the same after a step of full fine-tuning."""
    shutil.copytree(decoder, folder / "BASE")
    model = hf.AutoModelForCausalLM.from_pretrained(decoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(folder / "TUNED")


def _lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
