"""Tables as text: in Markdown and for LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

Rows = list[list[str]]

# Brackets are ordinary, but one that follows the end of a row would be read as its spacing.
_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "[": "{[}",
        "]": "{]}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "±": r"$\pm$",
        "\n": " ",
        **{sign: f"\\{sign}" for sign in "&%$#_"},
    }
)


def markdown(header: list[str], rows: Rows) -> str:
    """A Markdown table; pipes in the cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |\n" for row in lines
    )


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    r"""A ``tabular`` with the rules of booktabs; every cell is escaped.

    Args:
        header: Titles of the columns.
        rows: Cells, as many per row as there are titles.
        texts: Columns from the left that hold texts; the others are set to the right.
    """
    columns = "l" * texts + "r" * (len(header) - texts)
    body = "\n".join(map(_line, rows))
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{_line(header)}\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def escaped(text: str) -> str:
    """The text as LaTeX prints it, with none of its signs meaning anything."""
    return text.translate(_SPECIAL)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
