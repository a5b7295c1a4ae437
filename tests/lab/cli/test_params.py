"""``ailora params``: the paper's counts, from configs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.methods.architectures import TABLE_4, TABLE_5
from tests.commands import Call, check_refused

# RoBERTa-large, from its sizes: 24 layers of width 1024, feed-forward 4096.
BODY = (50265 + 514 + 1 + 2) * 1024 + 24 * (
    4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
)
HEAD = 1024 * 1024 + 1024 + 2 * 1024 + 2
LORA = 24 * 2 * 8 * 2048
WITHOUT_HEAD = {
    "full": BODY,
    "houlsby": 24 * 2 * (2 * 64 * 1024 + 64 + 1024),
    "bitfit": 24 * (5 * 1024 + 4096 + 2 * 1024) + 1024,
    "dora": LORA + 24 * 2 * 1024,
    "rslora": LORA,
    "vera": 24 * 2 * (256 + 1024),
    "ailora": LORA,
}


def rows(call: Call, line: str) -> dict[str, dict[str, Any]]:
    ended = call(f"params --json {line}")
    assert ended.code == 0, ended.err
    return {row["label"]: row for row in json.loads(ended.out)}


def test_table_4_comes_out_with_the_head_in_four_rows_of_seven(call: Call) -> None:
    found = {row["method"]: row for row in rows(call, "--table 4").values()}
    assert found.keys() == TABLE_4.keys()
    for name, row in found.items():
        assert row["adapter"] == WITHOUT_HEAD[name], name
        assert row["head"] == HEAD
        counted = row["adapter"] if row["paper_counts"] == "adapter" else row["trainable"]
        assert f"{counted / 1e6:.2f}" == f"{TABLE_4[name]:.2f}" == f"{row['paper_millions']:.2f}"
    with_head = {name for name, row in found.items() if row["paper_counts"] == "both"}
    assert with_head == {"full", "houlsby", "bitfit", "vera"}


def test_table_5_is_one_budget(call: Call) -> None:
    found = rows(call, "--table 5")
    assert found.keys() == TABLE_5.keys()
    assert {row["adapter"] for row in found.values()} == {LORA}
    assert {row["paper_counts"] for row in found.values()} == {"adapter"}


def test_the_table_shows_both_sums_and_which_is_the_papers(call: Call) -> None:
    ended = call("params --method houlsby,dora")
    assert ended.code == 0
    lines = {line.split("│")[1].strip(): line for line in ended.out.splitlines() if "│ " in line}
    assert "7,395,330" in lines["adapters (Houlsby)"]
    assert "7.40M (both)" in lines["adapters (Houlsby)"]
    assert "0.84M (adapter)" in lines["DoRA"]
    assert "counts the classifier in some of its rows" in ended.out


def test_other_settings_stand_beside_no_number_of_the_paper(call: Call) -> None:
    for line in ("--method dora --rank 4", "--method dora --labels 3"):
        assert rows(call, line)["DoRA"]["paper_millions"] is None


@pytest.mark.parametrize(
    ("name", "total"),
    [
        # the sums that the models' own pages and reports give, in full
        ("bart-large", 406_291_456),
        ("llama-2-7b", 6_738_415_616),
        ("deberta-v3-base", 184_423_682),
    ],
)
def test_the_named_models_have_their_published_sizes(name: str, total: int, call: Call) -> None:
    assert rows(call, f"--model {name} --method full")["full fine-tuning"]["all"] == total


def test_a_method_that_does_not_fit_says_so_in_its_row(call: Call, tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = {"model_type": "llama", "intermediate_size": 48, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = rows(call, f"--model {tmp_path} --method bitfit,ailora --rank 2")
    assert "has none" in found["BitFit"]["note"]
    assert "adapter" not in found["BitFit"]
    assert found["AILoRA"]["adapter"] == 2 * 2 * 64
    shown = call(f"params --model {tmp_path} --method bitfit,ailora --rank 2").out
    assert "has none" in " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--table 6", "--table 6: must be 4 or 5"),
        ("--table 4 --rank 4", "leave out --model, --method and --rank"),
        ("--method dorra", "did you mean 'dora'?"),
        ("--model ./nowhere", "model './nowhere': its config cannot be read"),
        ("--rank 0", "--rank 0: must be at least 1"),
        ("--labels 0", "--labels 0: must be at least 1"),
        ("--method ,", "give at least one name"),
    ],
)
def test_bad_input_is_refused(line: str, words: str, call: Call) -> None:
    check_refused(call(f"params {line}"), words)
