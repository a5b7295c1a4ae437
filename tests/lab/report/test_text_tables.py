"""Tables for LaTeX and in Markdown."""

from __future__ import annotations

import re
import string

import pytest

from ailora.lab.report.text_tables import escaped, latex, markdown


def test_a_table_has_the_rules_of_booktabs_and_a_line_a_row() -> None:
    text = latex(["method", "score"], [["LoRA", "1.0"], ["AILoRA", "2.0"]])
    assert text.splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & score \\",
        r"\midrule",
        r"LoRA & 1.0 \\",
        r"AILoRA & 2.0 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("50 %", r"50 \%"),
        ("q_proj & v_proj", r"q\_proj \& v\_proj"),
        (r"a\b", r"a\textbackslash{}b"),
        ("{x}", r"\{x\}"),
        ("$1 #2 ~x ^y", r"\$1 \#2 \textasciitilde{}x \textasciicircum{}y"),
        ("0.1 ± 0.2", r"0.1 $\pm$ 0.2"),
        ("two\nlines", "two lines"),
    ],
)
def test_signs_that_mean_something_are_escaped(text: str, printed: str) -> None:
    assert escaped(text) == printed


def test_no_command_gets_through_and_no_row_begins_with_a_bracket() -> None:
    text = latex(["[a]"], [["[2ex] x"], [r"\input{/etc/passwd}"]])
    assert r"\\" + "\n[" not in text
    assert r"\input" not in text
    # What is left of printable ASCII with a meaning of its own stands in a command of ours.
    left = re.sub(r"\\text\w+\{\}|\\[&%$#_{}]|\{\[\}|\{\]\}", "", escaped(string.printable))
    assert not set(left) & set("\\{}$&#^_%~[]")


def test_markdown_escapes_pipes() -> None:
    assert markdown(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |\n"
