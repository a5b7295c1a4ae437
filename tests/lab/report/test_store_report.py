"""What a report says of a folder of runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.sweep import Agenda
from ailora.lab.experiments.sweep_file import read_sweep_file
from ailora.lab.report.store_report import StoreReport, store_report
from ailora.lab.training import RunConfig
from ailora.lock import held
from tests.lab.report.stores import failed_in, full_run, store_of


def made(path: Path, **changes: object) -> StoreReport:
    """Two methods at two rates with three seeds, on one task."""
    runs = [
        full_run(method, seed, 0.7 + base + seed / 100, lr=lr, **changes)
        for method, base in (("lora", 0.0), ("ailora", 0.05))
        for lr in (1e-3, 2e-3)
        for seed in (0, 1, 2)
    ]
    for run in runs:
        run["metrics"]["selection"]["accuracy"] += 0.1 * (run["config"]["lr"] == 2e-3)
    return store_report(store_of(path, runs).runs(), "a title")


def test_scores_are_of_each_settings_best_rate_by_the_selection_split(tmp_path: Path) -> None:
    (table,) = made(tmp_path).scores
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["method"] for row in rows] == ["LoRA", "AILoRA"]
    assert [row["measured, demo: mean ± s.d."] for row in rows] == ["71.00 ± 1.00", "76.00 ± 1.00"]
    assert [row["lr"] for row in rows] == ["0.002", "0.002"]
    assert rows[1]["measured, demo: minus LoRA [95 % CI]"].startswith("+5.00")


def test_runs_at_other_rates_are_listed_and_marked(tmp_path: Path) -> None:
    rows = made(tmp_path).runs
    assert len(rows) == 12
    assert {row[4] for row in rows} == {"0.001 (not chosen)", "0.002"}


def test_a_part_is_of_one_task_model_and_rank(tmp_path: Path) -> None:
    runs = [
        full_run(method, 0, 0.7, rank=rank, task=task, model=model)
        for method in ("lora", "ailora")
        for rank, task, model in (
            (4, "movies", "demo"),
            (8, "movies", "demo"),
            (8, "cola", "demo"),
            (8, "movies", "other/model"),
        )
    ]
    parts = store_report(store_of(tmp_path, runs).runs(), "t").parts
    assert {part.title for part in parts} == {
        "movies with demo, rank 4",
        "movies with demo, rank 8",
        "cola with demo, rank 8",
        "movies with other/model, rank 8",
    }
    assert len({part.name for part in parts}) == 4
    assert all(part.comparison.methods == ["lora", "ailora"] for part in parts)
    assert all(part.name.replace("-", "").isalnum() for part in parts)


def test_names_of_parts_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    runs = [full_run("lora", 0, 0.7, task="../../etc/passwd", model="/a/../b")]
    (part,) = store_report(store_of(tmp_path, runs).runs(), "t").parts
    assert "/" not in part.name
    assert "." not in part.name


def test_what_failed_or_was_cut_off_is_told_with_its_reason(tmp_path: Path) -> None:
    store = store_of(tmp_path, [full_run("lora", 0, 0.7)])
    failed_in(store, "the loss is nan at step 3", method="pissa", lr=1e-3)
    (store.path / "ailora-task-0123456789").mkdir()
    report = store_report(store.runs(), "t")
    assert report.counted == "1 finished, 1 failed, 1 unknown"
    by_state = {row[1]: row for row in report.unfinished}
    assert by_state["failed"][2:] == ["pissa", "0.001", "0", "the loss is nan at step 3"]
    assert report.parts[0].comparison.failed[0]["error"] == "the loss is nan at step 3"


def test_three_seeds_conclude_nothing(tmp_path: Path) -> None:
    assert any("nothing can be concluded" in words for words in made(tmp_path).conclusions)


@pytest.mark.parametrize(("task", "tables"), [("movies", 0), ("cola", 2)])
def test_published_scores_stand_beside_those_of_the_same_task_alone(
    tmp_path: Path, task: str, tables: int
) -> None:
    found = made(tmp_path, task=task).published
    assert len(found) == tables
    for table in found:
        assert {row[0] for row in table.rows} == {"CoLA (mcc)"}


def test_the_plan_does_the_same_runs_again(tmp_path: Path) -> None:
    report = made(tmp_path / "store")
    plan = tmp_path / "again.toml"
    plan.write_text(report.plan, encoding="utf-8")
    stored = [RunConfig.from_json(run["config"]) for run in report.results]
    assert {c.run_id("t", "0") for c in distinct(read_sweep_file(plan))} == {
        c.run_id("t", "0") for c in stored
    }


def test_a_result_that_lacks_something_is_told_and_left_out(tmp_path: Path) -> None:
    broken = full_run("pissa", 0, 0.9)
    del broken["history"], broken["updates"]
    report = store_report(store_of(tmp_path, [full_run("lora", 0, 0.7), broken]).runs(), "t")
    assert [run["config"]["method"] for run in report.results] == ["lora"]
    assert report.unfinished[0][-1] == "its result.json lacks history, updates"


def test_a_sweep_that_goes_on_tells_what_is_ahead(tmp_path: Path) -> None:
    store = store_of(tmp_path, [full_run("lora", seed, 0.7) for seed in (0, 1)])
    names = tuple(run.run_id for run in store.runs())
    runs = (*names, "a-b-0123456789", "later", "last")
    agenda = Agenda(runs=runs, ended=0, began=time.time() - 60)
    with held(tmp_path / "a-b-0123456789"):
        counted = store_report(store.runs(), "t", agenda=agenda).counted
    assert counted == "2 finished, 1 running, 2 not begun, about 2 min left"
    assert store_report(store.runs(), "t", agenda=agenda).counted == "2 finished, 3 not begun"


def test_an_empty_folder_is_a_report_too(tmp_path: Path) -> None:
    report = store_report(store_of(tmp_path / "none", []).runs(), "t")
    assert report.counted == "no runs"
    assert report.scores == report.parts == report.published == []


def test_of_two_rates_one_of_which_always_diverges_one_true_thing_is_said(tmp_path: Path) -> None:
    runs = [full_run(method, seed, 0.7) for method in ("lora", "ailora") for seed in (0, 1)]
    store = store_of(tmp_path, runs)
    for method in ("lora", "ailora"):
        for seed in (0, 1):
            failed_in(store, "diverged", method=method, seed=seed, lr=1e9)
    report = store_report(store.runs())
    (part,) = report.parts
    said = part.comparison.caveat
    assert part.comparison.chosen == "selected"
    assert "its own best learning rate, which is the only one at which it finished" in said
    assert "every run at 1e+09 failed" in said
    assert "at one learning rate" not in said
    assert "give several" not in said
    plan = tmp_path / "again.toml"
    plan.write_text(report.plan, encoding="utf-8")
    again = distinct(read_sweep_file(plan))
    assert {(run.method, run.seed, run.lr) for run in again} == {
        (method, seed, lr) for method in ("lora", "ailora") for seed in (0, 1) for lr in (1e-3, 1e9)
    }
    assert "1e+09" in report.plan
    assert {row[3] for row in report.unfinished} == {"1e+09"}


def test_a_rate_that_failed_for_one_method_alone_is_said_of_it(tmp_path: Path) -> None:
    store = store_of(tmp_path, [full_run("lora", 0, 0.7), full_run("ailora", 0, 0.7, lr=5e-3)])
    failed_in(store, "diverged", method="lora", lr=1e9)
    failed_in(store, "diverged", method="ailora", lr=2e9)
    (part,) = store_report(store.runs()).parts
    assert "every run of LoRA at 1e+09; of AILoRA at 2e+09 failed" in part.comparison.caveat


def test_a_damaged_result_is_listed_with_the_reason(tmp_path: Path) -> None:
    store = store_of(tmp_path, [full_run("lora", 0, 0.7), full_run("ailora", 0, 0.7)])
    (path,) = tmp_path.glob("ailora*/result.json")
    content = json.loads(path.read_text()) | {"metrics": {"selection": {}, "test": {}}}
    path.write_text(json.dumps(content))
    report = store_report(store.runs())
    assert report.counted == "1 finished, 1 damaged"
    ((name, state, *_, why),) = report.unfinished
    assert (name, state) == (path.parent.name, "damaged")
    assert "it has no accuracy on the selection split" in why
