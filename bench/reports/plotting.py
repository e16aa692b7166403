"""What all plots share."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bench.runs.results import Result

DPI = 130


def pyplot() -> Any:
    """matplotlib.pyplot without a display."""
    importlib.import_module("matplotlib").use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def save(figure: Any, path: Path) -> Path:
    """Write the figure as PNG and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without metadata the same data gives the same file.
    figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    pyplot().close(figure)
    return path


def caption(axes: Any, result: Result, words: str = "bars: p10-p90 over rounds") -> None:
    """Machine, date and what the marks are, below the axes."""
    env = result.environment
    height = axes.get_window_extent().height / axes.figure.dpi * 72  # in points
    axes.annotate(
        f"{env['machine']['cpu']}, one core, {env['date'][:10]}, {words}",
        (0, -44 / height), xycoords="axes fraction", fontsize=7, color="0.4",
    )  # fmt: skip


def ticks_as_numbers(axes: Any, *, x: bool = True, y: bool = True, minor: bool = False) -> None:
    """Plain numbers on logarithmic axes."""
    formatter = importlib.import_module("matplotlib.ticker").FormatStrFormatter
    for axis in [axes.xaxis] * x + [axes.yaxis] * y:
        axis.set_major_formatter(formatter("%g"))
        if minor:
            axis.set_minor_formatter(formatter("%g"))
            axis.set_tick_params(which="minor", labelsize=6)
