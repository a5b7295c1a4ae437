"""The gallery's pictures are drawn from the tables that lie beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.gallery import DECODER, FOLDER

from ailora.lab.report.figures.gallery import PANELS, draw_panels, draw_schematic, read_tables
from tests.documents.pages import ROOT

NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


def check_alike(found: str, committed: str) -> None:
    """The same but for the last digits of coordinates, which processors round differently."""
    assert NUMBER.sub("#", found) == NUMBER.sub("#", committed)
    pairs = zip(NUMBER.findall(found), NUMBER.findall(committed), strict=True)
    assert all(float(a) == pytest.approx(float(b), abs=1e-3) for a, b in pairs)


def test_every_panel_is_drawn_from_its_committed_table(tmp_path: Path) -> None:
    tables = read_tables(FOLDER)
    assert tables.keys() == PANELS.keys()
    for path in (*draw_panels(tables, tmp_path), draw_schematic(tmp_path)):
        check_alike(path.read_text("utf-8"), (FOLDER / path.name).read_text("utf-8"))


def test_forgetting_of_the_decoder_is_drawn_from_its_table(tmp_path: Path) -> None:
    (path,) = draw_panels(read_tables(DECODER), tmp_path)
    assert path.name == "figure4b.svg"
    check_alike(path.read_text("utf-8"), (DECODER / path.name).read_text("utf-8"))


def test_another_table_is_another_picture(tmp_path: Path) -> None:
    table = read_tables(FOLDER)["figure6"]
    table["score"] += 0.01
    (path,) = draw_panels({"figure6": table}, tmp_path)
    with pytest.raises(AssertionError):
        check_alike(path.read_text("utf-8"), (FOLDER / path.name).read_text("utf-8"))


def test_the_page_shows_every_picture_and_links_its_table() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    for name in PANELS:
        assert f"images/figures/{name}.svg" in page
        assert f"images/figures/{name}.csv" in page
    assert "images/figures/figure2.svg" in page
