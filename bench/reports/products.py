"""Tables of products: speed, peers, sizes, few rows, small calls, threads, kernels, exactness.

A ratio is the median over rounds of the ratio within a round, p10 and p90 in brackets; a rate is the median, the best decile in brackets.
"The fastest" of a kind is the peer with the smallest median in that group.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.runs.options import GEMM_PAIRS
from bench.runs.results import Cell, Group, Result
from bench.subjects.interface import Check

from .tables import Table, rate, ratio


def _over(cell: Cell, peer: Cell | None) -> str:
    return ratio(cell.over(peer)) if peer else "-"


def _rate_and_ratio(cell: Cell | None, peer: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.rate.median:.0f}" + (f", {cell.over(peer).median:.2f}x" if peer else "")


def _share_of_read(cell: Cell, read: Cell) -> str:
    # Bytes per ns of the product over bytes per ns of the plain read, round by round.
    return f"{cell.over(read).median * cell.nbytes / read.nbytes:.0%}"


def _called(label: str, peer: Cell | None) -> str:
    return f"{label} ({peer.name})" if peer else label


def _ulp(group: Group) -> list[Cell]:
    return group.of_kind("ulp")


def speed_table(result: Result, group: Group) -> Table:
    """Every pair of `ulp` in one square group beside its peers."""
    fp32, int8 = group.fastest("fp32"), group.fastest("int8")
    exact = group.fastest("int8", only=result.exact_peers())
    qnnpack, gemmlowp = group.find("QNNPACK"), group.find("gemmlowp")
    header = (
        "", "GMAC/s", "over QNNPACK", "over gemmlowp", _called("over the fastest FP32", fp32), _called("over the fastest int8", int8),
        _called("over the fastest exact int8", exact), "kernel",
    )  # fmt: skip
    rows = [
        (c.label, rate(c.rate), *(_over(c, p) for p in (qnnpack, gemmlowp, fp32, int8, exact)), str(c.info.get("kernel", "")))
        for c in _ulp(group)
    ]
    ceiling = group.find("ceiling mul8")
    note = f"The bare `vpmaddubsw` + `vpaddw` loop of this core does {rate(ceiling.rate)} GMAC/s." if ceiling else ""
    return Table(f"{group.name}, one core", header, rows, note)


def peers_table(result: Result, group: Group) -> Table:
    """The peers of one group, fastest first: rate, time, what they compute."""
    rows = []
    for c in sorted(group.of_kind("int8", "fp32", "info"), key=lambda c: c.time.median):
        peer = result.peers.get(c.name, {})
        saturates = peer.get("kind") == "int8" and not peer.get("full_range", {}).get("exact", True)
        error = f"saturates: {Check(**peer['full_range']).words()} over the full range" if saturates else None
        notes = (peer.get("output") and f"{peer['output']} out", peer.get("note"), error)
        note = "; ".join(filter(None, notes)) or "-"
        rows.append((c.name, rate(c.rate), f"{c.time.median / 1e3:.0f}", note))
    return Table(f"Peers at {group.name}, one core", ("", "GMAC/s", "microseconds", "note"), rows)


def sizes_table(result: Result) -> Table:
    """GMAC/s of each pair at each size, and its ratio to the fastest int8 of the size."""
    names = list(dict.fromkeys(c.name for g in result.groups for c in _ulp(g)))
    rows = []
    for name in names:
        found = [(g.find(name), g.fastest("int8")) for g in result.groups]
        label = next(c.label for c, _ in found if c)
        rows.append((label, *(_rate_and_ratio(c, peer) for c, peer in found)))
    fastest = [g.fastest("int8") for g in result.groups]
    rows.append(("fastest int8", *(f"{p.rate.median:.0f} {p.name}" if p else "-" for p in fastest)))
    return Table("GMAC/s by size, and ratio to the fastest int8 there", ("", *(g.name for g in result.groups)), rows)


def gemv_table(result: Result, group: Group) -> Table:
    """Few rows: time, bandwidth of the packed weights, its share of a plain read of that many bytes, ratios."""
    fbgemm, int8, fp32 = group.find("FBGEMM"), group.fastest("int8"), group.fastest("fp32")
    exact = group.fastest("int8", only=result.exact_peers())
    header = (
        "", "microseconds", "GB/s of weights", "share of read bandwidth", "over FBGEMM", _called("over the fastest int8", int8),
        _called("over the fastest exact int8", exact), _called("over the fastest FP32", fp32),
    )  # fmt: skip
    rows = []
    for c in _ulp(group):
        read = group.find(f"read {c.bits[1]} bit") if c.bits else None
        share = _share_of_read(c, read) if read else "-"
        ratios = (_over(c, peer) for peer in (fbgemm, int8, exact, fp32))
        rows.append((c.label, f"{c.time.median / 1e3:.0f}", f"{c.nbytes / c.time.median:.1f}", share, *ratios))
    where = "weights from memory" if group.name.endswith("cold") else "weights in cache where they fit"
    return Table(f"{group.name.removesuffix(' cold')}, one core, {where}", header, rows)


def requantized_table(result: Result, group: Group) -> Table:
    """uint8 results beside the peers that give uint8, int32 results beside those that give int32."""
    peers = {kind: [name for name, peer in result.peers.items() if peer.get("output") == kind] for kind in ("uint8", "int32")}
    narrow, wide = (group.fastest("int8", only=peers[kind]) for kind in ("uint8", "int32"))
    rows = []
    for c in group.of_kind("ulp requantized"):
        int32 = next((one for one in _ulp(group) if one.bits == c.bits), None)
        rows.append((c.label, rate(c.rate), _over(c, narrow), rate(int32.rate) if int32 else "-", _over(int32, wide) if int32 else "-"))
    header = (
        "", "uint8, GMAC/s", _called("over the fastest int8 with uint8", narrow), "int32, GMAC/s",
        _called("over the fastest int8 with int32", wide),
    )  # fmt: skip
    return Table(f"{group.name}, uint8 and int32 results like for like, one core", header, rows)


def few_rows_table(result: Result, rows_of_a: int) -> Table:
    """One count of rows with the weights from cache and from memory side by side."""
    groups = {g.name.endswith("cold"): g for g in result.groups if g.shape[0] == rows_of_a}
    warm, cold = groups.get(False), groups.get(True)
    if warm is None or cold is None:
        return Table("", (), [])
    rows = []
    for c in _ulp(warm):
        other = cold.find(c.name)
        cells = [(c, warm)] + ([(other, cold)] if other else [])
        shown: list[str] = []
        for cell, g in cells:
            exact = g.fastest("int8", only=result.exact_peers())
            shown += [f"{cell.time.median / 1e3:.0f}", _over(cell, g.fastest("int8")), _over(cell, exact)]
        rows.append((c.label, f"{c.nbytes / 2**20:.1f}", *shown))
    for peer in (warm.fastest("int8"), warm.fastest("int8", only=result.exact_peers())):
        other = cold.find(peer.name) if peer else None
        if peer and other and peer.name not in {row[0] for row in rows}:
            times = [f"{one.time.median / 1e3:.0f}" for one in (peer, other)]
            rows.append((peer.name, f"{peer.nbytes / 2**20:.1f}", times[0], "", "", times[1], "", ""))
    header = (
        "", "MiB of weights", "in cache, us", "over the fastest int8", "over the fastest exact int8", "from memory, us",
        "over the fastest int8",
        "over the fastest exact int8",
    )  # fmt: skip
    m, n, k = warm.shape
    return Table(f"Few rows: {m}x{n}x{k}, one core", header, rows, "In cache: where the last call left them, if they fit.")


def small_table(group: Group) -> Table:
    """Latency of one small call in microseconds."""
    cells = sorted((c for c in group.cells if c.kind != "ceiling"), key=lambda c: c.time.median)
    rows = [(c.name, f"{c.time.median / 1e3:.2f}", f"{c.time.p10 / 1e3:.2f}-{c.time.p90 / 1e3:.2f}") for c in cells]
    what = "layer or network call" if group.name.count("x") == 3 else "call"
    return Table(f"One {group.name} {what} from Python", ("", "microseconds", "p10-p90"), rows)


def threads_table(group: Group) -> Table:
    """Two threads beside one, wall time."""
    rows = []
    for one in _ulp(group):
        two = group.find(one.name.replace("1 thread", "2 threads"))
        if one.info.get("threads") == 1 and two:
            rows.append((one.label, rate(one.rate), rate(two.rate), ratio(two.over(one))))
    return Table(f"{group.name}, two threads, wall time", ("", "one, GMAC/s", "two, GMAC/s", "gain"), rows)


def kernel_table(result: Result, shape: str, pairs: Sequence[tuple[int, int]] = GEMM_PAIRS) -> Table:
    """Each row of the kernel table at each pair: rate, MACs per cycle, share of the bare loop of its technique."""
    rows = []
    for bits in pairs:
        group = result.find(f"{shape} W{bits[1]}A{bits[0]}")
        for c in sorted(_ulp(group), key=lambda c: c.time.median) if group else []:
            bound = c.info.get("ceiling")
            loop = group.find(bound["loop"]) if bound and group else None
            share = "-"
            if bound and loop:
                share = f"{c.rate.median / loop.rate.median * bound['divisor']:.0%} of {bound['loop'].removeprefix('ceiling ')}"
            read = group.find(f"read {bits[1]} bit") if group else None
            of_read = _share_of_read(c, read) if read else "-"
            cycle = f"{c.rate.median / result.clock_ghz:.1f}" if result.clock_ghz else "-"
            rows.append((c.label, c.name, rate(c.rate), cycle, share, of_read))
    header = ("", "kernel", "GMAC/s", "MAC/cycle", "share of the bare loop", "share of read bandwidth")
    return Table(f"Kernels at {shape}", header, rows)


def exactness_table(result: Result) -> Table:
    """What each peer computes with activations over the full range of uint8."""
    rows = []
    for name, peer in result.peers.items():
        if "full_range" in peer and peer["kind"] == "int8":
            rows.append((name, Check(**peer["safe_range"]).words(), Check(**peer["full_range"]).words(), peer["note"] or "-"))
    return Table("Exactness of the int8 peers on this core", ("", "activations up to 127", "activations up to 255", "note"), rows)
