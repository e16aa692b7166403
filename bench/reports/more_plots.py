"""Plots of what is not a product's or a network's time alone: rooflines, gains of techniques, steps of networks, accuracy against time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bench.runs.results import Cell, Group, Result

from .plotting import caption, pyplot, save, ticks_as_numbers
from .techniques import roles

LOOPS = {
    "bitserial512": "AND and vpopcntd, 1 bit", "lut": "byte lookups, 1 bit, AVX2", "dot512": "vpdpbusd, 512 bits",
    "mul8": "vpmaddubsw, AVX2",
}  # fmt: skip
ROOFLINE_FROM = 512  # squares from here on: their time is in the product, not in the call
STEPS_SHOWN = 32
SEVERAL = "several kernels"
GAIN_SHOWN = 4.5  # longer bars would make all others short


def _intensity(cell: Cell, group: Group) -> float:
    """Multiply-accumulates per byte of packed weights, activations (one byte each) and int32 results."""
    m, n, k = group.shape
    return cell.macs / (cell.nbytes + m * k + 4 * m * n)


def roofline_plot(gemm: Result, gemv: Result, directory: Path) -> Path | None:
    """GMAC/s against multiply-accumulates per byte, under the bare loops and the read bandwidth of the same runs."""
    squares = [g for g in gemm.groups if g.shape[0] >= ROOFLINE_FROM and any(c.name.startswith("ceiling") for c in g.cells)]
    cold = [g for g in gemv.groups if g.name.endswith("cold")]
    reads = [c.nbytes / c.time.median for g in cold for c in g.cells if c.name.startswith("read")]
    if not squares or not reads:
        return None
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 5))
    tops = {c.name.removeprefix("ceiling "): c.rate.median for c in squares[0].of_kind("ceiling")}
    x = np.logspace(-0.5, 3.4, 300)
    slope = max(reads)
    for name, style in zip([n for n in LOOPS if n in tops], ("-", "--", "-.", ":"), strict=False):
        axes.plot(x, np.minimum(slope * x, tops[name]), color="crimson", linewidth=1.2, linestyle=style, label=f"bare loop: {LOOPS[name]}")
    groups = [(f"{g.shape[0]} row" + "s" * (g.shape[0] > 1) + ", weights from memory", g) for g in cold]
    groups += [(g.name, g) for g in squares]
    widths = sorted({c.bits[1] for _, g in groups for c in g.of_kind("ulp") if c.bits})
    colours = dict(zip(widths, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(widths))), strict=True))
    for (label, g), mark in zip(groups, "o^Dsvp", strict=False):
        for c in g.of_kind("ulp"):
            if c.bits:
                axes.plot(_intensity(c, g), c.rate.median, mark, color=colours[c.bits[1]], markersize=5)
        axes.plot([], [], mark, color="0.5", markersize=5, linestyle="", label=label)
    for width in widths:
        axes.add_patch(plt.Rectangle((1, 1), 0, 0, color=colours[width], label=f"{width}-bit weights"))
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks_as_numbers(axes)
    axes.set(
        xlabel="multiply-accumulates per byte of weights, activations and results", ylabel="GMAC/s", title="Roofline of one core",
        ylim=(slope * 0.4, max(tops.values()) * 1.6),
    )  # fmt: skip
    axes.annotate(
        f"reads {slope:.1f} GB/s", (1.0, slope), textcoords="offset points", xytext=(-6, 4), ha="right", fontsize=7, color="crimson"
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    caption(axes, gemm, "points: medians; ceilings measured in the same runs")
    return save(figure, directory / "roofline.png")


def ablation_plot(result: Result, directory: Path) -> Path | None:
    """The gain of every technique."""
    pairs = [(g.name, *found) for g in result.groups if (found := roles(g))]
    if not pairs:
        return None
    plt = pyplot()
    gains = [(name, with_.over(without)) for name, with_, without in reversed(pairs)]
    figure, axes = plt.subplots(figsize=(7.2, 0.3 * len(gains) + 1.2))
    for row, (_, gain) in enumerate(gains):
        end = min(gain.median, GAIN_SHOWN)
        colour = "tab:blue" if gain.median >= 1 else "tab:red"
        axes.barh(row, end - 1, left=1, color=colour)
        if gain.median <= GAIN_SHOWN:
            axes.plot([gain.p10, gain.p90], [row, row], color="black", linewidth=1, marker="|")
        right = max(gain.p90 if gain.median <= GAIN_SHOWN else end, 1.0)
        axes.text(right, row, f"  {gain.median:.2f}x" + (" (bar cut)" if gain.median > GAIN_SHOWN else ""), va="center", fontsize=7)
    axes.set_yticks(range(len(gains)), [name for name, _ in gains], fontsize=7)
    axes.axvline(1, color="0.3", linewidth=0.8)
    axes.set(xlabel="times faster with it than without", title="Techniques on and off", xlim=(0.4, GAIN_SHOWN * 1.25))
    axes.margins(y=0.01)
    axes.grid(visible=True, axis="x", alpha=0.3)
    caption(axes, result, "lines: p10-p90 over rounds")
    return save(figure, directory / "ablation.png")


def layers_plot(result: Result, group: Group, directory: Path) -> Path:
    """The steps of one network in their order, small ones of one kind together."""
    plt = pyplot()
    whole = sum(c.time.median for c in group.cells)
    longest = {c.name for c in sorted(group.cells, key=lambda c: -c.time.median)[:STEPS_SHOWN]}
    shown = [(_step_name(c), c.time.median / 1e3, str(c.info["kernel"])) for c in group.cells if c.name in longest]
    rest = [c for c in group.cells if c.name not in longest]
    if rest:
        shown.append((f"{len(rest)} shorter steps", sum(c.time.median for c in rest) / 1e3, SEVERAL))
    kernels = list(dict.fromkeys(kernel for *_, kernel in shown))
    colours: dict[str, Any] = dict(zip(kernels, plt.get_cmap("tab10")(np.arange(len(kernels)) % 10), strict=True)) | {SEVERAL: "0.8"}
    figure, axes = plt.subplots(figsize=(7.5, 0.24 * len(shown) + 1.3))
    for row, (_, time, kernel) in enumerate(reversed(shown)):
        axes.barh(row, time, color=colours[kernel])
        axes.text(time, row, f"  {time:.0f}", va="center", fontsize=6)
    axes.set_yticks(range(len(shown)), [name for name, *_ in reversed(shown)], fontsize=6.5)
    axes.set(xlabel="microseconds", title=f"Steps of {group.name}: {whole / 1e6:.2f} ms")
    axes.margins(x=0.1, y=0.01)
    axes.grid(visible=True, axis="x", alpha=0.3)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[kernel]) for kernel in kernels]
    axes.legend(handles, kernels, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    caption(axes, result, "one image, medians over runs")
    name = "".join(c if c.isalnum() else "_" for c in group.name.lower())
    return save(figure, directory / f"layers_{name}.png")


def _step_name(cell: Cell) -> str:
    name, step = cell.info["layer"], cell.info["step"]
    return f"{name} ({step})" if name and name != step else str(step)


def accuracy_plot(result: Result, group: Group, directory: Path) -> Path:
    """The score of every quantized form of one model against its time."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.8, 4.4))
    looks = {"ulp, one pair": ("o", "tab:blue"), "ulp, bits chosen": ("s", "tab:green"), "int8": ("^", "0.4"), "float": ("*", "crimson")}
    for look, (mark, colour) in looks.items():
        cells = [c for c in group.cells if _look(c) == look]
        times, scores = [c.time.median / 1e6 for c in cells], [float(c.info["accuracy"]) for c in cells]
        axes.plot(times, scores, mark, color=colour, label=look, markersize=7, linestyle="")
    _labelled(axes, [(c.time.median / 1e6, float(c.info["accuracy"]), c.name) for c in group.cells])
    axes.set_xscale("log")
    ticks_as_numbers(axes, y=False, minor=True)
    axes.set(xlabel="milliseconds", ylabel=str(group.cells[0].info["metric"]), title=f"Quantized after training: {group.name}")
    axes.margins(x=0.18, y=0.15)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=7)
    caption(axes, result, "medians")
    name = "".join(c if c.isalnum() else "_" for c in group.name.lower())
    return save(figure, directory / f"accuracy_{name}.png")


def _look(cell: Cell) -> str:
    if cell.kind == "fp32":
        return "float"
    return "int8" if cell.kind != "ulp" else "ulp, one pair" if cell.bits else "ulp, bits chosen"


def _labelled(axes: Any, points: Iterable[tuple[float, float, str]]) -> None:
    """Names beside points, above and below by turns, so that neighbours do not cover each other."""
    for i, (x, y, name) in enumerate(sorted(points)):
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(4, 5 if i % 2 else -10), fontsize=6)


def draw(results: dict[str, Result], directory: Path) -> list[Path]:
    """Every plot of this module that the result files at hand allow."""
    made: list[Path | None] = []
    if (gemm := results.get("gemm")) and (gemv := results.get("gemv")):
        made.append(roofline_plot(gemm, gemv, directory))
    if ablation := results.get("ablation"):
        made.append(ablation_plot(ablation, directory))
    if layers := results.get("layers"):
        made += [layers_plot(layers, g, directory) for g in layers.groups]
    if quantize := results.get("quantize"):
        made += [accuracy_plot(quantize, g, directory) for g in quantize.groups if g.find("float in onnxruntime")]
    return [path for path in made if path]
