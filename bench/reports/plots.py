"""Plots of the result files, one PNG each, with the measured ceiling of the core in every one that has one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from bench.runs.results import Group, Result

from . import more_plots
from .plotting import caption, pyplot, save, ticks_as_numbers

SHOWN_PEERS = 5
PEER_STYLES: tuple[Any, ...] = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2)))
# The heat map's colours end at this ratio, so that one very slow cell does not take the contrast from all others.
COLOUR_LIMIT = 8.0


def size_plot(result: Result, directory: Path) -> Path:
    """GMAC/s against size: every pair of `ulp`, the peers, and the core's bare mul8 and lut loops as the top lines."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 5))
    groups = [g for g in result.groups if g.shape[0] == g.shape[1] == g.shape[2]]
    names = list(dict.fromkeys(c.name for g in groups for c in g.of_kind("ulp", "int8", "fp32")))
    ulp_names = [n for n in names if any((c := g.find(n)) and c.kind == "ulp" for g in groups)]
    colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, max(1, len(ulp_names))))
    floats = {c.name for g in groups for c in g.of_kind("fp32")}
    greys = {kind: iter(plt.get_cmap(name)(np.linspace(0.4, 0.85, len(names)))) for kind, name in (("int8", "Greys"), ("fp32", "Oranges"))}
    styles = itertools.cycle(PEER_STYLES)
    for name in names:
        found = [(g.shape[0], c.rate) for g in groups if (c := g.find(name))]
        sizes = [s for s, _ in found]
        middle = np.array([r.median for _, r in found])
        spread = np.abs(np.array([[r.p10 for _, r in found], [r.p90 for _, r in found]]) - middle)
        if name in ulp_names:
            look = {"color": colours[ulp_names.index(name)], "linestyle": "-", "linewidth": 1.8}
        else:
            look = {"color": next(greys["fp32" if name in floats else "int8"]), "linestyle": next(styles), "linewidth": 1.1}
        axes.errorbar(sizes, middle, yerr=spread, label=name, capsize=2, **look)
    loops = (("lut", (0, (4, 2)), "bare lut loop, W1A1"), ("dot512", "-.", "bare vpdpbusd loop"), ("mul8", "-", "bare mul8 loop"))
    for loop, style, label in loops:
        tops = [(g.shape[0], c.rate.median) for g in groups if (c := g.find(f"ceiling {loop}"))]
        if tops:
            axes.plot(*zip(*tops, strict=True), color="crimson", linestyle=style, linewidth=1.5, label=f"this core's {label}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    ticks_as_numbers(axes)
    axes.set(xlabel="M = N = K", ylabel="GMAC/s", title="Exact integer GEMM by size")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    caption(axes, result)
    return save(figure, directory / "size.png")


def pair_plot(result: Result, group: Group, directory: Path) -> Path:
    """Speed-up over the fastest int8 of the group by bit pair, an 8 x 8 heat map."""
    plt = pyplot()
    peer = group.fastest("int8")
    if peer is None:
        raise ValueError(f"group {group.name} has no int8 peer to compare with")
    grid = np.full((8, 8), np.nan)
    for c in group.of_kind("ulp"):
        if c.bits:
            grid[c.bits[1] - 1, c.bits[0] - 1] = c.over(peer).median
    figure, axes = plt.subplots(figsize=(6.4, 5.4))
    # Centred on 1: blue is faster than the peer, red slower; the scale is that of the ratio's logarithm.
    limit = min(float(np.nanmax(np.abs(np.log2(grid)), initial=0.1)), float(np.log2(COLOUR_LIMIT)))
    image = axes.imshow(np.log2(grid), cmap="RdBu", vmin=-limit, vmax=limit, origin="lower")
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            dark = abs(np.log2(value)) > 0.6 * limit
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set(
        xticks=range(8), yticks=range(8), xticklabels=range(1, 9), yticklabels=range(1, 9), xlabel="activation bits", ylabel="weight bits",
        title=f"Speed over {peer.name} (int8), {group.name}",
    )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.85)
    ticks = np.linspace(-limit, limit, 5)
    bar.set_ticks(ticks, labels=[f"{2**t:.2f}x" for t in ticks])
    caption(axes, result, "medians over rounds")
    return save(figure, directory / "pairs.png")


