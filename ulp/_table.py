"""Tables of text, and the same as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Rows of cells under their heads, between a line above and one below ("": none). The last `right` columns are flush right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: int = 0
    title: str = ""
    foot: str = ""

    def __str__(self) -> str:
        lines = [self.heads, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        first_right = len(widths) - self.right
        texts = []
        for line in lines:
            cells = [cell.rjust(w) if i >= first_right else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
            texts.append("  ".join(cells).rstrip())
        return "\n".join([*filter(None, [self.title]), *texts, *filter(None, [self.foot])])

    def html(self) -> str:
        """The table as HTML, all texts escaped."""
        from html import escape

        first_right = len(self.heads) - self.right

        def line(cells: Sequence[str], tag: str) -> str:
            styles = ("right" if i >= first_right else "left" for i in range(len(cells)))
            return "".join(f'<{tag} style="text-align: {style}">{escape(cell)}</{tag}>' for cell, style in zip(cells, styles, strict=True))

        parts = [f"<p>{escape(self.title)}</p>"] if self.title else []
        parts.append(f"<table><thead><tr>{line(self.heads, 'th')}</tr></thead><tbody>")
        parts += [f"<tr>{line(row, 'td')}</tr>" for row in self.rows]
        parts.append("</tbody></table>")
        if self.foot:
            parts.append(f"<p>{escape(self.foot)}</p>")
        return "\n".join(parts)


class Printed:
    """What prints as a table, in notebooks as one of HTML."""

    __slots__ = ()

    def _table(self) -> Table:
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table().html()
