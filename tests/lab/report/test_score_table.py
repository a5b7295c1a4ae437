"""Measured scores beside published ones."""

from __future__ import annotations

import random
from typing import Any

from rich.console import Console
from scipy import stats

from ailora.lab.report.published import paper_table
from ailora.lab.report.score_lines import conclusions, lines_of
from ailora.lab.report.score_table import ScoreTable, score_table
from tests.lab.report.runs import run

SCORES = {
    "lora": [0.60, 0.64, 0.62, 0.61, 0.65],
    "ailora": [0.63, 0.65, 0.66, 0.62, 0.67],
}


def glue_run(method: str, seed: int, test: float, task: str = "cola", **changes: Any) -> Any:
    """A run of a GLUE set by its headline metric; selection is 0.01 above test."""
    found = run(method, seed, test, task=task, **{"ranks": None, **changes})
    metric = {"cola": "mcc", "rte": "accuracy", "mrpc": "f1", "stsb": "spearman"}.get(task, "mcc")
    found["data"]["metric"] = metric
    found["metrics"] = {"selection": {metric: test + 0.01}, "test": {metric: test}}
    return found


def five(task: str = "cola", **changes: Any) -> list[Any]:
    return [
        glue_run(method, seed, score, task, **changes)
        for method, scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]


def cells(table: ScoreTable, label: str, method: str) -> dict[str, str]:
    (row,) = [row for row in table.rows if row[0].startswith(label) and row[1] == method]
    return dict(zip(table.header, row, strict=True))


def test_published_and_measured_scores_stand_in_columns_of_their_own() -> None:
    table = score_table("t", paper_table("table1"), five())
    found = cells(table, "CoLA", "AILoRA")
    assert found["paper, roberta-large"] == "69.3"
    assert found["paper, deberta-v3-base"] == "70.5"
    assert found["measured, demo: mean ± s.d."] == "64.60 ± 2.07"
    assert found["n"] == "5"
    papers = [place for place, title in enumerate(table.header) if title.startswith("paper")]
    measured = [place for place, title in enumerate(table.header) if "measured" in title]
    assert papers
    assert measured
    assert not set(papers) & set(measured)
    for row in table.rows:
        if row[0].startswith("CoLA"):
            continue
        assert {row[place] for place in measured} == {"-"}


def test_all_of_the_papers_scores_are_there_as_printed() -> None:
    for number in (1, 6):
        paper = paper_table(f"table{number}")
        shown = [cell for row in score_table("t", paper, five()).rows for cell in row]
        places = 2 if number == 6 else 1
        for row in paper.rows:
            assert {f"{score:.{places}f}" for score in row.scores} <= set(shown)


def test_difference_is_paired_by_seed_with_its_interval() -> None:
    found = cells(score_table("t", paper_table("table1"), five()), "CoLA", "AILoRA")
    differences = [100 * (a - b) for a, b in zip(SCORES["ailora"], SCORES["lora"], strict=True)]
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert found["measured, demo: minus LoRA [95 % CI]"] == f"+2.20 [{low:+.2f}, {high:+.2f}]"
    shuffled = [
        glue_run("ailora", (seed + 1) % 5, score) for seed, score in enumerate(SCORES["ailora"])
    ]
    other = score_table("t", paper_table("table1"), five()[:5] + shuffled)
    changed = cells(other, "CoLA", "AILoRA")["measured, demo: minus LoRA [95 % CI]"]
    assert changed.startswith("+2.20 [")
    assert changed != found["measured, demo: minus LoRA [95 % CI]"]


def test_seeds_without_a_partner_are_told() -> None:
    found = cells(score_table("t", paper_table("table1"), five()[1:]), "CoLA", "AILoRA")
    assert found["n"] == "5"
    assert found["measured, demo: minus LoRA [95 % CI]"].endswith("(n = 4)")


