"""``ailora data``: what would be trained on, said as training says it and counted as it counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ailora.lab import demo
from ailora.lab.tasks import load_task
from tests.commands import Call, check_refused


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def notes(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        {"text": f"Note {n} is here", "label": ["b", "a"][n % 2], **more}
        for n in range(start, start + count)
    ]


def turns(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"it is {n}"}]


ROWS: dict[str, list[dict[str, Any]]] = {
    "classes": [*notes(30), {"text": "note  3 IS here", "label": "b"}],
    "skipped": [*notes(30), {"text": "", "label": "a"}, {"text": "x", "label": float("nan")}],
    "regression": [{"text": f"r {n}", "label": n / 4} for n in range(30)],
    "pairs": [
        {"premise": f"p {n}", "hypothesis": f"h {n}", "label": n % 3, "id": n} for n in range(40)
    ],
    "instructions": [{"instruction": f"do {n}", "output": f"done {n}"} for n in range(30)],
    "messages": [{"messages": turns(n)} for n in range(30)],
    "summaries": [
        {"document": f"a text of number {n}", "summary": f"text {n} here"} for n in range(30)
    ],
    "questions": [
        {"question": f"q{n}?", "context": f"The {n} text", "answer": f"{n}"} for n in range(30)
    ],
}


@pytest.mark.parametrize("kind", ROWS)
def test_it_says_what_the_loaded_task_says(kind: str, call: Call, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "f.jsonl", ROWS[kind])
    test = jsonl(tmp_path / "t.jsonl", ROWS[kind][3:5])
    more: dict[str, Any] = {"on_broken": "skip"} if kind == "skipped" else {}
    line = f"data {path} " + "--on-broken skip " * (kind == "skipped")
    for extra, options in (("", {}), (f"--test {test}", {"test": test})):
        ended = call(line + extra)
        assert ended.code == 0, ended.err
        said = load_task(path, **more, **options).said()
        assert tuple(ended.out.splitlines()[: len(said)]) == said
        assert ended.out.splitlines()[len(said)] == ""
    assert "has a text" in ended.out or "have a text" in ended.out or "have a context" in ended.out


def table(out: str) -> dict[tuple[str, str], list[str]]:
    """Cells of the table of lengths, by split and what is counted."""
    found, split = {}, ""
    for line in out.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) == 9:
            split = cells[0] or split
            found[split, cells[1]] = cells[2:]
    return found


def test_lengths_are_the_tokenizers_own_and_cut_rows_are_counted(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    texts = [" ".join(["film"] * n) for n in range(1, 41)]
    rows = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)]
    other = jsonl(tmp_path / "t.jsonl", notes(4))
    path = jsonl(tmp_path / "n.jsonl", rows)
    ended = call(f"data {path} --dev {other} --test {other} --max-length 12")
    tokenizer = AutoTokenizer.from_pretrained(demo.encoder_dir())
    lengths = sorted(len(tokenizer(text)["input_ids"]) for text in texts)
    cut = sum(length > 12 for length in lengths)
    rows_, mean, median, *_, longest, lost = table(ended.out)["train", "text"]
    assert (rows_, mean) == ("40", f"{sum(lengths) / 40:.1f}")
    assert int(median) in lengths[19:21]
    assert (longest, lost) == (str(lengths[-1]), f"{cut} ({cut / 40:.1%})")
    assert f"train: {cut} rows ({cut / 40:.1%}) lose tokens" in ended.out
    assert re.search(r"longest first: \S*n\.jsonl:40, \S*n\.jsonl:39,", ended.out)


def test_prompt_and_answer_are_counted_as_training_encodes_them(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    rows = [
        {"instruction": f"say {'on ' * n}", "output": f"well {'so ' * (n % 5)}"} for n in range(20)
    ]
    path, test = jsonl(tmp_path / "i.jsonl", rows), jsonl(tmp_path / "t.jsonl", rows[:1])
    tokenizer = AutoTokenizer.from_pretrained(demo.decoder_dir())
    asked = "### Instruction:\n{}\n\n### Response:\n"

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    start = int(tokenizer.bos_token_id in tokenizer("")["input_ids"][:1])
    prompts = [start + count(asked.format(row["instruction"])) for row in rows]
    answers = [count(row["output"]) + 1 for row in rows]
    totals = [p + a for p, a in zip(prompts, answers, strict=True)]
    most = sorted(totals)[-4]
    found = table(call(f"data {path} --dev {test} --test {test} --max-length {most}").out)
    assert found["train", "prompt"][-2] == str(max(prompts))
    assert found["train", "answer"][-2] == str(max(answers))
    cut = sum(total > most for total in totals)
    assert 0 < cut < 4
    assert found["train", "prompt"][-1] == f"{cut} ({cut / 20:.1%})"


def test_windows_and_questions_are_counted(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    rows = [
        {"question": f"q {n}?", "context": f"{n} " + "film " * 50, "answer": str(n)}
        for n in range(6)
    ]
    path, test = jsonl(tmp_path / "q.jsonl", rows), jsonl(tmp_path / "t.jsonl", ROWS["questions"])
    ended = call(f"data {path} --dev {test} --test {test} --max-length 30 --doc-stride 8")
    tokenizer = AutoTokenizer.from_pretrained(demo.encoder_dir())
    windows = [
        len(
            tokenizer(
                row["question"],
                row["context"],
                truncation="only_second",
                max_length=30,
                stride=8,
                return_overflowing_tokens=True,
            )["input_ids"]
        )
        for row in rows
    ]
    found = table(ended.out)["train", "(windows)"]
    assert found[1] == f"{sum(windows) / 6:.1f}"
    assert found[-2] == str(max(windows))
    assert max(windows) > 1


def test_repeats_contradictions_leaks_and_odd_rows_have_their_lines(
    call: Call, tmp_path: Path
) -> None:
    planted = [
        {"text": "NOTE  4 is here", "label": "b"},  # line 41, as 5
        {"text": "Note 6 is here", "label": "a"},  # line 42, against 7
        {"text": "x", "label": "a"},  # line 43
        {"text": "a caf\u00c3\u00a9", "label": "rare"},  # line 44
        {"text": "film " * 400, "label": "a"},  # line 45
    ]
    path = jsonl(tmp_path / "n.jsonl", [*notes(40), *planted])
    test = jsonl(tmp_path / "t.jsonl", [*notes(3, 100), {"text": "note 8 IS here", "label": "b"}])
    dev = jsonl(tmp_path / "d.jsonl", notes(4, 200))
    ended = call(f"data {path} --dev {dev} --test {test} --max-length 32")
    here = tmp_path.name
    for line in (
        f"train: 2 rows (4.4%) with the text of an earlier one (1 but for case and spaces): "
        f"{here}/n.jsonl:41 as {here}/n.jsonl:5, {here}/n.jsonl:42 as {here}/n.jsonl:7",
        f"train: 1 of these with another label: {here}/n.jsonl:42 as {here}/n.jsonl:7",
        f"test: 1 row (25.0%) with a text of train: {here}/t.jsonl:4 as {here}/n.jsonl:9",
        f"1 train row has over 10 times 32 tokens: {here}/n.jsonl:45",
        f"1 train row has a text of one character: {here}/n.jsonl:43",
        f"class 'rare' has 1 train row: {here}/n.jsonl:44",
    ):
        assert line in ended.out.splitlines()
    assert f"\u00c3\u00a9): {here}/n.jsonl:44" in ended.out


def test_where_there_is_nothing_nothing_is_found(call: Call, tmp_path: Path) -> None:
    ended = call(f"data {jsonl(tmp_path / 'n.jsonl', notes(40))}")
    assert ended.out.splitlines()[-1] == "no row is cut, repeated or odd"


def test_always_the_commonest_class_is_scored_on_test(call: Call, tmp_path: Path) -> None:
    rows = [{"text": f"t {n}", "label": "ab"[n % 4 == 0]} for n in range(40)]
    test = jsonl(tmp_path / "t.jsonl", rows[:8])
    ended = call(f"data {jsonl(tmp_path / 'n.jsonl', rows)} --test {test}")
    assert "always the commonest answer of train: accuracy 0.7500 on test" in ended.out


@pytest.mark.parametrize("width", [60, 40])
def test_it_is_whole_on_a_narrow_terminal_and_in_ascii(
    width: int, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    ended = call(f"data {jsonl(tmp_path / 'n.jsonl', notes(40))}")
    assert ended.code == 0
    assert re.search(r"train *│ text|tokens of: text", ended.out)
    tables = [line for line in ended.out.splitlines() if line[:1] in "│┃┏└┡"]
    assert all(len(line) <= width for line in tables)


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([*notes(30), {"text": "", "label": "a"}], "", "n.jsonl:31: column 'text'"),
        (notes(30), "--max-length 9999", "--max-length 9999: this model reads"),
        (notes(30), "--model nowhere/nothing", "model 'nowhere/nothing' cannot be loaded"),
        (notes(30), "--label x", "no column 'x'"),
        (
            [{"instruction": "i", "output": "o " * (90 if n == 3 else 1)} for n in range(30)],
            "--max-length 40 --dev {0} --test {0}",
            "row 4: --max-length 40 has no room",
        ),
    ],
)
def test_what_training_refuses_is_refused(
    rows: list[dict[str, Any]], options: str, words: str, call: Call, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "n.jsonl", rows)
    test = jsonl(tmp_path / "t.jsonl", [{"instruction": "i", "output": "o"}])
    check_refused(call(f"data {path} {options.format(test)}"), words)
