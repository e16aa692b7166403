"""Tables of `run conv` and `run networks`: each layer and network beside the fastest peer of its own group."""

from __future__ import annotations

from bench.runs.results import Cell, Group, Result

from .tables import Table, geomean, rate, ratio

MIB = 1 << 20


def _labels(groups: list[Group]) -> list[str]:
    """W3A3 and so on, in the order in which they were measured."""
    return list(dict.fromkeys(c.label for g in groups for c in g.of_kind("ulp")))


def _of(group: Group, label: str) -> Cell | None:
    return next((c for c in group.of_kind("ulp") if c.label == label), None)


def _beside(cell: Cell, peer: Cell | None) -> str:
    return f"{ratio(cell.over(peer))} {peer.name}" if peer else "-"


def conv_table(result: Result, label: str) -> Table:
    """One width: each layer's rate and its ratios."""
    rows = []
    for g in result.groups:
        if cell := _of(g, label):
            peers = (g.fastest("int8"), g.find("QNNPACK"), g.fastest("fp32"))
            ratios = (_beside(cell, peers[0]), ratio(cell.over(peers[1])) if peers[1] else "-", _beside(cell, peers[2]))
            rows.append((g.name, rate(cell.rate), f"{cell.time.median / 1e3:.0f}", *ratios, str(cell.info.get("kernel", ""))))
    header = ("", "GMAC/s", "microseconds", "over the fastest int8", "over QNNPACK", "over the fastest FP32", "kernel")
    note = "uint8 NHWC in and out, requantized with ReLU in the same pass."
    return Table(f"Convolutions at {label}, one core", header, rows, note)


def conv_peers_table(result: Result) -> Table:
    """GMAC/s of every peer at every layer."""
    names = list(dict.fromkeys(c.name for g in result.groups for c in g.of_kind("int8", "fp32")))
    rows = []
    for g in result.groups:
        cells = [g.find(name) for name in names]
        rows.append((g.name, *(f"{c.rate.median:.1f}" if c else "-" for c in cells)))
    wrong = {name: peer["safe_range"]["max_error"] for name, peer in result.peers.items() if "safe_range" in peer}
    off = [name for name, error in wrong.items() if error]
    note = f"Every output was checked: {', '.join(off)} off by one level of 255." if off else "Every output was checked, and exact."
    return Table("Convolutions, the peers' GMAC/s, one core", ("", *names), rows, note)


def conv_tables(result: Result) -> list[Table]:
    """Every table of convolutions."""
    return [*(conv_table(result, label) for label in _labels(result.groups)), conv_peers_table(result)]


def _threads(group: Group) -> int:
    return int(group.cells[0].info.get("threads", 1))


def _batch(group: Group) -> int:
    return int(group.cells[0].info.get("batch", 1))


def _on(group: Group) -> str:
    batch = f", {_batch(group)} images at once" if _batch(group) > 1 else ""
    return ("one core" if _threads(group) == 1 else f"{_threads(group)} threads") + batch


def _network(group: Group) -> str:
    return group.name.partition(",")[0]


def network_table(groups: list[Group], label: str) -> Table:
    """One width: each network's time and its ratios, and their geometric means."""
    rows: list[tuple[str, ...]] = []
    medians: dict[str, list[float]] = {"fp32": [], "int8": [], "QNNPACK": []}
    for g in groups:
        cell = _of(g, label)
        if cell is None:
            continue
        peers = {"fp32": g.fastest("fp32"), "int8": g.fastest("int8"), "QNNPACK": g.find("QNNPACK")}
        for key, peer in peers.items():
            if peer:
                medians[key].append(cell.over(peer).median)
        shown = (_beside(cell, peers["fp32"]), _beside(cell, peers["int8"]), ratio(cell.over(q)) if (q := peers["QNNPACK"]) else "-")
        rows.append((_network(g), f"{cell.time.median / 1e6:.2f}", f"{cell.rate.median:.0f}", *shown))
    if len(rows) > 1:
        rows.append(("geometric mean", "", "", *(f"{geomean(values):.2f}x" if values else "-" for values in medians.values())))
    header = ("", "ms", "GMAC/s", "over the fastest FP32", "over the fastest int8", "over QNNPACK")
    images = "One image" if _batch(groups[0]) == 1 else f"{_batch(groups[0])} images"
    note = f"{images} of 224 x 224, float32 in and out; the first layer has 8-bit weights and activations, everything else the low width."
    return Table(f"Networks at {label}, {_on(groups[0])}", header, rows, note)


def milliseconds_table(result: Result, groups: list[Group]) -> Table:
    """The time of every runtime on every network."""
    names = list(dict.fromkeys(c.name for g in groups for c in g.of_kind("ulp", "int8", "fp32")))
    rows = []
    for name in names:
        cells = [g.find(name) for g in groups]
        times = (f"{c.time.median / 1e6:.2f}" if c else "-" for c in cells)
        rows.append((name, *times, result.peers.get(name, {}).get("note") or "-"))
    return Table(f"Networks, milliseconds, {_on(groups[0])}", ("", *map(_network, groups), "note"), rows)


def memory_table(groups: list[Group]) -> Table:
    """Size of each model, and what a fresh process needs to load and run it."""
    names = list(dict.fromkeys(c.name for g in groups for c in g.cells if "memory" in c.info))
    rows = []
    for name in names:
        shown = []
        for g in groups:
            info = c.info if (c := g.find(name)) else {}
            memory = info.get("memory")
            size = info.get("model_bytes", info.get("file_bytes", 0)) / MIB
            shown.append(f"{size:.1f}, {memory['peak'] / MIB:.0f} ({(memory['peak'] - memory['imported']) / MIB:.0f})" if memory else "-")
        rows.append((name, *shown))
    note = (
        "Peak resident memory of a fresh process that loads the model and runs it; in brackets what came on top of importing the runtime."
    )
    return Table("Networks, MiB of model, and at peak", ("", *map(_network, groups)), rows, note)


def network_tables(result: Result) -> list[Table]:
    """Every table of networks."""
    made: list[Table] = []
    for threads, batch in sorted({(_threads(g), _batch(g)) for g in result.groups}):
        groups = [g for g in result.groups if (_threads(g), _batch(g)) == (threads, batch)]
        made += [network_table(groups, label) for label in _labels(groups)]
        made.append(milliseconds_table(result, groups))
        if threads == 1 and batch == 1:
            made.append(memory_table(groups))
    return made
