"""Text from files and paths, as it can be printed whole: neither a table's width nor a broken character cuts it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.markup import escape
from rich.segment import SegmentLines
from rich.table import Table

_NARROWEST = 12
_GAP = 2
_NO_WIDTH = 100_000


def print_rows(
    console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], *, folded: Collection[str]
) -> None:
    """A table with every cell whole. On a terminal that is too narrow the columns `folded` go on below themselves;
    a pipe or a file has no width, so there each row is one line."""
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    least = 0
    for place, head in enumerate(heads):
        longest = max(map(len, [*head.split(), *(row[place] for row in rows)]))
        if head in folded:
            table.add_column(head, overflow="fold", min_width=(longest := min(longest, _NARROWEST)))
        else:
            # A width of its own is what no other column's need can take from it; its head may take several lines.
            table.add_column(head, justify="right", width=longest if console.is_terminal else None)
        least += longest + _GAP
    for row in rows:
        table.add_row(*map(escape, row))
    width = max(console.width, least) if console.is_terminal else _NO_WIDTH
    lines = console.render_lines(table, console.options.update_width(width), pad=False)
    console.print(SegmentLines(lines, new_lines=True), crop=False)
