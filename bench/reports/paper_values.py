"""The numbers of the paper, by key. A key without a result has the value None and is printed as "not measured".

Text in paper/ names a number as \\N{gemm.W3A3.over.int8}. Every key is there whatever was measured, so that a key the text misspells is
an error, and one that lacks its result is not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

from bench.published import ratio
from bench.runs.options import GEMM_PAIRS
from bench.runs.results import Cell, Group, Result

from . import modelled
from .paper_sources import DEPENDS, Sources, has_vnni, isa_of
from .tables import geomean

Values = dict[str, str | None]

PAIRS = tuple(f"W{w}A{a}" for a, w in GEMM_PAIRS)
NETWORK_PAIRS = ("W1A2", "W2A2", "W3A3", "W4A4")
SIZE = "512x512x512"
# Of ULPPACK (Won et al., MLSys 2022), abstract.
PUBLISHED_GEMM = {"gemmlowp": ratio("gemmlowp"), "qnnpack": ratio("QNNPACK"), "bitserial": ratio("bitserial")}
PUBLISHED_NETWORKS = {"fp32": ratio("networks fp32"), "qnnpack": ratio("networks QNNPACK")}


def escaped(text: str) -> str:
    """For TeX."""
    for plain, tex in (("\\", r"\textbackslash{}"), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#"), ("(R)", "")):
        text = text.replace(plain, tex)
    return text


def times(value: float) -> str:
    """A ratio, as 1.53x."""
    return rf"{value:.2f}\ensuremath{{\times}}" if value < 10 else rf"{value:.1f}\ensuremath{{\times}}"


def digits(value: float) -> str:
    """Three significant digits."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def code(name: str) -> str:
    """A kernel's or library's name in typewriter type."""
    return rf"\texttt{{{escaped(name)}}}"


def short(name: str) -> str:
    """A network's name, or that of a layer of it, for narrow columns; without its count of threads."""
    name = name.partition(",")[0]
    brief = {"AlexNet": "Alex", "ResNet": "Res", "GoogLeNet": "GoogLe", "SqueezeNet 1.1": "Squeeze", "MobileNetV2": "Mobile"}
    for long, shorter in brief.items():
        name = name.replace(long, shorter)
    return name


def main_group(result: Result | None) -> Group | None:
    """The square that the published figures are for."""
    return result.find(SIZE) if result else None


def of_label(group: Group | None, label: str) -> Cell | None:
    """The cell of `ulp` with these bits."""
    return next((c for c in group.of_kind("ulp") if c.label == label), None) if group else None


def peers_of(group: Group, exact: list[str]) -> dict[str, Cell | None]:
    """What `ulp` is compared with."""
    return {
        "int8": group.fastest("int8"), "exact": group.fastest("int8", only=exact), "qnnpack": group.find("QNNPACK"),
        "gemmlowp": group.find("gemmlowp"), "fp32": group.fastest("fp32"),
    }  # fmt: skip


def _over(cell: Cell | None, peer: Cell | None) -> str | None:
    return times(cell.over(peer).median) if cell and peer else None


def _mean(ratios: Iterable[float]) -> str | None:
    found = list(ratios)
    return times(geomean(found)) if found else None


def _environment(sources: Sources) -> Values:
    values: Values = {}
    for what in DEPENDS:
        env = sources.environment(what)
        values[f"{what}.cpu"] = escaped((env.get("machine") or {}).get("cpu") or "modelled cores").strip() if env else None
        values[f"{what}.isa"] = isa_of(env) if env else None
        values[f"{what}.date"] = env["date"][:10] if env else None
        values[f"{what}.commit"] = code((env.get("commit") or "unknown")[:10]) if env else None
        values[f"{what}.command"] = code(env["command"]) if env else None
        clock = sources.results[what].clock_ghz if what in sources.results else None
        values[f"{what}.ghz"] = f"{clock:.2f}\\,GHz" if clock else None
    return values


