"""Tables on narrow terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ailora.cli.narrow import Fitted

TITLES = ("method", "accuracy\n(n = 2)", "minus LoRA", "lr")
ROWS = [
    ("Full fine-tuning", "0.5625 ± 0.0123", "+0.0123 [-0.1, +0.2]", "0.002"),
    ("LoRA [x]", "0.7500 ± 0.0000", "-", "1e-05"),
]
SCORES = ("method", "accuracy (n = 2)")


def printed(width: int, **options: object) -> str:
    table = Table(title="demo", caption="what may be said")
    for title in TITLES:
        table.add_column(title)
    for row in ROWS:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=width)
    console.print(Fitted(table, **{"whole": SCORES, **options}), crop=False)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 70, 100])
def test_names_and_scores_are_whole_at_every_width(width: int) -> None:
    out = printed(width, drop=("lr", "minus LoRA"))
    for name, score, *_ in ROWS:
        assert name in out
        assert score in out
    if width >= 40:
        assert max(map(len, out.splitlines())) <= width


def test_columns_go_in_the_order_given_and_are_named() -> None:
    assert "left out at this width: lr\n" in printed(55, drop=("lr", "minus LoRA"))
    assert "left out at this width: minus LoRA, lr\n" in printed(42, drop=("lr", "minus LoRA"))
    wide = printed(100, drop=("lr", "minus LoRA"))
    assert "left out" not in wide
    assert "1e-05" in wide


def test_what_may_not_go_stands_in_lines_of_its_own() -> None:
    out = printed(40)
    assert out.splitlines()[:4] == [
        "demo",
        "Full fine-tuning",
        "  accuracy (n = 2): 0.5625 ± 0.0123",
        "  minus LoRA: +0.0123 [-0.1, +0.2]",
    ]
    assert out.splitlines()[-1] == "what may be said"


def test_a_block_says_again_what_the_table_says_once_for_several_rows() -> None:
    table = Table()
    table.add_column("score")
    table.add_column("method")
    table.add_row("accuracy of the test rows", "LoRA")
    table.add_row("", "AILoRA")
    console = Console(file=io.StringIO(), width=20)
    console.print(Fitted(table, whole=("score", "method")), crop=False)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert out.count("accuracy of the test rows") == 2