def test_runs_of_another_setting_are_a_line_of_their_own_whatever_their_rates_and_seeds() -> None:
    runs = [glue_run("lora", seed, 0.5, lr=1e-3) for seed in (0, 1)]
    longer = [glue_run("lora", seed, 0.6, lr=2e-3) for seed in (1, 2)]
    for one in longer:
        one["config"]["epochs"] = 9
    lines = lines_of(None, [*runs, *longer])
    found = {line.setting.label: line.measured["demo"] for line in lines}
    assert {label.split("epochs ")[1]: one.rate for label, one in found.items()} == {
        f"{runs[0]['config']['epochs']}": 1e-3,
        "9": 2e-3,
    }
    assert [one.spread.n for one in found.values()] == [2, 2]


def test_differences_are_to_lora_of_the_same_rank() -> None:
    runs = [
        glue_run(method, 0, score, rank=rank)
        for method, rank, score in (
            ("lora", 4, 0.5),
            ("lora", 8, 0.6),
            ("ailora", 4, 0.7),
            ("ailora", 8, 0.65),
            ("ailora", 16, 0.9),
        )
    ]
    table = score_table("t", None, runs)
    minus = "measured, demo: minus LoRA [95 % CI]"
    found = {row[1]: dict(zip(table.header, row, strict=True))[minus] for row in table.rows}
    assert found == {
        "LoRA: rank 4": "-",
        "LoRA: rank 8": "-",
        "AILoRA: rank 4": "+20.00",
        "AILoRA: rank 8": "+5.00",
        "AILoRA: rank 16": "-",
    }


def test_tables_without_plain_lora_are_compared_with_ailora() -> None:
    runs = [glue_run("ailora", 0, 0.6, ranks={"q": 8, "v": 8})]
    runs += [glue_run("lora", 0, 0.5, ranks={"k": 16})]
    table = score_table("t", paper_table("table5"), runs)
    found = cells(table, "CoLA", "LoRA: k 16")
    assert found["paper, roberta-large"] == "58.7"
    assert found["measured, demo: minus AILoRA [95 % CI]"] == "-10.00"
    assert cells(table, "CoLA", "AILoRA: q 8, v 8")["measured, demo: mean ± s.d."] == "60.00"


def test_a_run_that_was_scored_otherwise_stands_beside_nothing() -> None:
    run = glue_run("lora", 0, 0.6)
    run["metrics"] = {split: {"accuracy": 0.6} for split in ("selection", "test")}
    run["data"]["metric"] = "accuracy"
    found = cells(score_table("t", paper_table("table1"), [*five()[5:], run]), "CoLA", "LoRA")
    assert found["paper, roberta-large"] == "67.9"
    assert found["measured, demo: mean ± s.d."] == "-"


def test_parameters_stand_beside_the_papers() -> None:
    runs = [glue_run("ailora", 0, 0.6)]
    runs[0]["parameters"] = {"adapter": 786_432, "head": 10, "all": 10**9}
    found = cells(score_table("t", paper_table("table4"), runs), "CoLA", "AILoRA")
    assert found["paper, roberta-large: parameters, M"] == "0.79"
    assert found["measured parameters, M"] == "0.79"


def test_sets_of_a_task_have_their_own_scores() -> None:
    one = run("lora", 0, 0.5, task="arithmetic", ranks=None)
    one["data"]["metric"] = "number"
    one["metrics"] = {"selection": {"number": 0.4}, "test": {"number": 0.5}}
    sets = ("multiarith", "gsm8k", "addsub", "singleeq", "svamp")
    one["by_group"] = {"test": {name: {"number": i / 10} for i, name in enumerate(sets)}}
    table = score_table("t", paper_table("table3"), [one])
    assert cells(table, "AddSub", "LoRA")["measured, demo: mean ± s.d."] == "20.00"
    assert cells(table, "Avg.", "LoRA")["measured, demo: mean ± s.d."] == "50.00"


def test_tasks_and_methods_that_the_paper_has_not_come_after_its_own() -> None:
    runs = [*five("movies"), glue_run("reailora", 0, 0.5, "movies")]
    table = score_table("t", paper_table("table1"), runs)
    assert [row[:2] for row in table.rows][-3:] == [
        ["movies (mcc)", "LoRA"],
        ["movies (mcc)", "AILoRA"],
        ["movies (mcc)", "reAILoRA"],
    ]


