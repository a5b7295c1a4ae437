"""What notebooks show: small tables, in which a hostile name is a name and nothing else."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import nn

import ailora
from ailora.html_table import html_table
from ailora.lab.experiments import Outcome
from ailora.lab.experiments.store import Failure
from ailora.lab.report.comparison import Comparison
from ailora.lab.report.summary import summary_rows
from ailora.lab.training.results import Result, read_result
from ailora.roles.inspection import ProjectionInfo

HOSTILE = '<script>alert("x")</script>&<img src=x onerror=alert(1)>'


class Reader(HTMLParser):
    """The tags of a page, and the texts of its cells by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[object] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1] and self.lasttag in ("td", "th"):
            self.rows[-1][-1] += data


def read(shown: Any) -> Reader:
    page = Reader(shown._repr_html_() if hasattr(shown, "_repr_html_") else shown)
    allowed = {"div", "small", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert page.tags <= allowed and not page.attributes
    return page


def result(**changed: Any) -> dict[str, Any]:
    config = {"method": "lora", "task": HOSTILE, "model": HOSTILE, "lr": 1e-3, "seed": 0}
    return {
        "config": {**config, **changed},
        "data": {"metric": "accuracy", "labels": None, "selection": 20, "test": 30},
        "metrics": {"selection": {"accuracy": 0.75}, "test": {"accuracy": 0.5, HOSTILE: 0.25}},
        "majority": 0.5,
        "history": [{"step": 0, "epoch": 0, "accuracy": 0.5}],
        "parameters": {"adapter": 1536, "head": 66},
        "seconds": {"init": 0.1, "train": 1.0},
        "step0_deviation": 0.0,
    }  # fmt: skip


def test_every_cell_title_and_note_is_escaped_and_long_tables_are_cut() -> None:
    rows = [[HOSTILE, str(i)] for i in range(50)]
    page = read(html_table([HOSTILE, "n"], rows, title=HOSTILE, notes=["", HOSTILE]))
    assert page.rows[0] == [HOSTILE, "n"] and page.rows[1:] == rows[:40]
    assert page.text.count(HOSTILE) == 43 and "and 10 more rows" in page.text


def test_an_inspection_is_the_table_that_is_printed() -> None:
    config = hf.GPT2Config(vocab_size=16, n_embd=32, n_layer=2, n_head=4)
    found = ailora.inspect(hf.GPT2LMHeadModel(config), spectra=True)
    page = read(found)
    printed = [line.split() for line in str(found).splitlines()]
    assert ["".join(row).replace(" ", "") for row in page.rows] == list(map("".join, printed))
    assert len(page.rows) == 1 + 2 * 6  # q, k, v, o, up, down


def test_a_module_with_a_hostile_name_is_text() -> None:
    row = ProjectionInfo(
        name=HOSTILE, role="q", layer=0, attention="self", stack="", shape=(2, 2),
        dtype=torch.float32,
    )  # fmt: skip
    assert read(type(ailora.inspect(tiny()))(rows=(row,))).rows[1][0] == HOSTILE


def tiny() -> nn.Module:
    config = hf.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    return hf.LlamaForCausalLM(config)


def test_a_run_shows_its_scores_and_is_a_dictionary_as_before(tmp_path: Path) -> None:
    run = Result(result())
    assert run == result() and json.loads(json.dumps(run)) == result()
    page = read(run)
    assert page.rows == [
        ["", "selection", "test"],
        ["rows", "20", "30"],
        ["accuracy", "0.7500", "0.5000"],
        [HOSTILE, "", "0.2500"],
    ]
    assert f"lora on {HOSTILE}" in page.text and "1,536 (adapter) + 66 (head)" in page.text
    (tmp_path / "result.json").write_text(json.dumps(result()))
    assert isinstance(read_result(tmp_path / "result.json"), Result)


def test_a_comparison_shows_what_the_terminal_shows() -> None:
    runs = [result(method=m, seed=s) for m in ("lora", "ailora", HOSTILE) for s in (0, 1)]
    for index, run in enumerate(runs):
        run["metrics"]["test"]["accuracy"] += index / 64
    comparison = Comparison(runs=runs, chosen="fixed", rates=[1e-3])
    page = read(comparison)
    in_the_terminal = summary_rows(comparison)
    assert [(row[0], row[1], row[3], row[4]) for row in page.rows[1:]] == [
        tuple(row[:4]) for row in in_the_terminal
    ]
    assert {row[0] for row in page.rows[1:]} == {"LoRA", "AILoRA", HOSTILE}
    assert "No ranking of methods" in page.text and "commonest class: 0.5000" in page.text


def test_a_sweep_shows_its_runs_and_why_others_failed() -> None:
    failure = Failure(config={"method": HOSTILE}, kind="diverged", reason=HOSTILE)
    page = read(Outcome(runs=(result(),), names=("a",), failed=(failure,), rates={}))
    assert page.rows[1] == ["lora", HOSTILE, "0.001", "0", "accuracy", "0.7500", "0.5000"]
    assert f"failed: {HOSTILE}, , , : {HOSTILE}" in page.text
