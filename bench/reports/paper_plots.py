"""The plots of the paper, one PDF each, for one column of 84 mm. A plot whose result is missing is not drawn."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.runs.results import Cell

from .paper_sources import Sources
from .paper_values import NETWORK_PAIRS, main_group, of_label, of_one_isa, one_core, short

WIDTH = 3.35  # inches, one column
SMALL = 6.5
COLOURS = {
    "W1A1": "#08306b",
    "W1A2": "#08306b",
    "W2A2": "#2171b5",
    "W3A3": "#41ab5d",
    "W4A4": "#fd8d3c",
    "W6A6": "#d94801",
    "W8A8": "#7f2704",
}
STYLE = {
    "font.family": "serif", "font.size": 7.5, "axes.titlesize": 7.5, "axes.labelsize": 7.5, "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL, "legend.fontsize": SMALL, "axes.linewidth": 0.6, "pdf.fonttype": 42, "legend.frameon": False,
}  # fmt: skip
COLOUR_LIMIT = 8.0


def _pyplot() -> Any:
    importlib.import_module("matplotlib").use("Agg")
    plt = importlib.import_module("matplotlib.pyplot")
    plt.rcParams.update(STYLE)
    return plt


def bare(loop: str) -> str:
    """What a bare loop is called."""
    called = {"dot512": "VNNI", "dot256": "AVX-VNNI", "lut512": "vpermb", "bitserial512": "popcount"}
    return f"bare {called.get(loop, loop)} loop"


def _axes(height: float) -> tuple[Any, Any]:
    figure, axes = _pyplot().subplots(figsize=(WIDTH, height))
    return figure, axes


def _plain_ticks(axis: Any) -> None:
    ticker = importlib.import_module("matplotlib.ticker")
    axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _pairs(sources: Sources) -> Any:
    group = main_group(sources.results.get("pairs"))
    peer = group.fastest("int8") if group else None
    if not group or not peer:
        return None
    grid = np.full((8, 8), np.nan)
    for c in group.of_kind("ulp"):
        if c.bits:
            grid[c.bits[1] - 1, c.bits[0] - 1] = c.over(peer).median
    figure, axes = _axes(2.5)
    limit = min(float(np.nanmax(np.abs(np.log2(grid)), initial=0.1)), float(np.log2(COLOUR_LIMIT)))
    axes.imshow(np.log2(grid), cmap="RdBu", vmin=-limit, vmax=limit, origin="lower", aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if abs(np.log2(value)) > 0.6 * limit else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=SMALL, color=colour)
    axes.set(xticks=range(8), yticks=range(8), xticklabels=range(1, 9), yticklabels=range(1, 9))
    axes.set(xlabel="activation bits", ylabel="weight bits")
    return figure


def _sizes(sources: Sources) -> Any:
    gemm = sources.results.get("gemm")
    groups = [g for g in gemm.groups if g.shape[0] == g.shape[1] == g.shape[2]] if gemm else []
    if not groups:
        return None
    figure, axes = _axes(2.5)
    labels = list(dict.fromkeys(c.label for g in groups for c in g.of_kind("ulp")))
    for label in labels:
        found = [(g.shape[0], c.rate.median) for g in groups if (c := of_label(g, label))]
        axes.plot(*zip(*found, strict=True), "o-", color=COLOURS.get(label), markersize=2.5, linewidth=1.1, label=label)
    for kind, style, shade in (("int8", "--", "0.35"), ("fp32", ":", "0.35")):
        found = [(g.shape[0], c.rate.median) for g in groups if (c := g.fastest(kind))]
        if found:
            axes.plot(*zip(*found, strict=True), style, color=shade, linewidth=1.1, label=f"fastest {kind}")
    for name, colour in (("mul8", "crimson"), ("dot512", "darkgreen"), ("lut", "purple")):
        tops = [(g.shape[0], c.rate.median) for g in groups if (c := g.find(f"ceiling {name}"))]
        if tops:
            axes.plot(*zip(*tops, strict=True), color=colour, linewidth=0.7, label=bare(name))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    _plain_ticks(axes.xaxis)
    _plain_ticks(axes.yaxis)
    axes.set(xlabel="$M = N = K$", ylabel="GMAC/s")
    axes.grid(visible=True, alpha=0.3, linewidth=0.4)
    axes.legend(ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.2), columnspacing=1.0, handlelength=1.6)
    return figure


def _conv(sources: Sources) -> Any:
    conv = sources.results.get("conv")
    rows = [(g, peer) for g in conv.groups if (peer := g.fastest("int8"))] if conv else []
    if not rows:
        return None
    figure, axes = _axes(0.115 * len(rows) + 0.7)
    places = np.arange(len(rows))[::-1]
    for label, mark in zip(NETWORK_PAIRS, "v^os", strict=True):
        found = [(c.over(peer).median, y) for (g, peer), y in zip(rows, places, strict=True) if (c := of_label(g, label))]
        if found:
            axes.plot(*zip(*found, strict=True), mark, color=COLOURS[label], markersize=3.2, label=label, markeredgewidth=0)
    axes.axvline(1, color="0.3", linewidth=0.8)
    axes.set_yticks(places, [short(g.name.replace(" of the paper", "").replace("depthwise", "dw")) for g, _ in rows], fontsize=5.6)
    axes.set(xlabel="speed over the fastest int8 library", xlim=(0, None))
    axes.grid(visible=True, axis="x", alpha=0.3, linewidth=0.4)
    axes.legend(ncol=4, loc="lower center", bbox_to_anchor=(0.3, 1.0), handletextpad=0.2, columnspacing=1.0)
    return figure


def _networks(sources: Sources) -> Any:
    groups = one_core(sources.results.get("networks"))
    if not groups:
        return None
    figure, axes = _axes(2.1)
    places, width = np.arange(len(groups)), 0.2
    for i, label in enumerate(NETWORK_PAIRS):
        for kind, shade in (("fp32", 0.35), ("int8", 1.0)):
            pairs = [(of_label(g, label), g.fastest(kind)) for g in groups]
            heights = [c.over(p).median if c and p else 0.0 for c, p in pairs]
            axes.bar(places + (i - 1.5) * width, heights, width, color=COLOURS[label], alpha=shade, label=label if kind == "int8" else None)
    axes.axhline(1, color="0.3", linewidth=0.8)
    axes.set_xticks(places, [short(g.name) for g in groups], fontsize=5.8)
    axes.set(ylabel="speed over the fastest\nint8 (solid), FP32 (pale)")
    axes.legend(ncol=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _roofline(sources: Sources) -> Any:
    gemm, gemv = sources.results.get("gemm"), sources.results.get("gemv")
    square = main_group(gemm)
    cold = [g for g in gemv.groups if g.name.endswith("cold")] if gemv else []
    if not gemm or not gemv or not square or not cold or gemm.environment["machine"]["cpu"] != gemv.environment["machine"]["cpu"]:
        return None
    reads = [c.nbytes / c.time.median for g in cold for c in g.cells if c.name.startswith("read")]
    loops = {c.name.removeprefix("ceiling "): c.rate.median for c in square.of_kind("ceiling")}
    if not reads or not loops:
        return None
    figure, axes = _axes(2.4)
    intensity = np.logspace(-0.5, 4.2, 200)
    bandwidth = max(reads)
    for name, top in loops.items():
        axes.plot(intensity, np.minimum(bandwidth * intensity, top), linewidth=0.9, color="crimson" if name == "mul8" else "0.4")
        axes.text(intensity[0], top * 1.06, bare(name), ha="left", fontsize=SMALL)
    for group, mark in ((square, "o"), *((g, m) for g, m in zip(cold, "^s", strict=False))):
        # All of few rows have 8-bit activations.
        points = [
            (c.macs / c.nbytes, c.rate.median, c.label if group is square else c.label.removesuffix("A8"))
            for c in group.of_kind("ulp") if c.nbytes
        ]  # fmt: skip
        if not points:
            continue
        name = group.name.removesuffix(" cold").replace("x", "\u00d7")
        axes.plot(
            [p[0] for p in points], [p[1] for p in points], mark, markersize=3.2, label=name + (", cold" if group is not square else "")
        )
        for i, (x, y, label) in enumerate(sorted(points)):
            left = mark == "^" or (group is square and i % 2 == 0)
            place = {"xytext": (-2.5, 2.5), "ha": "right"} if left else {"xytext": (2.5, -5)}
            axes.annotate(label, (x, y), textcoords="offset points", fontsize=5, **place)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    axes.set(xlabel="multiply-accumulates per byte of packed weights", ylabel="GMAC/s")
    axes.set_ylim(bottom=5)
    axes.grid(visible=True, alpha=0.3, linewidth=0.4)
    axes.legend(loc="lower right")
    return figure


def _accuracy(sources: Sources) -> Any:
    groups = of_one_isa(sources.results.get("quantize"))
    if not groups:
        return None
    group = groups[0]
    figure, axes = _axes(2.3)
    kinds = {"one pair throughout": ("o", "tab:blue"), "bits by the clock": ("s", "crimson"), "other tools": ("^", "0.5")}
    for kind, (mark, colour) in kinds.items():
        cells = [c for c in group.cells if kind == _kind(c)]
        axes.plot([c.time.median / 1e6 for c in cells], [c.info["accuracy"] for c in cells], mark, color=colour, markersize=3.2, label=kind)
    middle = sum(c.time.median for c in group.cells) / len(group.cells)
    for c in group.cells:
        name = c.name.replace("float in onnxruntime", "float").replace("auto, ", "").replace("onnxruntime", "ort")
        place = {"xytext": (3, -6)} if c.time.median < middle else {"xytext": (-3, 3), "ha": "right"}
        axes.annotate(name, (c.time.median / 1e6, c.info["accuracy"]), textcoords="offset points", fontsize=5, **place)
    axes.set(xlabel=f"ms, {group.name}", ylabel=str(group.cells[0].info["metric"]))
    axes.margins(x=0.2, y=0.12)
    axes.grid(visible=True, alpha=0.3, linewidth=0.4)
    axes.legend(ncol=3, loc="lower center", bbox_to_anchor=(0.45, 1.0), handletextpad=0.2, columnspacing=1.0)
    return figure


def _kind(cell: Cell) -> str:
    return "other tools" if cell.kind != "ulp" else "one pair throughout" if cell.bits else "bits by the clock"


# By name: what draws it, the results that it shows, and the command that measures them.
PLOTS: dict[str, tuple[Callable[[Sources], Any], tuple[str, ...], str]] = {
    "pairs": (_pairs, ("pairs",), "python -m bench run pairs"),
    "sizes": (_sizes, ("gemm",), "python -m bench run gemm"),
    "conv": (_conv, ("conv",), "python -m bench run conv"),
    "networks": (_networks, ("networks",), "python -m bench run networks"),
    "roofline": (_roofline, ("gemm", "gemv"), "python -m bench run all"),
    "accuracy": (_accuracy, ("quantize",), "python -m bench quantize"),
}  # fmt: skip


def draw(sources: Sources, directory: Path) -> list[str]:
    """Draw what can be drawn, and return the names. ImportError without matplotlib."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (make, _, _) in PLOTS.items():
        path = directory / f"{name}.pdf"
        path.unlink(missing_ok=True)
        figure = make(sources)
        if figure is not None:
            # Without a date the same data give the same file.
            figure.savefig(path, bbox_inches="tight", pad_inches=0.02, metadata={"CreationDate": None, "Producer": None, "Creator": None})
            _pyplot().close(figure)
            drawn.append(name)
    return drawn
