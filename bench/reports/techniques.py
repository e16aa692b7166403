"""Tables of `run ablation`, `run paper` and `run layers`: what each technique gains, the published experiments, a network's steps."""

from __future__ import annotations

from bench.published import PUBLISHED, ULPPACK, ratio
from bench.runs.results import Cell, Group, Result

from . import tables
from .tables import Table, geomean, rate


def _us(cell: Cell) -> str:
    value = cell.time.median / 1e3
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def roles(group: Group) -> tuple[Cell, Cell] | None:
    """The cells with and without a technique."""
    found = {c.info.get("role"): c for c in group.cells}
    return (found["with"], found["without"]) if {"with", "without"} <= set(found) else None


def ablation_table(result: Result) -> Table:
    """One row per technique: its gain, and what ran on either side."""
    rows = []
    for group in result.groups:
        if pair := roles(group):
            with_, without = pair
            microseconds = map(_us, pair)
            what = (c.name.partition(": ")[2] for c in pair)
            rows.append((group.name, tables.ratio(with_.over(without)), *microseconds, *what))
    header = ("", "gain", "with, us", "without, us", "with", "without")
    left = [f"{one['technique']}: {one['why']}" for one in result.settings.get("not_run", []) if "technique" in one]
    note = "512x512x512 where no shape is named; the two sides alternate on the same values, both exact."
    return Table("Techniques on and off, one core", header, rows, " ".join([note, *(f"Not here: {words}." for words in left)]))


def published_table(result: Result, networks: Result | None) -> Table:
    """W3A3 at 512x512x512 and seven CNNs, as published and here."""
    rows = []
    group = result.find("W3A3 512x512x512")
    own = next((c for c in group.of_kind("ulp") if c.label == "W3A3"), None) if group else None
    if group and own:
        packed, serial = _technique(group, "ulppack_p1"), _technique(group, "bitserial")
        for key, peer in (("gemmlowp", group.find("gemmlowp")), ("QNNPACK", group.find("QNNPACK")), ("bitserial", serial)):
            if peer:
                by_packing = tables.ratio(packed.over(peer)) if packed else "-"
                name = f"bit-serial in ulp ({peer.name})" if peer is serial else peer.name
                rows.append((f"W3A3 over {name}", f"{ratio(key)}x", by_packing, tables.ratio(own.over(peer))))
    for key, over in (("networks fp32", "the fastest FP32"), ("networks QNNPACK", "QNNPACK")):
        if gains := _networks(networks, over) if networks else []:
            rows.append((f"{len(gains)} CNNs at W3A3 over {over}", f"{ratio(key)}x", "-", f"{geomean(gains):.2f}x"))
    header = ("", "ULPPACK, published, on ARM", "ULPPACK's packing, here", "ulp, here")
    others = "; ".join(f"{one.words} ({one.source})" for one in PUBLISHED if one.source != ULPPACK)
    note = f"The published figures are of another CPU and other code; only the columns here were measured. Quoted, not measured: {others}."
    return Table("The ULPPACK paper's experiments, repeated", header, rows, note)


def _technique(group: Group, name: str) -> Cell | None:
    """The fastest kernel of that technique."""
    cells = [c for c in group.of_kind("technique") if c.info.get("technique") == name]
    return min(cells, key=lambda c: c.time.median, default=None)


def _networks(result: Result, over: str) -> list[float]:
    gains = []
    for group in result.groups:
        own = next((c for c in group.of_kind("ulp") if c.label == "W3A3"), None)
        peer = group.find("QNNPACK") if over == "QNNPACK" else group.fastest("fp32")
        if own and peer and own.info.get("threads", 1) == 1:
            gains.append(own.over(peer).median)
    return gains


def products_table(result: Result) -> Table:
    """Every group of `run paper`: what the chosen kernel does beside the published packing, bit-serial kernels and two peers."""
    rows = []
    for group in result.groups:
        cells = group.of_kind("ulp", "technique", "int8")
        rows += [(f"{group.name}, {_of(cell)}", rate(cell.rate), _us(cell)) for cell in cells]
    energy = result.settings.get("energy", {})
    note = f"Energy was not measured: {energy['why_unavailable']}." if energy.get("why_unavailable") else _joules(energy)
    return Table("Products of the ULPPACK paper, one core", ("", "GMAC/s", "microseconds"), rows, note)


def _of(cell: Cell) -> str:
    return f"ulp ({cell.info.get('kernel')})" if cell.kind == "ulp" else cell.name


def _joules(energy: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [
        f"{group}: " + ", ".join(f"{name} {joules * 1e3:.3g} mJ" for name, joules in cells.items())
        for group, cells in energy.get("joules_per_call", {}).items()
    ]
    return "Energy of the package per call, idle power included: " + "; ".join(lines) + "." if lines else ""


def layers_table(group: Group, at_most: int = 40) -> Table:
    """The steps of one network, longest first."""
    whole = sum(c.time.median for c in group.cells)
    cells = sorted(group.cells, key=lambda c: -c.time.median)
    rows = []
    for c in cells[:at_most]:
        size = "x".join(map(str, c.info["shape"]))
        share, speed = f"{c.time.median / whole:.1%}", f"{c.rate.median:.0f}" if c.macs else "-"
        name = c.info["layer"] or c.info["step"]
        rows.append((name, str(c.info["step"]), str(c.info["kernel"]), size, f"{c.time.median / 1e3:.0f}", share, speed))
    rest = sum(c.time.median for c in cells[at_most:])
    if rest:
        rows.append((f"{len(cells) - at_most} more", "", "", "", f"{rest / 1e3:.0f}", f"{rest / whole:.1%}", "-"))
    rows.append(("all", "", "", "", f"{whole / 1e3:.0f}", "100 %", f"{sum(c.macs for c in cells) / whole:.0f}"))
    return Table(f"Steps of {group.name}, one core", ("", "step", "kernel", "result", "microseconds", "share", "GMAC/s"), rows)