def _gemm(sources: Sources) -> Values:
    gemm = sources.results.get("gemm")
    group = main_group(gemm)
    peers = peers_of(group, gemm.exact_peers()) if gemm and group else {}
    values: Values = {}
    for name in ("int8", "exact", "fp32"):
        peer = peers.get(name)
        values[f"gemm.fastest.{name}"] = escaped(peer.name) if peer else None
        values[f"gemm.fastest.{name}.rate"] = digits(peer.rate.median) if peer else None
    for name in ("int8", "fp32"):
        values[f"gemm.names.{name}"] = _names(group.of_kind(name)) if group else None
    loops = {c.name.removeprefix("ceiling "): c for c in group.of_kind("ceiling")} if group else {}
    best = max(loops.values(), key=lambda c: c.rate.median, default=None)
    values["gemm.ceiling.mul8"] = digits(loops["mul8"].rate.median) if "mul8" in loops else None
    values["gemm.ceiling.best"] = digits(best.rate.median) if best else None
    values["gemm.ceiling.best.name"] = best.name.removeprefix("ceiling ") if best else None
    for label in PAIRS:
        cell = of_label(group, label)
        values[f"gemm.{label}.rate"] = digits(cell.rate.median) if cell else None
        values[f"gemm.{label}.kernel"] = code(str(cell.info.get("kernel", ""))) if cell else None
        for name in ("int8", "exact", "qnnpack", "gemmlowp", "fp32"):
            values[f"gemm.{label}.over.{name}"] = _over(cell, peers.get(name))
        requantized = next((c for c in group.of_kind("ulp requantized") if c.label == label), None) if group else None
        values[f"gemm.{label}.requantized.over.int8"] = _over(requantized, peers.get("int8"))
    described = gemm.peers if gemm else {}
    checked = {name: peer["full_range"] for name, peer in described.items() if peer["kind"] == "int8" and "full_range" in peer}
    wrong = {name: check for name, check in checked.items() if not check["exact"]}
    values["gemm.peers"] = str(len(checked)) if gemm else None
    values["gemm.saturating"] = str(len(wrong)) if gemm else None
    values["gemm.saturating.names"] = (escaped(", ".join(wrong)) or "none") if gemm else None
    return values


def _names(cells: list[Cell]) -> str | None:
    return escaped(", ".join(c.name.removesuffix(" fp32") for c in cells)) or None


def _pairs(sources: Sources) -> Values:
    group = main_group(sources.results.get("pairs"))
    peer = group.fastest("int8") if group else None
    ratios = {c.label: c.over(peer).median for c in group.of_kind("ulp")} if group and peer else {}
    best, worst = max(ratios, key=ratios.__getitem__, default=None), min(ratios, key=ratios.__getitem__, default=None)
    values: Values = {"pairs.peer": escaped(peer.name) if peer else None}
    values["pairs.count"] = str(len(ratios)) if ratios else None
    values["pairs.faster"] = str(sum(r > 1 for r in ratios.values())) if ratios else None
    for name, label in (("best", best), ("worst", worst)):
        values[f"pairs.{name}"] = label
        values[f"pairs.{name}.ratio"] = times(ratios[label]) if label else None
    return values


def _kernels(sources: Sources) -> Values:
    kernels = sources.results.get("kernels")
    values: Values = {}
    for label in PAIRS:
        group = kernels.find(f"{SIZE} {label}") if kernels else None
        fastest = group.fastest("ulp") if group else None
        for technique in ("bitserial", "ulppack_p1", "ulppack_p2", "mul16", "mul8", "lut"):
            ours = group.of_kind("ulp") if group else []
            cells = [c for c in ours if c.info.get("technique") == technique and c.info.get("isa") != "baseline"]
            own = min(cells, key=lambda c: c.time.median, default=None)
            values[f"kernels.{label}.{technique}.rate"] = digits(own.rate.median) if own else None
            values[f"kernels.{label}.over.{technique}"] = _over(fastest, own)
    return values


