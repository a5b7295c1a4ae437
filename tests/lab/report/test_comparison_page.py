"""The page that ``ailora compare`` leaves, with its figures and its summary beside it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.experiments.store import Stored
from ailora.lab.report.page import write_comparison
from ailora.lab.report.store_report import store_report
from tests.lab.report.looking import BROWSER, browse, parsed
from tests.lab.report.stores import failed, finished, full_run

EVIL = "<script>alert('x')</script><img src=http://evil.example/x>"
NAMES = ("training_loss", "selection_score", "update_norms")


@pytest.fixture
def runs() -> list[dict[str, Any]]:
    return [full_run(m, s, 0.7 + s / 100) for m in ("lora", "ailora") for s in (0, 1)]


def written(stored: list[Stored], out: Path, command: str = "ailora compare") -> Path:
    return write_comparison(store_report(stored), out, command=command, seconds=1.0)


def page_of(runs: list[dict[str, Any]], out: Path, *others: Stored, **options: Any) -> str:
    return written([*finished(runs), *others], out, **options).read_text(encoding="utf-8")


def test_page_needs_no_network_and_no_scripts(runs: list[Any], tmp_path: Path) -> None:
    page = page_of(runs, tmp_path)
    found = parsed(page)
    assert "script" not in found.tags
    assert all(address.startswith("#") for address in found.loads)
    assert not re.search(r"url\((?!#|['\"]?#)", page)
    assert found.tags.count("svg") == 3


def test_the_scores_come_first_under_the_methods_names(runs: list[Any], tmp_path: Path) -> None:
    page = page_of(runs, tmp_path)
    assert "<h1>LoRA, AILoRA</h1>" in page
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings[0] == "Scores"
    assert "The methods" in headings
    assert "the principal part of q, the minor part of v" in page


def test_texts_of_strangers_do_nothing(runs: list[Any], tmp_path: Path) -> None:
    for made in runs:
        made["config"] |= {"task": EVIL, "model": EVIL}
        made["data"] |= {"labels": [EVIL, EVIL], "notes": [EVIL]}
    bad = failed(EVIL, method=EVIL, task=EVIL, model=EVIL)
    found = parsed(page_of(runs, tmp_path, bad, command=EVIL))
    assert "script" not in found.tags
    assert "img" not in found.tags


def test_a_method_of_a_stranger_is_escaped_inside_the_figures(tmp_path: Path) -> None:
    made = full_run("lora", 0, 0.7)
    made["config"]["method"] = EVIL
    found = parsed(page_of([made], tmp_path))
    assert "script" not in found.tags
    assert "img" not in found.tags


def test_ids_of_the_figures_do_not_clash(runs: list[Any], tmp_path: Path) -> None:
    ids = parsed(page_of(runs, tmp_path)).ids
    assert len(ids) > 30
    assert len(ids) == len(set(ids))


def test_one_rate_is_said_to_rank_nothing(runs: list[Any], tmp_path: Path) -> None:
    assert "No ranking of methods" in page_of(runs, tmp_path)


def test_own_rates_show_the_search(runs: list[Any], tmp_path: Path) -> None:
    others = [full_run(m, 0, 0.5, lr=2e-3) for m in ("lora", "ailora")]
    gone = failed("diverged", method="lora", lr=9.0)
    page = page_of([*runs, *others], tmp_path, gone)
    assert "No ranking" not in page
    assert "Choosing the rate" in page
    assert "0.5100 (1 of 2 seeds)" in page
    assert "<td>failed</td>" in page


@pytest.mark.parametrize("seeds", [1, 2])
def test_page_holds_no_nan_and_no_none(tmp_path: Path, seeds: int) -> None:
    made = [full_run(m, s, 0.7) for m in ("lora", "ailora") for s in range(seeds)]
    for each in made:
        each["majority"] = each["data"]["labels"] = None  # as in regression
    page = page_of(made, tmp_path)
    text = re.sub(r"<(svg|pre|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert "commonest" not in text


def test_every_machine_is_named_once(runs: list[Any], tmp_path: Path) -> None:
    runs[1]["environment"] = {"cpu": "another"}
    page = page_of(runs, tmp_path)
    assert page.count("cpu some") == page.count("cpu another") == 1


def test_a_verdict_at_one_rate_is_bound_to_that_rate(runs: list[Any], tmp_path: Path) -> None:
    assert "At this one rate: AILoRA" in page_of(runs, tmp_path)


def test_the_command_and_the_sweep_file_do_it_again(runs: list[Any], tmp_path: Path) -> None:
    runs[0]["data"]["notes"] = ["two rows dropped"]
    page = page_of(runs, tmp_path, command="ailora compare --rank 4")
    assert "<pre>ailora compare --rank 4</pre>" in page
    assert "[[grid]]" in page
    assert "two rows dropped" in page


def test_summary_in_markdown_has_the_caveat_before_the_scores(
    runs: list[Any], tmp_path: Path
) -> None:
    page_of(runs, tmp_path)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    row = "| AILoRA | 0.7050 ± 0.0071 |"
    assert 0 < text.index("No ranking of methods") < text.index(row)


def test_failed_runs_are_shown_with_their_reason(runs: list[Any], tmp_path: Path) -> None:
    page = page_of(runs, tmp_path, failed("training diverged", method="pissa", lr=9.0, seed=3))
    assert "Not finished" in page
    assert "training diverged" in page


def test_figures_lie_beside_with_the_data_they_were_drawn_from(
    runs: list[Any], tmp_path: Path
) -> None:
    page_of(runs, tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in NAMES for kind in ("svg", "png", "csv")}
    with (tmp_path / "figures" / "training_loss.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * 3
    losses = {float(r["loss"]) for r in rows if (r["seed"], r["step"]) == ("1", "10")}
    assert losses == {0.61}


def test_figures_of_several_ranks_lie_in_a_folder_each(runs: list[Any], tmp_path: Path) -> None:
    page = page_of([*runs, full_run("lora", 0, 0.6, rank=4)], tmp_path)
    folders = list((tmp_path / "figures").iterdir())
    assert len(folders) == 2
    assert all((folder / f"{name}.svg").exists() for folder in folders for name in NAMES)
    ids = parsed(page).ids
    assert len(ids) == len(set(ids))


def test_the_same_runs_give_the_same_page(runs: list[Any], tmp_path: Path) -> None:
    assert page_of(runs, tmp_path / "a") == page_of(runs, tmp_path / "b")


def wide() -> list[Stored]:
    """All that can make a page wide: methods, rates, a long reason, texts without a space."""
    endless = "/data/" + "x" * 200 + ".csv"
    runs = [
        full_run(method, 0, 0.7, lr=1e-4 * 2**power, task=endless, model=endless)
        for method in ("lora", "pissa", "milora", "ailora", "reailora")
        for power in range(8)
    ]
    for made in runs:
        made["data"] |= {"labels": [endless], "notes": ["y" * 200]}
    return [*finished(runs), failed(endless, method="lora", lr=1.0, task=endless, model=endless)]


@BROWSER
@pytest.mark.parametrize("width", [360, 1280])
def test_a_real_browser_shows_it_without_sideways_scrolling(tmp_path: Path, width: int) -> None:
    page = written(wide(), tmp_path / "out", "ailora compare --task " + "x" * 200)
    seen = browse(page, width, tmp_path)
    assert seen.client > width - 20  # less a vertical scroll bar
    assert seen.scroll <= seen.client
    assert len(seen.pictures) == 3
    assert min(seen.pictures) > 100
    assert seen.complaints == []


def test_a_task_of_generated_text_shows_the_loss_along_the_run(
    runs: list[Any], tmp_path: Path
) -> None:
    for made in runs:
        for entry in made["history"]:
            entry["selection_loss"] = entry.pop("accuracy") + 1
    page_of(runs, tmp_path)
    with (tmp_path / "figures" / "selection_score.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["selection_loss"] for row in rows if row["step"] == "0"} == {"1.5"}
