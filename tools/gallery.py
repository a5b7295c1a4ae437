"""Draws the gallery from its tables: ``python -m tools.gallery``, from the project's folder."""

from __future__ import annotations

from pathlib import Path

from ailora.lab.report.figures.gallery import draw_panels, draw_schematic, read_tables

FOLDER = Path(__file__).parent.parent / "docs" / "images" / "figures"
DECODER = FOLDER / "decoder"  # forgetting once more, of a model that predicts tokens


def main() -> None:
    """Redraw every panel that has a table, and figure 2."""
    draw_schematic(FOLDER)
    for folder in (FOLDER, DECODER):
        draw_panels(read_tables(folder), folder)
        for picture in folder.glob("*.png"):  # the pages show the SVG files
            picture.unlink()


if __name__ == "__main__":
    main()
