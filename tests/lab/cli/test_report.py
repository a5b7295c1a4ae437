"""``ailora report``: a page, tables, and a page that is written again and again."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from ailora.lab.experiments.store import Failure
from ailora.lab.settings import RunConfig
from tests.commands import Call, check_refused
from tests.lab.report.stores import fair_store, full_run, store_of


@pytest.fixture
def filled(call: Call) -> None:
    """A folder with two runs, as a sweep leaves them, where the commands run."""
    store_of(Path("sweep"), [full_run(method, 0, 0.7) for method in ("lora", "ailora")])


@pytest.mark.usefixtures("filled")
def test_a_page_lies_in_the_folder_of_runs(call: Call) -> None:
    ended = call("report sweep")
    assert ended.code == 0, ended.err
    assert "2 finished" in ended.out
    assert "AILoRA" in Path("sweep/runs.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("filled")
def test_the_kind_of_file_is_told_by_its_name_or_by_format(call: Call) -> None:
    assert call("report sweep --out scores.md").code == 0
    assert "| AILoRA |" in Path("scores.md").read_text(encoding="utf-8").replace("accuracy", "")
    assert call("report sweep --format tex").code == 0
    assert r"\begin{tabular}" in Path("sweep/runs.tex").read_text(encoding="utf-8")


def test_a_folder_of_paper_or_compare_is_read_by_its_runs(call: Call) -> None:
    store_of(Path("paper/runs"), [full_run("ailora", 0, 0.7)])
    Path("paper/report.html").write_text("compare's own")
    assert call("report paper").code == 0
    assert Path("paper/runs.html").exists()
    assert Path("paper/report.html").read_text() == "compare's own"


@pytest.mark.usefixtures("filled")
def test_a_watched_page_takes_in_new_runs_until_it_is_stopped(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []

    def wait(seconds: float) -> None:
        pages.append(Path("sweep/runs.html").read_text(encoding="utf-8"))
        if len(pages) == 2:
            raise KeyboardInterrupt
        assert seconds == 3
        store_of(Path("sweep"), [full_run("pissa", 0, 0.7)])

    monkeypatch.setattr(time, "sleep", wait)
    ended = call("report sweep --watch --every 3")
    assert ended.code == 0, ended.err
    assert "3 finished" in ended.out
    assert ["PiSSA" in page for page in pages] == [False, True]
    assert all('http-equiv="refresh" content="3"' in page for page in pages)
    last = Path("sweep/runs.html").read_text(encoding="utf-8")
    assert "PiSSA" in last
    assert "http-equiv" not in last


def test_a_page_can_be_watched_before_there_is_a_run(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", wait)
    Path("sweep").mkdir()
    ended = call("report sweep --watch")
    assert ended.code == 0, ended.err
    assert "No run is finished yet" in Path("sweep/runs.html").read_text(encoding="utf-8")


def test_what_the_weights_did_is_measured_in_the_runs_themselves(
    call: Call, runs: dict[str, Path], reviews: Path
) -> None:
    for method in ("lora", "ailora", "full"):
        shutil.copytree(runs[method], Path("sweep") / runs[method].name)
    ended = call("report sweep --measure")
    assert ended.code == 0, ended.err
    page = Path("sweep/runs.html").read_text(encoding="utf-8")
    for words in ("W^Q: how much", "W^V: how much", "The trained A and B of W^Q", "How far W^Q"):
        assert words in page
    assert "What the tuned models say otherwise" in page
    (table,) = Path("sweep/figures").glob("*/figure4b.csv")
    assert set(pd.read_csv(table)["on"]) == {str(reviews)}


def test_forgetting_is_measured_on_the_texts_of_the_task_given(
    call: Call, runs: dict[str, Path], reviews: Path
) -> None:
    shutil.copytree(runs["lora"], Path("sweep") / runs["lora"].name)
    shutil.copytree(reviews, "others")
    assert call("report sweep --measure --texts others").code == 0
    (table,) = Path("sweep/figures").glob("*/figure4b.csv")
    assert set(pd.read_csv(table)["on"]) == {"others"}
    check_refused(call("report sweep --measure --texts nosuch"), "no task, file or folder")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("report nowhere", "nowhere: no such folder"),
        ("report empty", "there are no runs in it"),
        ("report sweep --format pdf", "--format 'pdf': must be html, md, tex"),
        ("report sweep --watch --format md", "only a page can be watched"),
        ("report sweep --out sweep", "sweep"),
    ],
)
@pytest.mark.usefixtures("filled")
def test_bad_input_is_named_in_one_line(line: str, words: str, call: Call) -> None:
    Path("empty").mkdir()
    check_refused(call(line), words)


def test_a_folder_of_the_fair_protocol_gets_its_page_and_every_run_where_asked(call: Call) -> None:
    fair_store(Path("fair/runs"), ["lora", "pissa"])
    ended = call("report fair")
    assert ended.code == 0, ended.err
    page = Path("fair/report.html").read_text(encoding="utf-8")
    assert "Use LoRA at learning rate 0.001" in page
    assert "Not done yet" not in page
    assert not Path("fair/runs.html").exists()
    assert call("report fair --format md").code == 0
    assert "Use LoRA at" in Path("fair/report.md").read_text(encoding="utf-8")
    assert call("report fair --format tex").code == 0
    assert r"\toprule" in Path("fair/report.tex").read_text(encoding="utf-8")

    assert call("report fair --runs").code == 0
    assert "How to repeat it" in Path("fair/runs.html").read_text(encoding="utf-8")


def test_a_fair_comparison_is_watched_from_its_first_run_to_its_end(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []
    Path("fair").mkdir()
    fair_store(Path("fair"), ["lora", "pissa"], most=3)

    def wait(_: float) -> None:
        pages.append(Path("fair/report.html").read_text(encoding="utf-8"))
        if len(pages) == 3:
            raise KeyboardInterrupt
        shutil.rmtree("fair")
        fair_store(Path("fair"), ["lora", "pissa"], most=25 if len(pages) == 1 else 1000)

    monkeypatch.setattr(time, "sleep", wait)
    ended = call("report fair --watch")
    assert ended.code == 0, ended.err
    assert "30 finished" in ended.out
    first, half, last = pages
    assert (
        "Not done yet: LoRA (12 more runs at least), PiSSA (q, v) (15 more runs at least)" in first
    )
    assert "no setting has a reported run" in first
    assert "So far: Use LoRA at learning rate 0.001" in half
    assert "Not done yet" not in last
    assert all('http-equiv="refresh"' in page for page in pages)


def test_the_curves_so_far_are_shown_before_any_score_is_reported(call: Call) -> None:
    fair_store(Path("fair"), ["lora", "pissa"], most=12)
    assert call("report fair").code == 0
    page = Path("fair/report.html").read_text(encoding="utf-8")
    assert "LoRA (5 more runs at least)" in page
    assert "no setting has a reported run" in page
    assert "100 rows to train on" in page
    assert "accuracy on selection rows" in page  # the picture's axis
    assert "Best to best" not in page
    assert page.count("Learning rates") == 1
    assert call("report fair --format md").code == 0
    words = Path("fair/report.md").read_text(encoding="utf-8")
    assert "| LoRA | 0.001 |" in words
    assert "verdict" not in words  # no empty table


def test_a_copied_folder_has_the_same_page(call: Call) -> None:
    fair_store(Path("fair"), ["lora", "pissa"])
    shutil.copytree("fair", "elsewhere/copy")
    assert call("report fair --format md").code == 0
    here = Path("fair/report.md").read_text(encoding="utf-8")
    shutil.rmtree("fair")
    assert call("report elsewhere/copy --format md").code == 0
    assert Path("elsewhere/copy/report.md").read_text(encoding="utf-8") == here


def test_a_run_that_failed_is_named_and_wanted_again(call: Call) -> None:
    store = fair_store(Path("fair"), ["lora", "pissa"])
    lost = next(run for run in store.runs() if run.config["seed"] == 6)
    shutil.rmtree(store.path / lost.run_id)
    store.fail(lost.run_id, Failure(config=lost.config, kind="memory", reason="none was left"))
    assert call("report fair").code == 0
    page = Path("fair/report.html").read_text(encoding="utf-8")
    assert f"{lost.run_id} failed: none was left; the same command tries it again" in page
    assert "(1 more run at least)" in page


@pytest.mark.parametrize("seeds", ["3", "[1e999]", "[2.5]", "[{}]"])
def test_a_record_that_is_none_leaves_the_ordinary_page(seeds: str, call: Call) -> None:
    store_of(Path("sweep"), [full_run("lora", 0, 0.7)])
    settings = json.dumps(asdict(RunConfig()))
    text = f'{{"settings": [{settings}], "choose": {seeds}, "report": [1], "halving": false, '
    Path("sweep/fair.json").write_text(text + '"data": ["a"], "command": "a"}')
    Path("sweep/sweep.json").write_text('{"runs": [], "ended": 1e999, "began": 0}')
    assert call("report sweep").code == 0
    assert Path("sweep/runs.html").exists()
