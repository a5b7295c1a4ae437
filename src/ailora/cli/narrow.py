"""Tables on narrow terminals: columns go, and names and scores stay whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderResult

_LONG = 500  # rows; of ten thousand, a table with a frame takes ten seconds to lay out
_WORD = 16  # a longer word, such as a path, may be cut where its column is not to be whole


class Fitted:
    """A table that fits its terminal.

    Where it is too wide, columns are left out, and named below it; where those that must stay
    whole do not fit either, each row becomes a block of lines, with all of its cells. One of many
    rows is aligned lines without a frame, which takes a tenth of the time, and no cell is broken.

    Args:
        table: The table, made as for a wide terminal.
        whole: Titles of the columns whose cells are never broken or left out.
        drop: Titles of those that may be left out, the first to go first. The others are kept,
            with their lines broken between words.
    """

    def __init__(self, table: Table, *, whole: Collection[str], drop: Sequence[str] = ()) -> None:
        self.table = table
        self.whole = whole
        self.drop = drop

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table as it is, with fewer columns, or as blocks."""
        lines = _lines(self.table, console)
        titles = [column[0] for column in lines]
        natural = [max(map(_width, column)) for column in lines]
        least = [
            _least(column, whole=title in self.whole, natural=width)
            for title, column, width in zip(titles, lines, natural, strict=True)
        ]
        kept, most = list(range(len(titles))), options.max_width
        long = self.table.row_count > _LONG
        if long:
            least = [*natural[:-1], least[-1]]
        if sum(natural) + self._edges(kept) <= most and not long:
            yield self.table
            return
        for title in self.drop:
            if sum(least[place] for place in kept) + self._edges(kept) <= most:
                break
            kept = [place for place in kept if titles[place] != title]
        room = most - self._edges(kept) - sum(least[place] for place in kept)
        if room < 0 and not long:
            yield from _blocks(self.table, lines)
            return
        if long:
            yield from _aligned(
                [lines[place] for place in kept], [natural[place] for place in kept]
            )
        else:
            widths = _shared_out(room, [(least[place], natural[place]) for place in kept])
            yield _with(self.table, dict(zip(kept, widths, strict=True)))
        left_out = [title for place, title in enumerate(titles) if place not in kept]
        if left_out:
            yield Text(f"left out at this width: {', '.join(left_out)}", style="dim")

    def _edges(self, kept: Sequence[int]) -> int:
        """Cells that borders and padding take."""
        _, right, _, left = self.table.padding
        return len(kept) * (left + right) + (len(kept) + 1) * bool(self.table.box)


def _lines(table: Table, console: Console) -> list[list[str]]:
    """Each column's title and cells as plain texts."""
    return [
        [
            " ".join(_plain(column.header, console).split()),
            *(_plain(cell, console) for cell in column.cells),
        ]
        for column in table.columns
    ]


def _plain(cell: object, console: Console) -> str:
    if isinstance(cell, str):
        return console.render_str(cell).plain if "[" in cell or ":" in cell else cell
    return str(cell)


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")), default=0)


def _least(column: Sequence[str], *, whole: bool, natural: int) -> int:
    """The fewest cells that a column can have."""
    title, *cells = column
    words = [cell_len(word) for text in (title, *cells) for word in text.split()]
    if whole:
        heading = max(map(cell_len, title.split()), default=0)
        return max([heading, *map(_width, cells)])
    return min(natural, _WORD, max(words, default=1))


def _shared_out(room: int, columns: Sequence[tuple[int, int]]) -> list[int]:
    """The least of each column, and what is left for those that would be wider."""
    widths = [least for least, _ in columns]
    while room:
        wanting = [place for place, (_, natural) in enumerate(columns) if widths[place] < natural]
        if not wanting:
            break
        narrowest = min(wanting, key=lambda place: widths[place] / columns[place][1])
        widths[narrowest] += 1
        room -= 1
    return widths


def _with(table: Table, widths: dict[int, int]) -> Table:
    """The table with these columns alone, at these widths."""
    made = copy(table)
    made.columns = [
        replace(table.columns[place], width=width, no_wrap=False, overflow="fold", _index=index)
        for index, (place, width) in enumerate(widths.items())
    ]
    return made


def _aligned(columns: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[Segment]:
    """One line per row; one that is wider than the terminal is not broken."""
    for row in zip(*columns, strict=True):
        cells = [" ".join(cell.split()) for cell in row]
        room = (max(0, width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
        yield from _said("  ".join(map(str.__add__, cells, (" " * n for n in room))).rstrip())


def _blocks(table: Table, lines: Sequence[Sequence[str]]) -> Iterator[Segment]:
    """One block per row; a line is never broken, so that what is in it stays whole."""
    titles, *rows = zip(*lines, strict=True)
    if table.title:
        yield from _said(str(table.title))
    named = ""
    for name, *cells in rows:
        named = " ".join(name.split()) or named  # a table says once what several rows share
        yield from _said(named)
        for title, cell in zip(titles[1:], cells, strict=True):
            if cell:
                yield from _said(f"  {title}: {' '.join(cell.split())}")
    if table.caption:
        yield from _said(str(table.caption))


def _said(words: str) -> Iterator[Segment]:
    yield Segment(words)
    yield Segment.line()