def test_without_a_published_table_there_are_measured_columns_alone() -> None:
    runs = [glue_run("lora", 0, 0.5, rank=4), glue_run("lora", 0, 0.6, rank=8)]
    table = score_table("t", None, runs)
    assert not any(title.startswith("paper") for title in table.header)
    assert [row[1] for row in table.rows] == ["LoRA: rank 4", "LoRA: rank 8"]


def test_two_models_of_ours_do_not_mix() -> None:
    table = score_table("t", paper_table("table1"), [*five(), *five(model="other")])
    found = cells(table, "CoLA", "LoRA")
    assert "measured, other: mean ± s.d." in found
    assert len(table.header) == 2 + 2 + 2 * 4


def test_runs_of_one_seed_that_differ_otherwise_are_told_apart_by_that() -> None:
    runs = [glue_run("lora", 0, 0.5), glue_run("lora", 0, 0.6, epochs=3.0)]
    other = glue_run("lora", 0, 0.7, "rte", epochs=9)
    rows = score_table("t", None, [*runs, other]).rows
    assert [row[:3] for row in rows] == [
        ["cola (mcc)", "LoRA: epochs 2", "50.00"],
        ["cola (mcc)", "LoRA: epochs 3", "60.00"],
        ["rte (accuracy)", "LoRA", "70.00"],
    ]


def test_the_three_forms_hold_the_same_cells() -> None:
    table = score_table("a [b] title", paper_table("table1"), five())
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table.rich())
    forms = (console.export_text(), table.markdown(), table.latex().replace(r"$\pm$", "±"))
    for text in forms:
        assert "64.60 ± 2.07" in text
        assert "69.3" in text
    assert "a [b] title" in forms[0]
    assert r"95 \% CI" in forms[2]


# What is said of it ----------------------------------------------------------------------------


def test_few_seeds_conclude_nothing() -> None:
    lines = lines_of(paper_table("table1"), five()[:4] + five()[5:9])
    assert conclusions(lines) == [
        "demo: a setting has 4 seeds; below 5 nothing can be concluded about which is best."
    ]


def test_five_seeds_are_said_not_to_reach_five_percent_after_correction() -> None:
    runs = [*five("cola"), *five("rte")]
    ranks, corrected = conclusions(lines_of(paper_table("table1"), runs))
    assert "AILoRA 1.00, LoRA 2.00; too few tasks to tell them apart." in ranks
    assert "AILoRA minus LoRA" in corrected
    assert "nowhere at most 0.05" in corrected
    assert "cannot give less than 0.12" in corrected


def test_many_seeds_that_all_agree_are_said_to_differ_where_they_do() -> None:
    draw = random.Random(0)  # noqa: S311
    runs = []
    for seed in range(12):
        base = draw.random() / 10 + 0.5
        for task, gain in (("cola", 0.05), ("rte", 0.0)):
            noise = draw.uniform(-0.01, 0.01)
            runs.append(glue_run("lora", seed, base, task))
            runs.append(glue_run("ailora", seed, base + gain + noise, task))
    corrected = conclusions(lines_of(paper_table("table1"), runs))[-1]
    assert "at most 0.05 on CoLA." in corrected
    assert "RTE" not in corrected.split("tasks:")[1]


def test_a_mean_over_sets_is_no_task_of_its_own() -> None:
    sets = ("multiarith", "gsm8k", "addsub", "singleeq", "svamp")
    runs = []
    for method, scores in SCORES.items():
        for seed, score in enumerate(scores):
            one = run(method, seed, score, task="arithmetic", ranks=None)
            one["data"]["metric"] = "number"
            one["metrics"] = {"selection": {"number": score}, "test": {"number": score}}
            one["by_group"] = {"test": {name: {"number": score} for name in sets}}
            runs.append(one)
    ranks = conclusions(lines_of(paper_table("table3"), runs))[0]
    assert "over 5 tasks" in ranks
    assert "Friedman" not in ranks  # two settings
    assert "closer than 0.88 are not told apart" in ranks  # 1.96 sqrt(2 * 3 / (6 * 5))
