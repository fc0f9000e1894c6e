"""Tables as text, with long cells wrapped, and as HTML."""

from __future__ import annotations

import html
import itertools
import textwrap
from collections.abc import Sequence


def text_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], widest: Sequence[int | None]
) -> list[str]:
    r"""The lines of a table.

    Args:
        headings: the column headings.
        rows: the cells.
        widest: the largest width of each column; None if its cells are never broken.

    Returns:
        The lines.

    Example:
        >>> print("\n".join(text_table(["a", "b"], [["1", "two words"]], [None, 5])))
        a  b
        ─  ─────
        1  two
           words
    """
    cells = [
        [_folded(cell, most) if most else [cell] for cell, most in zip(row, widest, strict=True)]
        for row in [headings, *rows]
    ]
    widths = [max(len(line) for row in cells for line in row[n]) for n in range(len(headings))]
    lines = []
    for row in cells:
        for parts in itertools.zip_longest(*row, fillvalue=""):
            padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return lines


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table as HTML.

    Args:
        headings: the column headings.
        rows: the cells, as plain text.

    Returns:
        A `table` element.

    Example:
        >>> html_table(["a"], [["1 < 2"]])
        '<table><tr><th>a</th></tr><tr><td>1 &lt; 2</td></tr></table>'
    """

    def row(cells: Sequence[str], kind: str) -> str:
        inner = "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells)
        return f"<tr>{inner}</tr>"

    return f"<table>{row(headings, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _folded(cell: str, most: int) -> list[str]:
    return textwrap.wrap(cell, most, break_long_words=False, break_on_hyphens=False) or [""]