def gemv_plot(result: Result, group: Group, directory: Path) -> Path:
    """Time against weight bits for few rows, with the time of reading that many bytes as the lower limit."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.8, 4.6))
    for kind, style, label in (("ulp", "o-", "ulp"), ("ceiling", "--", "plain read of the weights' bytes")):
        cells = [c for c in group.of_kind(kind) if c.bits or c.name.startswith("read")]
        points = sorted((c.bits[1] if c.bits else int(c.name.split()[1]), c.time) for c in cells)
        if points:
            middle = np.array([t.median for _, t in points]) / 1e3
            spread = np.abs(np.array([[t.p10 for _, t in points], [t.p90 for _, t in points]]) / 1e3 - middle)
            colour = "tab:blue" if kind == "ulp" else "crimson"
            axes.errorbar([b for b, _ in points], middle, yerr=spread, fmt=style, label=label, color=colour, capsize=3)
    peers = sorted(group.of_kind("int8", "fp32", "info"), key=lambda c: c.time.median)[:SHOWN_PEERS]
    for shade, style, c in zip(np.linspace(0.25, 0.65, max(1, len(peers))), PEER_STYLES, peers, strict=False):
        axes.axhline(c.time.median / 1e3, color=str(shade), linewidth=1.1, linestyle=style, label=f"{c.name}, {c.time.median / 1e3:.0f}")
    m, n, k = group.shape
    where = "weights from memory" if group.name.endswith("cold") else "weights in cache where they fit"
    axes.set(xlabel="weight bits", ylabel="microseconds", title=f"{m} x {k} times {k} x {n}, {where}", xlim=(0.8, 8.2))
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    caption(axes, result)
    return save(figure, directory / f"gemv_{m}{'_cold' if group.name.endswith('cold') else ''}.png")


def network_plot(result: Result, group: Group, directory: Path) -> Path:
    """Milliseconds of every runtime on one network, the fastest at the top."""
    plt = pyplot()
    cells = sorted(group.of_kind("ulp", "int8", "fp32"), key=lambda c: -c.time.median)
    colours = {"ulp": "tab:blue", "int8": "0.55", "fp32": "0.8"}
    figure, axes = plt.subplots(figsize=(6.8, 0.3 * len(cells) + 1.2))
    middle = np.array([c.time.median for c in cells]) / 1e6
    spread = np.abs(np.array([[c.time.p10 for c in cells], [c.time.p90 for c in cells]]) / 1e6 - middle)
    axes.barh([c.name for c in cells], middle, xerr=spread, color=[colours[c.kind] for c in cells], error_kw={"elinewidth": 1}, capsize=2)
    for row, value in enumerate(middle):
        axes.text(value, row, f"  {value:.1f}", va="center", fontsize=7)
    axes.set(xlabel="milliseconds per image", title=group.name)
    axes.margins(x=0.12)
    axes.grid(visible=True, axis="x", alpha=0.3)
    env = result.environment
    threads = group.cells[0].info.get("threads", 1)
    where = "one core" if threads == 1 else f"{threads} threads"
    figure.text(0.01, -0.02, f"{env['machine']['cpu']}, {where}, {env['date'][:10]}, bars: p10-p90 over rounds", fontsize=7, color="0.4")
    name = "".join(c if c.isalnum() else "_" for c in group.name.lower())
    return save(figure, directory / f"network_{name}.png")


def conv_plot(result: Result, directory: Path) -> Path:
    """GMAC/s of each layer: `ulp` at each width, the fastest int8 peer, the fastest FP32 one."""
    plt = pyplot()
    groups = result.groups
    figure, axes = plt.subplots(figsize=(7.5, 0.42 * len(groups) + 1.5))
    rows = np.arange(len(groups))[::-1]
    labels = list(dict.fromkeys(c.label for g in groups for c in g.of_kind("ulp")))
    colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, max(1, len(labels))))
    for label, colour in zip(labels, colours, strict=False):
        points = [(c.rate.median, row) for g, row in zip(groups, rows, strict=True) for c in g.of_kind("ulp") if c.label == label]
        axes.plot(*zip(*points, strict=True), "o", color=colour, label=f"ulp {label}", markersize=5)
    for kind, marker in (("int8", "s"), ("fp32", "^")):
        points = [(c.rate.median, row) for g, row in zip(groups, rows, strict=True) if (c := g.fastest(kind))]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color="0.4", label=f"the fastest {kind}", markersize=4, linestyle="")
    axes.set_yticks(rows, labels=[g.name for g in groups], fontsize=7)
    axes.set_xscale("log", base=2)
    ticks_as_numbers(axes, y=False)
    axes.set(xlabel="GMAC/s", title="Convolutions, one core")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7)
    caption(axes, result, "medians over rounds")
    return save(figure, directory / "conv.png")


def draw(results: dict[str, Result], directory: Path) -> list[Path]:
    """Every plot that the result files at hand allow; their paths."""
    made = []
    if gemm := results.get("gemm"):
        made.append(size_plot(gemm, directory))
    if pairs := results.get("pairs"):
        made += [pair_plot(pairs, g, directory) for g in pairs.groups if g.of_kind("ulp") and g.of_kind("int8")]
    if gemv := results.get("gemv"):
        made += [gemv_plot(gemv, g, directory) for g in gemv.groups]
    if conv := results.get("conv"):
        made.append(conv_plot(conv, directory))
    if networks := results.get("networks"):
        made += [network_plot(networks, g, directory) for g in networks.groups]
    return made + more_plots.draw(results, directory)