def _gemv(sources: Sources) -> Values:
    gemv = sources.results.get("gemv")
    values: Values = {}
    for rows in (1, 8):
        for where, suffix in (("hot", ""), ("cold", " cold")):
            group = gemv.find(f"{rows}x4096x4096{suffix}") if gemv else None
            int8 = group.fastest("int8") if group else None
            values[f"gemv.{rows}.{where}.fastest"] = escaped(int8.name) if int8 else None
            for label in ("W1A8", "W2A8", "W3A8", "W4A8", "W8A8"):
                key, cell = f"gemv.{rows}.{where}.{label}", of_label(group, label)
                read = group.find(f"read {label[1]} bit") if group else None
                values[f"{key}.us"] = digits(cell.time.median / 1e3) if cell else None
                values[f"{key}.over.int8"] = _over(cell, int8)
                share = cell.over(read).median * cell.nbytes / read.nbytes if cell and read and read.nbytes else None
                values[f"{key}.read"] = f"{share:.0%}".replace("%", r"\%") if share else None
    return values


def _threads(sources: Sources) -> Values:
    threads = sources.results.get("threads")
    group = threads.find("1024x1024x1024") if threads else None
    values: Values = {}
    for label in ("W1A1", "W3A3", "W4A4", "W8A8"):
        one, two = (group.find(f"ulp {label} {t}") if group else None for t in ("1 thread", "2 threads"))
        values[f"threads.{label}.gain"] = _over(two, one)
    return values


def _conv(sources: Sources) -> Values:
    conv = sources.results.get("conv")
    groups = conv.groups if conv else []
    values: Values = {"conv.layers": str(len(groups)) if groups else None}
    for label in NETWORK_PAIRS:
        found: dict[str, list[float]] = {"winograd": [], "depthwise": [], "other": [], "all": []}
        for g in groups:
            cell, peer = of_label(g, label), g.fastest("int8")
            if cell and peer:
                kernel = str(cell.info.get("kernel", ""))
                kind = next((k for k in ("winograd", "depthwise") if kernel.startswith(k)), "other")
                for name in (kind, "all"):
                    found[name].append(cell.over(peer).median)
        for name, ratios in found.items():
            values[f"conv.{label}.{name}.int8"] = _mean(ratios)
            values[f"conv.{label}.{name}.count"] = str(len(ratios)) if groups else None
        values[f"conv.{label}.slower"] = str(sum(r < 1 for r in found["all"])) if groups else None
    return values


def _having(result: Result | None, what: str, count: int) -> list[Group]:
    groups = result.groups if result else []
    return [g for g in groups if g.cells and int(g.cells[0].info.get(what, 1)) == count]


def one_core(networks: Result | None) -> list[Group]:
    """The groups of `run networks` that were run in one thread."""
    return _having(networks, "threads", 1)


def of_one_isa(quantize: Result | None) -> list[Group]:
    """The groups of `bench quantize` at the first instruction set that it ran, one per model."""
    groups = [g for g in quantize.groups if g.cells] if quantize else []
    return [g for g in groups if g.name.rpartition(", ")[2] == groups[0].name.rpartition(", ")[2]]


def _networks(sources: Sources) -> Values:
    groups = one_core(sources.results.get("networks"))
    found = sources.results.get("networks")
    batches = sources.results.get("batches")
    values: Values = {"networks.count": str(len(groups)) if groups else None}
    for name in ("int8", "fp32"):
        values[f"networks.names.{name}"] = _names(groups[0].of_kind(name)) if groups else None
    two = _having(found, "threads", 2)
    by_batch = {size: _having(batches, "batch", size) for size in (8, 64)}
    for label in NETWORK_PAIRS:
        for name in ("int8", "fp32", "qnnpack"):
            values[f"networks.{label}.over.{name}"] = _mean(_ratios(groups, label, name))
        values[f"networks.two.{label}.over.int8"] = _mean(_ratios(two, label, "int8"))
        for size, of_size in by_batch.items():
            values[f"batches.{size}.{label}.over.int8"] = _mean(_ratios(of_size, label, "int8"))
    return values


