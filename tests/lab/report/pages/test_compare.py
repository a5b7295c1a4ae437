import csv
import re

import pytest

from ailora.lab.report.pages.compare import write_report
from tests.lab.report.pages.looking import BROWSER, browse, parsed
from tests.lab.report.runs import CALL, comparison, run

EVIL = "<script>alert('x')</script><img src=http://evil.example/x>"


@pytest.fixture
def runs():
    return [run(m, s, 0.7 + s / 100) for m in ("lora", "ailora") for s in (0, 1)]


def _page(made, out, call=CALL):
    return write_report(made, call, out).read_text(encoding="utf-8")


def test_page_needs_no_network_and_no_scripts(runs, tmp_path):
    page = _page(comparison(runs), tmp_path)
    found = parsed(page)
    assert "script" not in found.tags
    assert all(address.startswith("#") for address in found.loads)
    assert not re.search(r"url\((?!#|['\"]?#)", page)
    assert found.tags.count("svg") == 3


def test_texts_of_strangers_do_nothing(runs, tmp_path):
    for made in runs:
        made["config"] |= {"task": EVIL, "model": EVIL}
        made["data"]["labels"] = [EVIL, EVIL]
    failed = [{"config": {"method": EVIL, "lr": 1, "seed": 0}, "error": EVIL}]
    call = CALL._replace(command=EVIL, notes=[EVIL])
    found = parsed(_page(comparison(runs, failed=failed), tmp_path, call))
    assert "script" not in found.tags
    assert "img" not in found.tags


def test_a_method_of_a_stranger_is_escaped_inside_the_figures(tmp_path):
    found = parsed(_page(comparison([run(EVIL, 0, 0.7)]), tmp_path))
    assert "script" not in found.tags
    assert "img" not in found.tags


def test_ids_of_the_figures_do_not_clash(runs, tmp_path):
    ids = parsed(_page(comparison(runs), tmp_path)).ids
    assert len(ids) > 30
    assert len(ids) == len(set(ids))


def test_one_rate_is_said_to_rank_nothing(runs, tmp_path):
    assert "No ranking of methods" in _page(comparison(runs), tmp_path)


def test_own_rates_show_the_search(runs, tmp_path):
    searched = [*runs, *(run(m, 0, 0.5, lr=2e-3) for m in ("lora", "ailora"))]
    made = comparison(runs, searched=searched, chosen="selected", rates=(1e-3, 2e-3))
    page = _page(made, tmp_path)
    assert "No ranking" not in page
    assert "Choosing the rate" in page
    assert "0.5100" in page


@pytest.mark.parametrize("seeds", [1, 2])
def test_page_holds_no_nan_and_no_none(tmp_path, seeds):
    made = [run(m, s, 0.7) for m in ("lora", "ailora") for s in range(seeds)]
    for each in made:
        each["majority"] = each["data"]["labels"] = None  # as in regression
    page = _page(comparison(made), tmp_path)
    text = re.sub(r"<(svg|pre|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert "commonest" not in text


def test_every_machine_is_named_once(runs, tmp_path):
    runs[1]["environment"] = {"cpu": "another"}
    page = _page(comparison(runs), tmp_path)
    assert page.count("cpu some") == page.count("cpu another") == 1


def test_a_verdict_at_one_rate_is_bound_to_that_rate(runs, tmp_path):
    assert "At this one rate: AILoRA" in _page(comparison(runs), tmp_path)


def test_summary_in_markdown_begins_with_the_caveat(runs, tmp_path):
    write_report(comparison(runs), CALL, tmp_path)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("No ranking of methods")
    assert "| AILoRA | 0.7050 ± 0.0071 |" in text


def test_failed_runs_are_shown_with_their_reason(runs, tmp_path):
    failed = [{"config": {"method": "pissa", "lr": 9.0, "seed": 3}, "error": "training diverged"}]
    page = _page(comparison(runs, failed=failed), tmp_path)
    assert "Runs that failed" in page
    assert "training diverged" in page


def test_figures_lie_beside_with_the_data_they_were_drawn_from(runs, tmp_path):
    write_report(comparison(runs), CALL, tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    made = ("training_loss", "selection_score", "update_norms")
    assert names == {f"{name}.{kind}" for name in made for kind in ("svg", "png", "csv")}
    with (tmp_path / "figures" / "training_loss.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * 3
    losses = {float(r["loss"]) for r in rows if (r["seed"], r["step"]) == ("1", "10")}
    assert losses == {0.61}


def test_the_same_runs_give_the_same_page(runs, tmp_path):
    assert _page(comparison(runs), tmp_path / "a") == _page(comparison(runs), tmp_path / "b")


def _wide():
    """All that can make a page wide: methods, rates, a long reason, texts without a space."""
    endless = "/data/" + "x" * 200 + ".csv"
    rates = tuple(1e-4 * 2**power for power in range(8))
    searched = [
        run(method, 0, 0.7, lr=rate, task=endless, model=endless)
        for method in ("lora", "pissa", "milora", "ailora", "reailora")
        for rate in rates
    ]
    for made in searched:
        made["data"]["labels"] = [endless]
    failed = [{"config": {"method": "lora", "lr": 1.0, "seed": 3}, "error": endless}]
    return comparison(
        [made for made in searched if made["config"]["lr"] == rates[3]],
        searched=searched,
        failed=failed,
        chosen="selected",
        rates=rates,
    )


@BROWSER
@pytest.mark.parametrize("width", [360, 1280])
def test_a_real_browser_shows_it_without_sideways_scrolling(tmp_path, width):
    call = CALL._replace(command="ailora compare --task " + "x" * 200, notes=["y" * 200])
    seen = browse(write_report(_wide(), call, tmp_path / "out"), width, tmp_path)
    assert seen.client > width - 20  # less a vertical scroll bar
    assert seen.scroll <= seen.client
    assert len(seen.pictures) == 3
    assert min(seen.pictures) > 100
    assert seen.complaints == []


def test_a_task_of_generated_text_shows_the_loss_along_the_run(runs, tmp_path):
    for made in runs:
        for entry in made["history"]:
            entry["selection_loss"] = entry.pop("accuracy") + 1
    _page(comparison(runs), tmp_path)
    with (tmp_path / "figures" / "selection_score.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["selection_loss"] for row in rows if row["step"] == "0"} == {"1.5"}
