"""The tables of the paper, as LaTeX. One whose result is missing says so, and with which command it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import modelled
from .paper_sources import Age, Sources, ages
from .paper_values import (
    PAIRS,
    PUBLISHED_GEMM,
    PUBLISHED_NETWORKS,
    SIZE,
    code,
    digits,
    escaped,
    main_group,
    of_label,
    of_one_isa,
    one_core,
    peers_of,
    short,
    times,
    values,
)  # fmt: skip

Row = Sequence[str]

MIB = 1 << 20
# Keys of peers and how a heading calls them.
PEERS = {"int8": "int8", "exact": "exact int8", "qnnpack": "QNNPACK", "gemmlowp": "gemmlowp", "fp32": "FP32"}


def tabular(header: Row, rows: Sequence[Row], columns: str | None = None) -> str:
    """A table of booktabs, first column left and the others right."""
    lines = [" & ".join(row) + r" \\" for row in rows]
    columns = columns or "@{}l" + "r" * (len(header) - 1) + "@{}"
    head = " & ".join(header) + r" \\"
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _stated(published: float) -> str:
    return rf"{published:g}\ensuremath{{\times}}"


def missing(command: str) -> str:
    """In place of a table or plot."""
    return rf"\emph{{Not measured: \texttt{{{escaped(command)}}} has left no result.}}" + "\n"


def _exactness(check: dict[str, Any]) -> str:
    if check["exact"]:
        return "exact"
    unit = "levels" if check["step"] > 1 else "units"
    return rf"off by {check['max_error']:,.0f} {unit}, {100 * check['wrong_share']:.0f}\,\%".replace(",", "{,}", check["max_error"] >= 1000)


def _gemm(sources: Sources) -> str:
    gemm = sources.results.get("gemm")
    group = main_group(gemm)
    if not gemm or not group:
        return missing("python -m bench run gemm")
    peers = peers_of(group, gemm.exact_peers())
    rows = []
    for label in PAIRS:
        if cell := of_label(group, label):
            ratios = (times(cell.over(peer).median) if peer else "--" for peer in peers.values())
            rows.append((label, digits(cell.rate.median), *ratios))
    return tabular(("", "GMAC/s", *PEERS.values()), rows)


def _other(make: Callable[[Sources], str]) -> Callable[[Sources], str]:
    """The same table of the other machine."""
    return lambda sources: make(sources.other) if sources.other else missing("python -m bench run gemm")


def _published(sources: Sources) -> str:
    found = values(sources)

    def shown(key: str) -> str:
        return found[key] or "not measured"

    rows = [
        ("gemmlowp", _stated(PUBLISHED_GEMM["gemmlowp"]), shown("published.gemmlowp")),
        ("QNNPACK", _stated(PUBLISHED_GEMM["qnnpack"]), shown("published.qnnpack")),
        ("bit-serial", _stated(PUBLISHED_GEMM["bitserial"]), shown("published.bitserial")),
        (r"\midrule CNNs, FP32", _stated(PUBLISHED_NETWORKS["fp32"]), shown("networks.W3A3.over.fp32")),
        ("CNNs, QNNPACK", _stated(PUBLISHED_NETWORKS["qnnpack"]), shown("networks.W3A3.over.qnnpack")),
    ]
    return tabular(("over", "ULPPACK, published (ARM)", "here"), rows)


def _kernels(sources: Sources) -> str:
    kernels = sources.results.get("kernels")
    groups = {label: g for label in PAIRS if kernels and (g := kernels.find(f"{SIZE} {label}"))}
    if not groups:
        return missing("python -m bench run kernels")
    techniques = list(dict.fromkeys(c.name for g in groups.values() for c in g.of_kind("ulp")))
    rows = []
    for name in techniques:
        shown = []
        for group in groups.values():
            cell, best = group.find(name), group.fastest("ulp")
            text = digits(cell.rate.median) if cell else "--"
            shown.append(rf"\textbf{{{text}}}" if cell is best else text)
        rows.append((escaped(name.rpartition("_")[0]), *shown))
    return tabular(("kernel", *groups), rows)


def _ablation(sources: Sources) -> str:
    ablation = sources.results.get("ablation")
    rows = []
    for group in ablation.groups if ablation else ():
        roles = {str(c.info.get("role")): c for c in group.cells}
        if {"with", "without"} <= set(roles):
            gain = roles["with"].over(roles["without"])
            rows.append((escaped(group.name), times(gain.median), f"{gain.p10:.2f}--{gain.p90:.2f}"))
    return tabular(("technique", "gain", "p10--p90"), rows) if rows else missing("python -m bench run ablation")


def _gemv(sources: Sources) -> str:
    gemv = sources.results.get("gemv")
    groups = [(g, where) for name, where in (("1x4096x4096", "hot"), ("1x4096x4096 cold", "cold")) if gemv and (g := gemv.find(name))]
    if not groups:
        return missing("python -m bench run gemv")
    rows = []
    for label in ("W1A8", "W2A8", "W3A8", "W4A8", "W8A8"):
        shown: list[str] = []
        for group, _ in groups:
            cell, int8 = of_label(group, label), group.fastest("int8")
            shown += [digits(cell.time.median / 1e3), times(cell.over(int8).median)] if cell and int8 else ["--", "--"]
        rows.append((label, *shown))
    header = [text for _, where in groups for text in (rf"{where}, \textmu s", "over int8")]
    return tabular(("", *header), rows)


def _networks(sources: Sources) -> str:
    groups = one_core(sources.results.get("networks"))
    if not groups:
        return missing("python -m bench run networks")
    names = list(dict.fromkeys(c.name for g in groups for c in g.of_kind("ulp", "int8", "fp32")))
    rows = []
    for name in names:
        cells = [g.find(name) for g in groups]
        rows.append((escaped(name), *(digits(c.time.median / 1e6) if c else "--" for c in cells)))
    return tabular(("ms", *(short(g.name) for g in groups)), rows)


def _memory(sources: Sources) -> str:
    groups = [g for g in one_core(sources.results.get("networks")) if any("memory" in c.info for c in g.cells)]
    if not groups:
        return missing("python -m bench run networks")
    names = ("ulp W2A2", "ulp W4A4", "onnxruntime QDQ", "OpenVINO", "onnxruntime fp32")
    rows = []
    for name in names:
        shown = []
        for g in groups:
            info = c.info if (c := g.find(name)) else {}
            memory, size = info.get("memory"), info.get("model_bytes", info.get("file_bytes", 0)) / MIB
            shown.append(f"{digits(size)}/{digits((memory['peak'] - memory['imported']) / MIB)}" if memory else "--")
        rows.append((escaped(name), *shown))
    return tabular(("", *(short(g.name) for g in groups)), rows)


def _exact(sources: Sources) -> str:
    gemm = sources.results.get("gemm")
    if not gemm:
        return missing("python -m bench run gemm")
    rows = []
    for name, peer in gemm.peers.items():
        if peer["kind"] == "int8" and "full_range" in peer:
            rows.append((escaped(name), _exactness(peer["safe_range"]), _exactness(peer["full_range"])))
    return tabular(("", r"activations $\le 127$", r"activations $\le 255$"), rows, "@{}lll@{}")


def _arm(sources: Sources) -> str:
    found = sources.plain.get("modelled")
    if not found:
        return missing("python -m bench model")
    pairs = ("W1A1", "W2A2", "W3A3", "W4A4", "W8A8")
    rows = []
    for core, products in found["products"].items():
        own = {name: kernel for name, kernel in products.items() if name not in found["peers"]}
        best = [min((kernel[pair] for kernel in own.values() if pair in kernel), default=None) for pair in pairs]
        peers = [products.get(peer, {}).get(modelled.PEER_LABEL) for peer in ("gemmlowp", "smlal", "sdot")]
        rows.append((core.partition("-")[2].upper(), *(f"{1 / cycles:.1f}" if cycles else "--" for cycles in [*best, *peers])))
    return tabular(("", *pairs, "gemmlowp", r"\texttt{smlal}", r"\texttt{sdot}"), rows)


def _quantize(sources: Sources) -> str:
    groups = of_one_isa(sources.results.get("quantize"))
    if not groups:
        return missing("python -m bench quantize")
    names = list(dict.fromkeys(c.name for g in groups for c in g.cells))
    rows = []
    for name in names:
        cells = [g.find(name) for g in groups]
        rows.append((escaped(name), *(f"{c.info['accuracy']:.1f} / {digits(c.time.median / 1e6)}" if c else "--" for c in cells)))
    return tabular(("score / ms", *(escaped(g.name.partition(",")[0]) for g in groups)), rows)


def _stages(sources: Sources) -> str:
    stages = sources.results.get("stages")
    if not stages:
        return missing("python -m bench stages")
    rows = [
        (escaped(c.name), f"{c.info['accuracy']:.2f}", digits(c.time.median / 1e6), digits(c.nbytes / 1e3)) for c in stages.groups[0].cells
    ]
    return tabular(("", escaped(str(stages.groups[0].cells[0].info["metric"])), "ms", "kB"), rows)


def _bounds(sources: Sources) -> str:
    found = values(sources)
    pairs = [f"W{b}A{b}" for b in range(1, 9)]
    rows = []
    for title, key in ((r"mul8", "mul8"), ("P1", "p1"), ("P2", "p2"), ("rowpair", "rowpair")):
        rows.append((title, *((n if (n := found[f"bound.{key}.{pair}"]) != "0" else "--") or "--" for pair in pairs)))
    return tabular(("", *(str(b) for b in range(1, 9))), rows)


def _later(age: Age) -> str:
    return ("?" if age.later is None else str(age.later)) + r"\rlap{*}" * age.dirty


def _ages(sources: Sources) -> str:
    alike: dict[tuple[str, ...], list[str]] = {}
    for a in ages(sources):
        folder, _, name = a.what.rpartition("/")
        alike.setdefault((folder, a.date, code(a.commit[:8] or "unknown"), _later(a)), []).append(name)
    rows = [(escaped(f"{folder}: " * bool(folder) + ", ".join(names)), *same) for (folder, *same), names in alike.items()]
    header = ("results", "date", "commit", "later")
    columns = r"@{}>{\raggedright\arraybackslash}p{1.6in}llr@{\;}"
    return tabular(header, rows, columns) if rows else missing("python -m bench run all")


# By name: what makes it, and the results that it shows.
TABLES: dict[str, tuple[Callable[[Sources], str], tuple[str, ...]]] = {
    "bounds": (_bounds, ()), "gemm": (_gemm, ("gemm",)), "published": (_published, ("gemm", "kernels", "networks")),
    "kernels": (_kernels, ("kernels",)), "ablation": (_ablation, ("ablation",)), "gemv": (_gemv, ("gemv",)),
    "networks": (_networks, ("networks",)),
    "memory": (_memory, ("networks",)), "exact": (_exact, ("gemm",)),
    "othergemm": (_other(_gemm), ("gemm",)), "otherexact": (_other(_exact), ("gemm",)), "arm": (_arm, ("modelled",)),
    "quantize": (_quantize, ("quantize",)), "stages": (_stages, ("stages",)), "ages": (_ages, ()),
}  # fmt: skip


def tables(sources: Sources) -> dict[str, str]:
    """Every table by name."""
    return {name: make(sources) for name, (make, _) in TABLES.items()}