def _ratios(groups: list[Group], label: str, name: str) -> list[float]:
    pairs = [(of_label(g, label), peers_of(g, [])[name]) for g in groups]
    return [cell.over(peer).median for cell, peer in pairs if cell and peer]


def _layers(sources: Sources) -> Values:
    """Of a network's time, the share of steps that multiply matrices."""
    layers = sources.results.get("layers")
    values: Values = {}
    for network in ("ResNet-18", "MobileNetV2"):
        group = layers.find(f"{network} W3A3") if layers else None
        whole = sum(c.time.median for c in group.cells) if group else 0.0
        products = sum(c.time.median for c in group.cells if c.macs) if group else 0.0
        values[f"layers.{network}.products"] = f"{products / whole:.0%}".replace("%", r"\%") if whole else None
    return values


def _paper(sources: Sources) -> Values:
    """The published experiments, repeated: from `run paper`, or from the runs that hold the same comparison."""
    paper = sources.results.get("paper")
    group = paper.find(f"W3A3 {SIZE}") if paper else None
    other = _gemm(sources) | _kernels(sources)
    values: Values = {}
    for key, fallback in (
        ("gemmlowp", "gemm.W3A3.over.gemmlowp"), ("qnnpack", "gemm.W3A3.over.qnnpack"),
        ("bitserial", "kernels.W3A3.over.bitserial"), ("ulppack_p1", "kernels.W3A3.over.ulppack_p1"),
    ):  # fmt: skip
        cell = of_label(group, "W3A3")
        forced = [c for c in group.of_kind("technique") if c.info.get("technique") == key] if group else []
        peer = group.find({"gemmlowp": "gemmlowp", "qnnpack": "QNNPACK"}.get(key, "")) if group else None
        peer = peer or min(forced, key=lambda c: c.time.median, default=None)
        values[f"published.{key}"] = _over(cell, peer) or other[fallback]
    energy = (paper.settings.get("energy") or {}) if paper else {}
    joules = (energy.get("joules_per_call") or {}).get(f"W3A3 {SIZE}") or {}
    ours, theirs = joules.get("ulp W3A3"), joules.get("QNNPACK")
    values["published.energy"] = times(theirs / ours) if ours and theirs else None
    return values


def _models(sources: Sources) -> Values:
    onnx, field = sources.results.get("onnx"), sources.plain.get("field")
    values: Values = {}
    for name, prefix in (("resnet", "ResNet-18"), ("mobilenet", "MobileNetV2")):
        group = next((g for g in onnx.groups if g.name.startswith(prefix)), None) if onnx else None
        own = group.find("ulp QONNX") if group else None
        values[f"onnx.{name}.ms"] = digits(own.time.median / 1e6) if own else None
        values[f"onnx.{name}.over.same"] = _over(own, group.find("onnxruntime QCDQ")) if group else None
        values[f"onnx.{name}.over.int8"] = _over(own, group.find("onnxruntime int8 QDQ")) if group else None
    models = field["models"] if field else []
    values["field.count"] = str(len(models)) if field else None
    values["field.loaded"] = str(sum(not m["error"] for m in models)) if field else None
    values["field.equal"] = str(sum(bool(m["equal"]) for m in models)) if field else None
    ratios = sorted(m["ratio"] for m in models if m.get("ratio"))
    values["field.ratio.mean"] = times(geomean(ratios)) if ratios else None
    values["field.ratio.least"] = times(ratios[0]) if ratios else None
    values["field.ratio.most"] = times(ratios[-1]) if ratios else None
    return values


