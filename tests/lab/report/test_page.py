"""The page of a folder of runs, as a parser and a real browser see it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.experiments import Store
from ailora.lab.report.page import as_latex, as_markdown, write_page
from ailora.lab.report.store_report import store_report
from tests.lab.report.looking import BROWSER, browse, parsed
from tests.lab.report.stores import failed_in, full_run, store_of

EVIL = "<script>alert('x')</script><img src=http://evil.example/x>|`]]>"
POINTS = "task,metric,method,lr,seed,role,layer,norm\n" + "".join(
    f"movies,accuracy,full,0.001,{seed},{role},{layer},{layer + 1}\n"
    for seed in (0, 1)
    for role in "qv"
    for layer in range(4)
)


def filled(path: Path, **changes: Any) -> Store:
    """Two methods at two ranks with two seeds; one failure."""
    runs = [
        full_run(method, seed, 0.7 + seed / 100 + rank / 1000, rank=rank, **changes)
        for method in ("lora", "ailora")
        for seed in (0, 1)
        for rank in (4, 8)
    ]
    store = store_of(path, runs)
    failed_in(store, "diverged at step 3", method="pissa", lr=1e-3, **changes)
    return store


def page_of(store: Store, out: Path, **options: Any) -> str:
    write_page(store_report(store.runs(), "title"), out, figures=out.parent / "figures", **options)
    return out.read_text(encoding="utf-8")


def test_it_needs_no_network_and_no_scripts_and_ids_do_not_clash(tmp_path: Path) -> None:
    page = page_of(filled(tmp_path / "store"), tmp_path / "page.html")
    found = parsed(page)
    assert "script" not in found.tags
    assert all(address.startswith("#") for address in found.loads)
    assert not re.search(r"url\((?!#|['\"]?#)", page)
    assert found.tags.count("svg") == 2 * 3 + 1  # of two ranks, and the sweep over them
    assert len(found.ids) == len(set(found.ids))
    anchors = {address[1:] for address in found.loads}
    assert anchors <= set(found.ids)


def test_texts_of_strangers_do_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", model=EVIL, task=EVIL)
    failed_in(store, EVIL, method="vera", model=EVIL)
    found = parsed(page_of(store, tmp_path / "page.html"))
    assert "script" not in found.tags
    assert "img" not in found.tags


def test_what_was_measured_in_the_weights_is_drawn_from_its_tables(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    without = page_of(store, tmp_path / "page.html")
    part = store_report(store.runs(), "t").parts[0].name
    for folder in (tmp_path / "figures", tmp_path / "figures" / part):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "figure1cd.csv").write_text(POINTS, encoding="utf-8")
    found = page_of(store, tmp_path / "page.html")
    words = "How far W^Q and W^V moved, by layer"
    assert words not in without
    assert found.count(f"<figcaption>{words}") == 2
    (tmp_path / "figures" / "figure1cd.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="measure the figures again"):
        page_of(store, tmp_path / "page.html")


def test_a_watched_page_reads_itself_again_and_a_last_one_does_not(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    watched = page_of(store, tmp_path / "page.html", refresh=7)
    assert '<meta http-equiv="refresh" content="7">' in watched
    assert "http-equiv" not in page_of(store, tmp_path / "page.html")


def test_a_folder_without_a_finished_run_has_a_page(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", [])
    assert "No run is finished yet" in page_of(store, tmp_path / "page.html")
    failed_in(store, "diverged at step 3", method="lora")
    assert "diverged at step 3" in page_of(store, tmp_path / "page.html")


def test_markdown_and_latex_hold_the_scores(tmp_path: Path) -> None:
    report = store_report(filled(tmp_path, task="cola").runs(), "title")
    for text in (as_markdown(report), as_latex(report)):
        assert "AILoRA: rank 8" in text
        assert "71.30" in text
        assert "69.3" in text  # the paper's
        assert "diverged at step 3" in text
    assert "[[grid]]" in as_markdown(report)


@BROWSER
@pytest.mark.parametrize("width", [360, 1280])
def test_a_real_browser_shows_it_without_sideways_scrolling(tmp_path: Path, width: int) -> None:
    endless = "/data/" + "x" * 200 + ".csv"
    store = filled(tmp_path / "store", model=endless, task=endless)
    failed_in(store, endless, method="vera", model=endless)
    page = tmp_path / "page.html"
    page_of(store, page)
    seen = browse(page, width, tmp_path)
    assert seen.client > width - 20  # less a vertical scroll bar
    assert seen.scroll <= seen.client
    assert len(seen.pictures) == 7
    assert min(seen.pictures) > 100
    assert seen.complaints == []


@BROWSER
def test_the_browser_would_tell_of_a_complaint(tmp_path: Path) -> None:
    """Negative control: an error on the page's console is seen, and so is what is too wide."""
    page = tmp_path / "page.html"
    page.write_text("<script>nothing()</script><div style='width:900px'>wide</div><svg></svg>")
    seen = browse(page, 360, tmp_path)
    assert seen.complaints
    assert seen.scroll > seen.client
