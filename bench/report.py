"""Tables from the result files, for the terminal and for the README's sections between their markers: what was measured, what was modelled.

A ratio is the median over rounds of the ratio within a round, p10 and p90 in brackets; a rate is the median, the best decile in brackets.
"The fastest" of a kind is the peer with the smallest median in that group.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import report_modelled, report_networks, report_onnx
from .cuda import report as report_cuda
from .peers.base import Check
from .results import Cell, Group, Result
from .runs import GEMM_PAIRS
from .tables import Table, rate, ratio

BEGIN = "<!-- speed:begin -->"
END = "<!-- speed:end -->"
MODELLED_BEGIN = "<!-- modelled:begin -->"
MODELLED_END = "<!-- modelled:end -->"
MAIN_SIZE = "512x512x512"


class ReportError(RuntimeError):
    """The README cannot be written or checked; the message says why."""


def _over(cell: Cell, peer: Cell | None) -> str:
    return ratio(cell.over(peer)) if peer else "-"


def _rate_and_ratio(cell: Cell | None, peer: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.rate.median:.0f}" + (f", {cell.over(peer).median:.2f}x" if peer else "")


def _share_of_read(cell: Cell, read: Cell) -> str:
    # Bytes a ns of the product over bytes a ns of the plain read, round by round.
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
        notes = (peer.get("note"), "not exact over the full range" if saturates else None)
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
    """Few rows: time, bandwidth of the packed weights, its share of a plain read of as many bytes, ratios."""
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
    """Each row of the kernel table at each pair: rate, MACs a cycle, share of the bare loop of its technique."""
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


def provenance(result: Result) -> str:
    """One sentence: machine, system, compiler, date, commit."""
    env = result.environment
    where = env["machine"]
    caches = ", ".join(f"{name} {size}" for name, size in where.get("caches", {}).items())
    versions = ", ".join(f"{name} {version}" for name, version in env["packages"].items())
    commit = (env.get("commit") or "unknown")[:12] + (" with local changes" if env.get("dirty") else "")
    clock = f" at {result.clock_ghz:.2f} GHz" if result.clock_ghz else ""
    compiler = env["ulp"].get("compiler", env.get("bench_compiler", ""))
    return (
        f"Measured {env['date'][:10]} by `{env['command']}` on {where['cpu']} ({where.get('family', '')}){clock}; {caches}; {env['os']}; "
        f"{compiler}; {versions}; commit {commit}."
    )


def tables(results: dict[str, Result], *, exactness: bool = True) -> list[Table]:
    """Every table that the result files at hand allow, in the order in which they are read; the peers' exactness at the end if wanted."""
    made: list[Table] = []
    if gemm := results.get("gemm"):
        main = gemm.find(MAIN_SIZE) or (gemm.groups[-1] if gemm.groups else None)
        if main:
            made += [speed_table(gemm, main), peers_table(gemm, main)]
        if len(gemm.groups) > 1:
            made.append(sizes_table(gemm))
    if gemv := results.get("gemv"):
        for g in gemv.groups:
            made += [gemv_table(gemv, g), peers_table(gemv, g)]
    if small := results.get("small"):
        made += [small_table(g) for g in small.groups]
    if threads := results.get("threads"):
        made += [threads_table(g) for g in threads.groups]
    if kernels := results.get("kernels"):
        shapes = dict.fromkeys(g.name.rsplit(" ", 1)[0] for g in kernels.groups)
        made += [kernel_table(kernels, shape) for shape in shapes]
    if conv := results.get("conv"):
        made += report_networks.conv_tables(conv)
    if networks := results.get("networks"):
        made += report_networks.network_tables(networks)
    if onnx := results.get("onnx"):
        made += report_onnx.tables(onnx)
    if cuda := results.get("cuda"):
        made += report_cuda.tables(cuda, results.get("cuda_kernels"))
    first = next((r for r in results.values() if r.peers), None)
    if first and exactness:
        made.append(exactness_table(first))
    return [t for t in made if t.rows]


# What a newcomer reads; the full report stands beside the result files.
README_TABLES = (
    "512x512x512, one core", "GMAC/s by size", "1x4096x4096, one core", "1024x1024x1024, two threads", "Convolutions at W3A3",
    "Networks at W3A3", "Networks at W2A2, one core", "Networks, MiB", "Models from ONNX", "Exactness",
)  # fmt: skip
FULL_REPORT = "REPORT.md"


def section(results: dict[str, Result]) -> str:
    """The README's section, without its markers: the tables of README_TABLES."""
    chosen = [t for t in tables(results) if t.title.startswith(README_TABLES)]
    path = f"bench/results/{FULL_REPORT}"
    more = f"Peers' own figures, more shapes, every kernel at every pair: [{path}]({path}); plots beside it."
    return _document(results, chosen, more)


def full_report(results: dict[str, Result], modelled: dict[str, Any] | None = None) -> str:
    """All tables, as a page of its own."""
    closing = "Written by `python -m bench report` from the JSON beside it."
    parts = ["# Benchmark report", _document(results, tables(results), closing)]
    if modelled:
        parts += ["## ARM, modelled", report_modelled.section(modelled)]
    return "\n\n".join(parts) + "\n"


def _document(results: dict[str, Result], chosen: Sequence[Table], closing: str) -> str:
    if not results:
        raise ReportError("no result files: python -m bench run all")
    legend = (
        "Ratios are medians over rounds of the ratio within a round, [p10-p90]; rates are medians (best decile). The int8 peers get "
        "activations of 0..127, where the saturating ones are exact; `ulp` is exact everywhere."
    )
    first = results.get("gemm") or next(iter(results.values()))
    return "\n\n".join([*(t.markdown() for t in chosen), legend, provenance(first), closing])


def with_section(readme: str, body: str, begin: str = BEGIN, end: str = END) -> str:
    """The README's text with the part between the markers replaced. ReportError unless there is exactly one pair of markers, in order."""
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ReportError(f"the README needs one line {begin} and after it one line {end}")
    return re.sub(re.escape(begin) + r".*?" + re.escape(end), lambda _: f"{begin}\n{body}\n{end}", readme, flags=re.DOTALL)


def write_readme(path: Path, results: dict[str, Result], modelled: dict[str, Any] | None = None) -> bool:
    """Put the sections into the README; returns whether that changed it."""
    return _update(path, results, modelled, write=True)


def readme_is_current(path: Path, results: dict[str, Result], modelled: dict[str, Any] | None = None) -> bool:
    """Whether the README says what the result files say."""
    return not _update(path, results, modelled, write=False)


def _update(path: Path, results: dict[str, Result], modelled: dict[str, Any] | None, *, write: bool) -> bool:
    if not path.exists():
        raise ReportError(f"no {path.name} to put the speed table into")
    before = path.read_text(encoding="utf-8")
    after = with_section(before, section(results))
    if modelled:
        after = with_section(after, report_modelled.section(modelled), MODELLED_BEGIN, MODELLED_END)
    if write and after != before:
        path.write_text(after, encoding="utf-8")
    return after != before
