from rich.console import Console

from ailora.lab.report.summary import search_rows, summary_header, summary_rows, summary_table
from tests.lab.report.runs import comparison, run


def _text(table):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return console.export_text()


def test_one_rate_is_said_to_rank_nothing():
    text = _text(summary_table(comparison([run("lora", 0, 0.7), run("ailora", 0, 0.8)])))
    assert "No ranking of methods" in text
    assert "0.001" in text


def test_methods_stand_in_one_order_and_under_their_names():
    runs = [run(method, 0, 0.7) for method in ("reailora", "ailora", "lora", "milora", "pissa")]
    text = _text(summary_table(comparison(runs)))
    places = [
        text.index(f"│ {name} ") for name in ("LoRA", "PiSSA", "MiLoRA", "AILoRA", "reAILoRA")
    ]
    assert places == sorted(places)


def test_table_holds_scores_parameters_and_step_0():
    made = comparison([run("lora", 0, 0.7), run("lora", 1, 0.8)])
    text = _text(summary_table(made))
    assert "0.7500 ± 0.0707" in text
    assert summary_rows(made)[0][4] == "1,000 + 10"
    assert "1,000 │" in text
    assert "+ 10 │" in text
    assert "n = 2" in text


def test_search_marks_the_chosen_rate_and_shows_failed_ones():
    searched = [run("lora", 0, 0.6, lr=1e-3), run("lora", 0, 0.7, lr=2e-3)]
    failed = [{"config": {"method": "lora", "lr": 4e-3, "seed": 0}, "error": "diverged"}]
    made = comparison(
        searched[1:],
        searched=searched,
        failed=failed,
        chosen="selected",
        rates=(1e-3, 2e-3, 4e-3, 8e-3),
    )
    header, rows = search_rows(made)
    assert header == ["method", "0.001", "0.002", "0.004", "0.008"]
    assert rows == [["LoRA", "0.6100", "0.7100 *", "failed", "-"]]


def test_a_method_with_fewer_seeds_says_so():
    runs = [run("lora", 0, 0.7), run("lora", 1, 0.8), run("ailora", 0, 0.9)]
    made = comparison(runs)
    assert summary_header(made)[1] == "accuracy (n)"
    assert [row[1] for row in summary_rows(made)] == ["0.7500 ± 0.0707 (2)", "0.9000 (1)"]


def test_a_difference_that_rounds_to_nothing_has_no_minus():
    made = comparison([run("lora", 0, 0.7), run("ailora", 0, 0.7 - 1e-9)])
    assert summary_rows(made)[1][2] == "+0.0000"


def test_search_says_which_means_lack_a_seed():
    searched = [run("lora", 0, 0.6), run("lora", 1, 0.6), run("lora", 0, 0.5, lr=2e-3)]
    made = comparison(searched[:2], searched=searched, chosen="selected", rates=(1e-3, 2e-3))
    assert search_rows(made)[1] == [["LoRA", "0.6100 *", "0.5100 (1 of 2 seeds)"]]


def test_brackets_in_a_path_are_no_markup():
    text = _text(summary_table(comparison([run("lora", 0, 0.7, task="data/[old]/[/x].csv")])))
    assert "data/[old]/[/x].csv" in text


def test_table_of_five_methods_fits_100_columns_with_whole_intervals():
    runs = [
        run(method, seed, 0.7 + seed / 100 + (seed * place) / 300, lr=5e-4)
        for place, method in enumerate(("lora", "pissa", "milora", "ailora", "reailora"))
        for seed in range(2)
    ]
    for made in runs:
        made["parameters"] = {"adapter": 1_572_864, "head": 1_050_650, "all": 10**9}
    text = _text(summary_table(comparison(runs)))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert text.count("…") == 0
    assert "[-0.020, +0.023]" in text