def _quantize(sources: Sources) -> Values:
    quantize, stages = sources.results.get("quantize"), sources.results.get("stages")
    values: Values = {"quantize.groups": str(len(quantize.groups)) if quantize else None}
    group = stages.groups[0] if stages else None
    names = {
        "float": "float", "w3a3": "W3A3 after training", "auto": "auto after training", "w3a3.trained": "W3A3 trained",
        "auto.trained": "auto trained",
    }  # fmt: skip
    for key, name in names.items():
        cell = group.find(name) if group else None
        values[f"stages.{key}.accuracy"] = f"{cell.info['accuracy']:.2f}" if cell else None
        values[f"stages.{key}.kb"] = digits(cell.nbytes / 1e3) if cell else None
    return values


def _modelled(sources: Sources) -> Values:
    found = sources.plain.get("modelled")
    values: Values = {}
    for core in modelled.CLAIM_CORES:
        kernels = found["products"].get(core, {}) if found else {}
        p1 = kernels.get("ulppack_p1_neon_3x32", {}).get("W3A3")
        others = {
            "bitserial": kernels.get("bitserial_neon_4x32", {}).get("W3A3"),
            **{peer: kernels.get(peer, {}).get(modelled.PEER_LABEL) for peer in ("gemmlowp", "smlal")},
        }
        for peer, cycles in others.items():
            values[f"modelled.{core}.p1.{peer}"] = times(cycles / p1) if p1 and cycles else None
    return values


# Of an accumulator that holds `limit`, with `terms` products of at most m per step.
def _bounds() -> Values:
    def steps(limit: int, terms: int, m: int) -> str:
        return str(limit // (terms * m))

    values: Values = {}
    for bits in (1, 2, 3, 4, 5, 6, 7, 8):
        full, half = 2**bits - 1, 2 ** (bits - 1)
        label = f"W{bits}A{bits}"
        values[f"bound.mul8.{label}"] = steps(32767, 2, full * half)
        values[f"bound.p1.{label}"] = steps(255, 2, full * full)
        values[f"bound.p2.{label}"] = steps(2 ** (16 - bits) - 1, 2, full * full)
        spacing = max((s for s in range(8) if full * (2**s + 1) <= 255), default=0)
        values[f"bound.rowpair.{label}"] = steps(2**spacing - 1, 2, full * full)
        values[f"bound.int32.{label}"] = f"{(2**31 - 1) // (full * half):,}".replace(",", "{,}")
        values[f"bound.trim.{label}"] = steps(32767, 1, full)
    for a, b in ((3, 3), (4, 4), (5, 4), (6, 3), (6, 4)):
        values[f"bound.winograd.W{b}A{a}"] = steps(32767, 2, 4 * (2**a - 1) * 9 * 2 ** (b - 1))
    return values


_PARTS: tuple[Callable[[Sources], Values], ...] = (
    _environment, _gemm, _pairs, _kernels, _gemv, _threads, _conv, _networks, _layers, _paper, _models, _quantize, _modelled,
)  # fmt: skip


@functools.lru_cache(maxsize=4)
def values(sources: Sources) -> Values:
    """Every number of the paper."""
    found: Values = dict(_bounds())
    other = sources.other or Sources(sources.directory, {}, {})
    for part in _PARTS:
        found.update(part(sources))
        found.update({f"other.{key}": value for key, value in part(other).items()})
    return found


def flags(sources: Sources) -> dict[str, bool]:
    """What the text may ask: whether a result, or another machine's, is there, and whether its machine has VNNI."""
    found = {f"has.{what}": sources.environment(what) is not None for what in DEPENDS}
    found |= {f"vnni.{what}": has_vnni(sources.environment(what)) for what in DEPENDS}
    other = sources.other.environment("gemm") if sources.other else None
    return found | {"has.other": other is not None, "vnni.other": has_vnni(other)}
