"""``ailora analyze`` and ``ailora inspect --spectra`` from the outside."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import transformers as hf

from tests.commands import Call, Ended, check_refused

SMALL = "--rank 2 --epochs 1 --batch-size 8"


@pytest.fixture
def run(call: Call, tiny_model: Path, reviews: Path) -> dict[str, str]:
    """A run of AILoRA and one of full fine-tuning, trained as a user would."""
    found = {}
    for method in ("ailora", "full"):
        done = call(f"train --model {tiny_model} --task {reviews} {SMALL} --method {method}")
        assert done.code == 0, done.err
        (found[method],) = map(str, Path("runs").glob(f"{method}-*"))
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def said(ended: Ended) -> str:
    assert ended.code == 0, ended.err
    return " ".join(ended.out.split())


def test_a_run_beside_full_fine_tuning(call: Call, run: dict[str, str]) -> None:
    ended = call(f"analyze {run['ailora']} --full {run['full']} --out tables")
    text = said(ended)
    assert "||dW|| / ||W||" in text
    assert "similarity to full fine-tuning's dW" in text
    assert "Intruder dimensions" in text
    assert "Mind:" not in text
    assert max(map(len, ended.out.splitlines())) <= 80
    rows = rows_of(Path("tables/layers.csv"))
    assert [(row["layer"], row["role"]) for row in rows] == [
        ("0", "q"),
        ("0", "v"),
        ("1", "q"),
        ("1", "v"),
    ]
    updates = json.loads(Path(run["ailora"], "result.json").read_text())["updates"]
    for row, update in zip(rows, updates, strict=True):
        assert float(row["norm"]) == pytest.approx(update["norm"], rel=1e-6)
        assert 0 <= float(row["factors_left"]) <= 1
        assert float(row["random_left"]) == 2 / 32


def test_json_is_one_object_of_the_same_rows(call: Call, run: dict[str, str]) -> None:
    found = json.loads(call(f"analyze {run['ailora']} --json --no-intruders").out)
    assert len(found["rows"]) == 4
    assert {row["intruders"] for row in found["rows"]} == {None}
    assert {row["factors_left"] for row in found["rows"]} == {None}
    assert found["words"]
    assert found["texts"] is None


def test_texts_without_a_head_are_compared_by_hidden_states(
    call: Call, run: dict[str, str]
) -> None:
    Path("texts.txt").write_text("the film was good\na poor plot\n", encoding="utf-8")
    text = said(call(f"analyze {run['ailora']} --texts texts.txt"))
    assert "On 2 texts the last hidden states moved by" in text
    assert "Forgetting was not measured" in text


def test_two_models(call: Call, run: dict[str, str], tiny_model: Path) -> None:
    adapter = Path(run["full"], "adapter")
    text = said(call(f"analyze {tiny_model} {adapter} --out tables"))
    assert "n = 8" in text
    before = hf.AutoModel.from_pretrained(tiny_model).encoder.layer[0].attention.self.query.weight
    after = hf.AutoModel.from_pretrained(adapter).encoder.layer[0].attention.self.query.weight
    exact = np.linalg.norm((after - before).detach().numpy())
    assert float(rows_of(Path("tables/layers.csv"))[0]["norm"]) == pytest.approx(exact, rel=1e-4)
    same = said(call(f"analyze {tiny_model} {tiny_model}"))
    assert "None of the 8 projections moved" in same


def test_one_models_spectra(call: Call, tiny_model: Path) -> None:
    text = said(call(f"analyze {tiny_model} --rank 3 --out tables"))
    assert "the principal 3 hold" in text
    assert len(rows_of(Path("tables/spectra.csv"))) == 8
    values = rows_of(Path("tables/singular_values.csv"))
    assert len(values) == 8 * 32
    chosen = [int(row["index"]) for row in values if row["chosen"] == "True"]
    assert chosen == [0, 1, 2, 29, 30, 31] * 2


def test_inspect_shows_spectra_within_80_columns(call: Call, tiny_model: Path) -> None:
    ended = call(f"inspect {tiny_model} --spectra --rank 4")
    assert "first 4" in said(ended)
    assert "last 4" in said(ended)
    assert max(map(len, ended.out.splitlines())) <= 80
    assert len(re.findall(r"^ +[01] +[qkvo] ", ended.out, re.MULTILINE)) == 8
    assert call(f"inspect {tiny_model}").code == 0


def test_what_cannot_be_analysed_is_refused(
    call: Call, run: dict[str, str], tiny_model: Path
) -> None:
    check_refused(call("analyze ./nowhere"), "no such folder")
    check_refused(call(f"analyze {run['ailora']} {tiny_model}"), "--full")
    check_refused(
        call(f"analyze {tiny_model} --full {run['full']}"), "is for the analysis of a run"
    )
    check_refused(call(f"analyze {run['ailora']} --full {run['ailora']}"), "method 'full'")
    check_refused(call(f"analyze {run['ailora']} --texts missing.txt"), "cannot be read")
    check_refused(call(f"analyze {tiny_model} --rank 99"), "rank=99")
