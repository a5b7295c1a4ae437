"""One look a method and one a role, in every figure."""

from __future__ import annotations

from typing import NamedTuple


class Look(NamedTuple):
    """Colour, line and marker; any two methods differ in two of them."""

    color: str
    line: str
    marker: str


# Okabe and Ito's palette, told apart by people who see colours differently; methods of one colour
# differ in line and marker, and no table or figure of the paper has both.
LOOKS: dict[str, Look] = {
    "lora": Look("#666666", "-", "o"),
    "pissa": Look("#E69F00", "--", "s"),
    "milora": Look("#009E73", "-.", "^"),
    "ailora": Look("#0072B2", "-", "D"),
    "reailora": Look("#CC79A7", ":", "v"),
    "full": Look("#000000", "--", "*"),
    "houlsby": Look("#56B4E9", "--", "P"),
    "bitfit": Look("#D55E00", "-", "X"),
    "dora": Look("#009E73", ":", "<"),
    "rslora": Look("#E69F00", "-.", ">"),
    "vera": Look("#CC79A7", "--", "h"),
}
OTHER_LOOK = Look("#D55E00", "-", "x")
ROLE_LOOKS: dict[str, tuple[str, str]] = {
    "q": ("#0072B2", "o"),
    "k": ("#56B4E9", "s"),
    "v": ("#D55E00", "^"),
    "o": ("#009E73", "D"),
}


def look_of(method: str) -> Look:
    """The method's look; those beyond the paper share one."""
    return LOOKS.get(method, OTHER_LOOK)
