"""What `bits="auto"` has chosen and what it has measured on the way: the table, the Pareto front, a plot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ulp._table import Printed, Table

from .request import Assignment, Bits


@dataclass(frozen=True)
class LayerChoice:
    """One layer of the choice. ms: per call, of its own steps; error: its part of the relative squared error of the outputs."""

    name: str
    op_type: str
    bits: Bits | None
    ms: float
    error: float


@dataclass(frozen=True)
class Point:
    """A network that was built and tried.

    label: "auto", or the pair that all layers have, "W4A4"; "W4A4, ends W8A8" where the first and the last layer have 8 bits. ms: of a
    call, measured (modelled where a target was named). accuracy: the metric. error: the predicted relative squared error of the outputs.
    nbytes: of the network's weights and constants. final: whether its layers were rounded as those of a result are, by what the layers
    before give; else each for itself, as in a trial, which is found sooner and mostly less accurate.
    """

    label: str
    assignment: Assignment
    ms: float
    accuracy: float
    error: float
    nbytes: int
    final: bool = True


class Choice(Printed):
    """The outcome of `bits="auto"`; print() shows the bits, milliseconds and error of each layer.

    layers: a row per layer. chosen: the network that was taken, one of those that are final. points: all that were tried.
    float_accuracy: the float model's metric. metric: what it is called. budget: what was asked for. clock: how times were taken.
    """

    def __init__(
        self,
        layers: Sequence[LayerChoice],
        chosen: Point,
        points: Sequence[Point],
        float_accuracy: float,
        metric: str,
        budget: Mapping[str, float],
        clock: str,
    ) -> None:
        self.layers = tuple(layers)
        self.chosen = chosen
        self.points = tuple(sorted(points, key=lambda point: point.ms))
        self.float_accuracy = float_accuracy
        self.metric = metric
        self.budget = dict(budget)
        self.clock = clock

    @property
    def front(self) -> tuple[Point, ...]:
        """The points that no other one beats in both milliseconds and accuracy, from the fastest on."""
        return pareto(self.points)

    def plot(self, path: str | os.PathLike[str] | None = None, *, axes: Any = None) -> Any:
        """Draw accuracy against milliseconds: all networks that were tried, the front among them, the choice and the float model.

        path: an image file to write. axes: matplotlib's, to draw into. Returns the axes. ImportError without matplotlib.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError('plot needs the package matplotlib: pip install "ulp-gemm[quantize]"') from error
        if axes is None:
            figure = Figure(figsize=(7, 4.5), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
        axes.axhline(self.float_accuracy, color="0.6", linestyle=":", label="float")
        front = self.front
        axes.step([p.ms for p in front], [p.accuracy for p in front], where="post", color="0.7", label="Pareto front")
        for kind, marker, color in (("uniform", "o", "C0"), ("auto", "D", "C1")):
            for final, state in ((True, ""), (False, ", in a trial")):
                shown = [p for p in self.points if (p.label == "auto") == (kind == "auto") and p.final == final]
                if shown:
                    how: dict[str, Any] = {"marker": marker, "edgecolors": color, "facecolors": color if final else "none", "zorder": 2}
                    axes.scatter([p.ms for p in shown], [p.accuracy for p in shown], label=f"{kind} bits{state}", **how)
        named = [p for p in self.points if p.label != "auto" and (p in front or "," not in p.label)]
        for i, point in enumerate(named):
            axes.annotate(point.label, (point.ms, point.accuracy), xytext=(4, -11 if i % 2 else 5), textcoords="offset points", fontsize=8)
        best = self.chosen
        axes.scatter([best.ms], [best.accuracy], s=160, facecolors="none", edgecolors="C3", linewidths=1.5, label="chosen", zorder=3)
        if "max_ms" in self.budget:
            axes.axvline(self.budget["max_ms"], color="C3", linestyle="--", linewidth=0.8, label="max_ms")
        axes.set_xlabel(f"milliseconds per call ({self.clock})")
        axes.set_ylabel(self.metric)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
        if path is not None:
            axes.figure.savefig(os.fspath(path), dpi=120)
        return axes

    def _table(self) -> Table:
        rows = [
            (row.name, row.op_type, "float" if row.bits is None else str(row.bits), f"{row.ms:.4f}", f"{row.error:.1e}")
            for row in self.layers
        ]
        best = self.chosen
        rows.append(("total", "", "", f"{best.ms:.4f}", f"{best.error:.1e}"))
        asked = ", ".join(f"{name}={value:g}" for name, value in self.budget.items())
        title = (
            f"{asked}: {best.ms:.4g} ms, {best.nbytes / 1e6:.3g} MB, {self.metric} {best.accuracy:.2f} (float {self.float_accuracy:.2f}); "
            f"{best.label} of {len(self.points)} networks that were tried"
        )
        foot = f"ms: {self.clock}; the total has steps between layers, too. error: share of the outputs' power."
        return Table(("layer", "type", "bits", "ms", "error"), rows, right=2, title=title, foot=foot)

    def __repr__(self) -> str:
        return f"<Choice: {str(self).splitlines()[0]}>"


def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those that no other one beats, by ascending ms; of equal ones the first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -p.accuracy)):
        if not found or point.accuracy > found[-1].accuracy:
            found.append(point)
    return tuple(found)
