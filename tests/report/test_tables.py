from rich.console import Console

from ailora.report.tables import markdown, search_rows, summary_table
from tests.report.runs import comparison, run


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
    text = _text(summary_table(comparison([run("lora", 0, 0.7), run("lora", 1, 0.8)])))
    assert "0.7500 ± 0.0707" in text
    assert "1,000 + 10" in text
    assert "n = 2" in text


def test_search_marks_the_chosen_rate_and_shows_failed_ones():
    searched = [run("lora", 0, 0.6, lr=1e-3), run("lora", 0, 0.7, lr=2e-3)]
    made = comparison(searched[1:], searched=searched, chosen="selected", rates=(1e-3, 2e-3, 4e-3))
    header, rows = search_rows(made)
    assert header == ["method", "0.001", "0.002", "0.004"]
    assert rows == [["LoRA", "0.6100", "0.7100 *", "failed"]]


def test_markdown_escapes_pipes():
    assert markdown(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |\n"
