"""Tables for notebooks, in the colours of the notebook."""

import html
from collections.abc import Sequence

CELL = "padding: 0.15em 0.5em; white-space: {}; text-align: {}"


def as_html(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Writes a table in HTML; text is data, whatever is in it.

    Args:
      header: what is written above each column.
      rows: a text for each column.
      names: how many columns, from the left, are names, which begin at the left; numbers end at the right.
    """

    def line(cells: Sequence[str], kind: str) -> str:
        sides = ["left" if place < names else "right" for place in range(len(cells))]
        # Headings are longer than numbers: they are broken where the table would be too wide.
        space, parts = "normal" if kind == "th" else "nowrap", zip(cells, sides, strict=True)
        return "".join(
            f'<{kind} style="{CELL.format(space, side)}">{html.escape(cell.strip())}</{kind}>' for cell, side in parts
        )

    head = f"<thead><tr>{line(header, 'th')}</tr></thead>"
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<table style="font-variant-numeric: tabular-nums">{head}<tbody>{body}</tbody></table>'
