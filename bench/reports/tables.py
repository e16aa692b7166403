"""A table of a report, and how figures are written in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.runs.timing import Summary


@dataclass(frozen=True)
class Table:
    """A titled table of strings; `note` follows it."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def markdown(self) -> str:
        """GitHub's pipe table, numbers aligned right."""
        rule = ["---"] + ["---:"] * (len(self.header) - 1)
        lines = ["| " + " | ".join(row) + " |" for row in (self.header, tuple(rule), *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines] + (["", self.note] if self.note else []))

    def text(self) -> str:
        """Aligned columns for a terminal."""
        rows = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.header))]
        first, *rest = widths
        lines = ["  ".join([row[0].ljust(first), *(cell.rjust(w) for cell, w in zip(row[1:], rest, strict=True))]) for row in rows]
        lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
        return "\n".join([self.title, *lines] + ([self.note] if self.note else []))


def ratio(summary: Summary) -> str:
    """As "1.63x [1.55-1.70]"."""
    return f"{summary.median:.2f}x [{summary.p10:.2f}-{summary.p90:.2f}]"


def rate(summary: Summary) -> str:
    """As "120 (125)": median and best decile in GMAC/s."""
    digits = 0 if summary.median >= 99.5 else 1
    return f"{summary.median:.{digits}f} ({summary.p90:.{digits}f})"


def geomean(values: Iterable[float]) -> float:
    """The geometric mean. ValueError for no values."""
    logs = [math.log(value) for value in values]
    if not logs:
        raise ValueError("no values")
    return math.exp(sum(logs) / len(logs))
