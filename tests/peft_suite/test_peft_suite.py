"""A seeded tenth of PEFT's own tests, and that the comparison with stock LoRA can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from tests.lines import add_line, read_lines
from tests.peft_suite import archive, verdicts
from tests.peft_suite.__main__ import report, run

REFUSAL = (
    'selection.py:1 ailora.errors.UserError: roles["*"] starts from the spectrum, and emb is no '
    "linear layer; leave it out of target_modules"
)


def line(outcome: str = "passed", error: str = "", **more: Any) -> dict[str, Any]:
    counted = {"configs": 1, "wrapped": 1, "anchored": 2, "bare": 0}
    return {"case": "test_a.py::test[emb]", "outcome": outcome, "error": error, **counted, **more}


def verdict(stock: dict[str, Any], ours: dict[str, Any] | None) -> str | None:
    return verdicts.verdict(stock, ours, verdicts.reasons())


def test_what_passes_with_both_is_as_stock() -> None:
    assert verdict(line(), line()) == "as stock"


def test_what_anchors_nothing_is_not_as_stock() -> None:
    assert verdict(line(), line(bare=1)) == "bug"


@pytest.mark.parametrize("outcome", ["failed", "skipped", "xfailed"])
def test_what_stock_lora_passes_and_we_do_not_is_a_bug(outcome: str) -> None:
    assert verdict(line(), line(outcome, "AssertionError")) == "bug"


def test_what_fails_for_a_listed_reason_has_its_name() -> None:
    assert verdict(line(), line("failed", REFUSAL)) == "no linear layer"


def test_what_stock_lora_does_not_run_tells_nothing() -> None:
    hub = line("failed", "hub.py:1 OSError: We couldn't connect to 'https://huggingface.co'")
    assert verdict(hub, None) == "hub"
    assert verdict(line("failed", "AssertionError"), None) == "stock fails"
    assert verdict(line("skipped"), None) == "skipped by PEFT's tests"
    assert verdict(line(configs=0), None) == "makes no LoRA config"


def test_a_case_that_was_not_run_yet_has_no_verdict() -> None:
    assert verdict(line(), None) is None


def test_every_reason_says_why_and_has_a_name_of_its_own() -> None:
    listed = verdicts.reasons()
    assert all(reason.why and reason.error for reason in listed)
    assert len({reason.name for reason in listed}) == len(listed)


def test_a_bug_ends_the_command_with_an_error(tmp_path: Path) -> None:
    assert report(tmp_path, {}, [line()], [line()]) == 0
    assert report(tmp_path, {}, [line()], [line("failed", "AssertionError")]) == 1
    assert json.loads((tmp_path / "summary.json").read_text())["counts"] == {"bug": 1}


def test_a_record_goes_on_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    add_line(path, {"case": "a"})
    with path.open("a") as file:
        file.write('{"case": "b", "outc')
    add_line(path, {"case": "c"})
    assert [entry["case"] for entry in read_lines(path)] == ["a", "c"]


def test_results_of_another_share_are_not_mixed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(archive, "obtain", lambda: (tmp_path, "a checkout"))
    (tmp_path / "run.json").write_text('{"source": "a checkout"}')
    with pytest.raises(UserError, match="give another folder"):
        run(tmp_path, share=0.5)


@pytest.mark.slow
def test_a_tenth_of_peft_s_tests_is_as_with_stock_lora(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="PEFT's tests import diffusers")
    try:
        archive.obtain()
    except UserError as error:
        pytest.skip(str(error))
    ended = run(tmp_path, share=0.1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert ended == 0, summary["counts"]
    assert summary["cases_as_stock_that_start"] >= 60
    assert summary["anchored_layers_as_stock"] >= 60
