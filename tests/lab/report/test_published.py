"""The paper's tables against its text, and against themselves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.methods import METHODS
from ailora.lab.methods.architectures import TABLE_4, TABLE_5
from ailora.lab.report.published import PaperTable, claims, disagreements, paper_table
from ailora.lab.tasks.classification.glue import GLUE

TABLES = {number: paper_table(f"table{number}") for number in range(1, 7)}
PAPER = Path(os.environ.get("AILORA_PAPER", ""))  # its text, where one has it


def score(table: PaperTable, method: str, label: str, model: str | None = None) -> float:
    place = [column.label for column in table.columns].index(label)
    (found,) = {
        row.scores[place]
        for row in table.rows
        if row.method == method and model in (None, row.model)
    }
    return found


def lead(table: PaperTable, label: str, model: str | None = None) -> float:
    """AILoRA's score less the best of the others'."""
    others = {row.method for row in table.rows} - {"ailora"}
    best = max(score(table, method, label, model) for method in others)
    return round(score(table, "ailora", label, model) - best, 2)


def at_best(table: PaperTable, labels: list[str] | None = None) -> list[int]:
    """For each model and column, how many rows AILoRA shares the highest score with; 0 if not."""
    counts = []
    for model in dict.fromkeys(row.model for row in table.rows):
        rows = [row for row in table.rows if row.model == model]
        for place, column in enumerate(table.columns):
            if labels is not None and column.label not in labels:
                continue
            highest = max(row.scores[place] for row in rows)
            best = [row.method for row in rows if row.scores[place] == highest]
            counts.append(len(best) if "ailora" in best else 0)
    return counts


FIVE = ["MultiArith", "GSM8K", "AddSub", "SingleEq", "SVAMP"]


def averages() -> list[float]:
    # Half up, as a hand does: 52.06 and 69.98 are not on a half anyway.
    return [round(sum(row.scores[:5]) / 5, 1) for row in TABLES[3].rows]


def adapter_ratios() -> list[float]:
    parameters = {row.method: row.parameters or 0.0 for row in TABLES[4].rows}
    ratios = [
        parameters["houlsby"] / number
        for method, number in parameters.items()
        if method not in ("full", "houlsby")
    ]
    return [round(min(ratios), 1), round(max(ratios), 1)]


def fewest() -> list[float]:
    parameters = {row.method: row.parameters or 0.0 for row in TABLES[4].rows}
    assert parameters["ailora"] == parameters["rslora"] == min(parameters.values())
    return [min(parameters.values())]


def everywhere() -> list[float]:
    counts = at_best(TABLES[1]) + at_best(TABLES[2]) + at_best(TABLES[3], FIVE) + at_best(TABLES[6])
    assert len(counts) == 31
    return [sum(map(bool, counts))]


# How each statement's figures come out of the tables.
RECOMPUTED: dict[str, Callable[[], list[float]]] = {
    "glue_best": lambda: [sum(map(bool, at_best(TABLES[1])))],
    "rte_and_cola_gains": lambda: [
        max(lead(TABLES[1], label, model) for model in ("roberta-large", "deberta-v3-base"))
        for label in ("RTE", "CoLA")
    ],
    "squad_v2_gains": lambda: [lead(TABLES[2], f"SQuAD v2.0 {metric}") for metric in ("EM", "F1")],
    "arithmetic_averages": averages,
    "arithmetic_gains": lambda: [lead(TABLES[3], label) for label in ("Avg.", "AddSub")],
    "cola_gain_over_peft": lambda: [lead(TABLES[4], "CoLA")],
    "rte_accuracy": lambda: [score(TABLES[1], "ailora", "RTE", "roberta-large")],
    "arithmetic_best": lambda: [sum(map(bool, at_best(TABLES[3], FIVE)))],
    "adapter_parameters": adapter_ratios,
    "fewest_parameters": fewest,
    "stsb_of_one_setting": lambda: [score(TABLES[5], "ailora", "STS-B")],
    "rank_settings_best": lambda: [sum(map(bool, at_best(TABLES[5])))],
    "summarization_best": lambda: [sum(map(bool, at_best(TABLES[6])))],
    "always_best_of_four": everywhere,
    "roberta_parameters": lambda: [
        row.parameters or 0.0 for row in TABLES[4].rows if row.method == "full"
    ],
}
STATEMENTS = {statement.name: statement for statement in (*claims(), *disagreements())}


def test_every_statement_is_recomputed_here() -> None:
    assert STATEMENTS.keys() == RECOMPUTED.keys()


@pytest.mark.parametrize("name", RECOMPUTED)
def test_what_a_statement_is_said_to_come_to_is_what_the_tables_have(name: str) -> None:
    assert list(STATEMENTS[name].found) == pytest.approx(RECOMPUTED[name]())


def test_claims_hold_and_disagreements_do_not() -> None:
    assert all(claim.stated == claim.found for claim in claims())
    assert all(one.stated != one.found and one.note for one in disagreements())


def test_printed_averages_are_those_of_the_five_sets() -> None:
    assert averages() == [row.scores[5] for row in TABLES[3].rows]


def test_notes_with_figures_are_true() -> None:
    counts = at_best(TABLES[1])
    assert counts.count(1) == 12, "alone the best"
    assert lead(TABLES[1], "RTE", "deberta-v3-base") == 0.0
    assert lead(TABLES[1], "CoLA", "roberta-large") == 0.9
    assert lead(TABLES[6], "XSum R-2") == -0.02
    for metric in ("EM", "F1"):
        label = f"SQuAD v1.1 {metric}"
        scores = [score(TABLES[2], row.method, label) for row in TABLES[2].rows]
        assert score(TABLES[2], "ailora", label) == min(scores)
    same = ("CoLA", "MRPC", "RTE")
    for label in same:
        scores = [
            score(TABLES[1], "ailora", label, "roberta-large"),
            *(score(TABLES[number], "ailora", label) for number in (4, 5)),
        ]
        assert len(set(scores)) == 1
    assert score(TABLES[1], "ailora", "STS-B", "roberta-large") == 92.0
    assert score(TABLES[4], "ailora", "STS-B") == 92.0


@pytest.mark.parametrize("number", TABLES)
def test_tables_are_whole_and_named_as_here(number: int) -> None:
    table = TABLES[number]
    keys = [(row.model, row.method, json.dumps(dict(row.ranks or {}))) for row in table.rows]
    assert len(set(keys)) == len(keys)
    for row in table.rows:
        assert row.method in METHODS
        assert len(row.scores) == len(table.columns)
        assert all(0 < value < 100 for value in row.scores)
    for column in table.columns:
        if column.task in GLUE:
            assert column.metric == GLUE[column.task].metrics[0], "the paper's is the headline"


def test_parameters_and_ranks_are_those_that_params_counts() -> None:
    assert {row.method: row.parameters for row in TABLES[4].rows} == dict(TABLE_4)
    assert [row.ranks for row in TABLES[5].rows] == list(TABLE_5.values())


def test_a_table_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(UserError, match="'table7'; there are table1, table2"):
        paper_table("table7")


def test_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TABLES[5].rows[0].ranks["q"] = 1  # type: ignore[index]


@pytest.mark.skipif(not PAPER.is_file(), reason="AILORA_PAPER names no file")
@pytest.mark.parametrize("number", TABLES)
def test_every_row_stands_in_the_papers_text(number: int) -> None:
    lines = [re.sub(r"\s*/\s*", "\t", line) for line in PAPER.read_text("utf-8").splitlines()]
    printed = [re.findall(r"\b\d+\.\d+\b", line) for line in lines]
    for row in TABLES[number].rows:
        places = 2 if number == 6 else 1
        wanted = [f"{value:.{places}f}" for value in row.scores]
        if number == 2:  # two lines, one a set
            assert wanted[:2] in [found[-2:] for found in printed]
            assert wanted[2:] in [found[-2:] for found in printed]
        else:
            assert wanted in [found[-len(wanted) :] for found in printed], row
