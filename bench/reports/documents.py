"""What the result files say as documents: README.md's table, docs/performance.md, and the full report beside the result files.

Only the text between a pair of markers is written; the rest of a document belongs to its author.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cuda import report as cuda
from bench.runs import modelled as modelled_runs
from bench.runs import parts
from bench.runs.options import GEMM_PAIRS
from bench.runs.results import Cell, Group, Result, load_all

from . import modelled, networks, onnx_models, products, quantize, sequences, techniques
from .tables import Table

BEGIN = "<!-- speed:begin -->"
END = "<!-- speed:end -->"
MODELLED_BEGIN = "<!-- modelled:begin -->"
MODELLED_END = "<!-- modelled:end -->"
STAGES_BEGIN = "<!-- stages:begin -->"
STAGES_END = "<!-- stages:end -->"
CHOOSING = "docs/choosing-bits.md"
MAIN_SIZE = "512x512x512"
PERFORMANCE = "docs/performance.md"
FULL_REPORT = "REPORT.md"
# Of all tables those that docs/performance.md shows; every table is in the full report.
SHOWN = (
    "512x512x512, one core", "512x512x512, uint8", "GMAC/s by size", "Few rows", "1024x1024x1024, two threads", "Techniques on and off",
    "The ULPPACK paper's experiments", "Convolutions at W3A3", "Networks at W3A3", "Networks at W2A2, one core", "Networks, MiB",
    "Models from ONNX", "Quantized after training", "Sentences", "Keyword spotting", "Weights in groups", "Exactness",
)  # fmt: skip
# Of another machine's.
SHOWN_OF_OTHERS = (
    "512x512x512, one core", "Few rows: 1x", "Convolutions at W3A3", "Networks at W3A3", "Quantized after training",
    "Sentences", "Exactness",
)  # fmt: skip


class ReportError(RuntimeError):
    """A document cannot be written or checked; the message says why."""


@dataclass(frozen=True)
class Sources:
    """What the documents are made from: the result files by what they measured, and the modelled figures of ARM where there are any.

    others: result files of other machines, by the name of their folder in bench/results.
    """

    results: dict[str, Result]
    modelled: dict[str, Any] | None = None
    others: dict[str, dict[str, Result]] = field(default_factory=dict)


def read(directory: Path) -> Sources:
    """The sources in a directory: its own result files, those of its folders, and the modelled figures."""
    path = directory / modelled_runs.PRODUCTS.name
    left_out = {"quick", "plots", parts.FOLDER}
    folders = sorted(one for one in directory.glob("*/") if one.name not in left_out) if directory.exists() else []
    others = {one.name: found for one in folders if (found := load_all(one))}
    return Sources(load_all(directory), modelled_runs.load(path) if path.exists() else None, others)


def _main_group(gemm: Result) -> Group | None:
    return gemm.find(MAIN_SIZE) or (gemm.groups[-1] if gemm.groups else None)


def tables(results: dict[str, Result], *, exactness: bool = True) -> list[Table]:
    """Every table that the result files at hand allow, in the order in which they are read; the peers' exactness at the end if wanted."""
    made: list[Table] = []
    if gemm := results.get("gemm"):
        if main := _main_group(gemm):
            made += [products.speed_table(gemm, main), products.requantized_table(gemm, main), products.peers_table(gemm, main)]
        if len(gemm.groups) > 1:
            made.append(products.sizes_table(gemm))
    if gemv := results.get("gemv"):
        made += [products.few_rows_table(gemv, rows) for rows in sorted({g.shape[0] for g in gemv.groups})]
        for g in gemv.groups:
            made += [products.gemv_table(gemv, g), products.peers_table(gemv, g)]
    if small := results.get("small"):
        made += [products.small_table(g) for g in small.groups]
    if threads := results.get("threads"):
        made += [products.threads_table(g) for g in threads.groups]
    if kernels := results.get("kernels"):
        shapes = dict.fromkeys(g.name.rsplit(" ", 1)[0] for g in kernels.groups)
        made += [products.kernel_table(kernels, shape) for shape in shapes]
    if conv := results.get("conv"):
        made += networks.conv_tables(conv)
    if of_networks := results.get("networks"):
        made += networks.network_tables(of_networks)
    if batches := results.get("batches"):
        made += networks.network_tables(batches)
    if ablation := results.get("ablation"):
        made.append(techniques.ablation_table(ablation))
    if paper := results.get("paper"):
        made += [techniques.published_table(paper, results.get("networks")), techniques.products_table(paper)]
    if layers := results.get("layers"):
        made += [techniques.layers_table(g) for g in layers.groups]
    if onnx := results.get("onnx"):
        made += onnx_models.tables(onnx)
    if of_quantize := results.get("quantize"):
        made += quantize.tables(of_quantize)
    if stages := results.get("stages"):
        made.append(quantize.stages_table(stages))
    if of_sentences := results.get("sentences"):
        made += sequences.sentences_tables(of_sentences)
    if keyword := results.get("keyword"):
        made.append(sequences.keyword_table(keyword))
    if grouped := results.get("grouped"):
        made += sequences.grouped_tables(grouped)
    if of_cuda := results.get("cuda"):
        made += cuda.tables(of_cuda, results.get("cuda_kernels"))
    first = next((r for r in results.values() if r.peers), None)
    if first and exactness:
        made.append(products.exactness_table(first))
    return [t for t in made if t.rows]


def provenance(result: Result) -> str:
    """One sentence: machine, system, compiler, date, commit."""
    env = result.environment
    where = env["machine"]
    caches = ", ".join(f"{name} {size}" for name, size in where.get("caches", {}).items())
    versions = ", ".join(f"{name} {version}" for name, version in env["packages"].items())
    clock = f" at {result.clock_ghz:.2f} GHz" if result.clock_ghz else ""
    compiler = env["ulp"].get("compiler", env.get("bench_compiler", ""))
    return (
        f"Measured {env['date'][:10]} by `{env['command']}` on {where['cpu']} ({where.get('family', '')}){clock}; {caches}; {env['os']}; "
        f"{compiler}; {versions}; commit {_commit(env)}."
    )


def readme_section(results: dict[str, Result], others: dict[str, dict[str, Result]] | None = None) -> str:
    """README.md's table: the usual bit pairs at 512x512x512, each with its rate and its ratios to four peers; one table per machine.

    ReportError where `run gemm` has left no result file.
    """
    machines = [found for found in (results, *(others or {}).values()) if (gemm := found.get("gemm")) and _main_group(gemm)]
    if not machines:
        raise ReportError("no result file of products: python -m bench run gemm")
    return "\n\n".join(_readme_table(found["gemm"], named=len(machines) > 1) for found in machines)


def _readme_table(gemm: Result, *, named: bool) -> str:
    main = _main_group(gemm)
    assert main is not None
    peers = (main.fastest("int8"), main.find("QNNPACK"), main.find("gemmlowp"), main.fastest("fp32"))
    header = ("", "GMAC/s", "over the fastest int8", "over QNNPACK", "over gemmlowp", "over the fastest FP32")
    rows = [
        (cell.label, f"{cell.rate.median:.0f}", *(_times(cell, peer) for peer in peers))
        for bits in GEMM_PAIRS
        if (cell := next((c for c in main.of_kind("ulp") if c.bits == bits), None))
    ]
    env = gemm.environment
    fastest = {"int8": peers[0], "FP32": peers[3]}
    words = "".join(f"; the fastest {kind} is {peer.name}, {peer.rate.median:.0f} GMAC/s" for kind, peer in fastest.items() if peer)
    note = f"Medians on one core of {env['machine']['cpu']}, {env['date'][:10]}{words}."
    return Table(f"{main.name}, {kind_of(gemm)}" if named else main.name, header, rows, note).markdown()


def kind_of(result: Result) -> str:
    """What decides between kernels on the machine of a result: as in "AVX-512 with VNNI"."""
    flags = set(result.environment["machine"]["isa"])
    for needed, words in (
        ({"avx512_vnni"}, "AVX-512 with VNNI"), ({"avx_vnni"}, "AVX-VNNI"), ({"avx512f"}, "AVX-512 without VNNI"),
        ({"avx2"}, "AVX2 without VNNI"), ({"asimddp"}, "ARM with dot products"), ({"asimd"}, "ARM"),
    ):  # fmt: skip
        if needed <= flags:
            return words
    return "no vector instructions known here"


def _times(cell: Cell, peer: Cell | None) -> str:
    return f"{cell.over(peer).median:.1f}x" if peer else "-"


def performance_section(results: dict[str, Result], others: dict[str, dict[str, Result]] | None = None) -> str:
    """The measured tables of docs/performance.md: this machine's, then a shorter choice of each other machine's."""
    chosen = [t for t in tables(results) if t.title.startswith(SHOWN)]
    path = f"bench/results/{FULL_REPORT}"
    more = f"Peers' own figures, more shapes, every kernel at every pair: [{path}](../{path}); plots beside it."
    found = [_document(results, chosen, more)] if results or not others else []
    for of_machine in (others or {}).values():
        shown = [t for t in tables(of_machine) if t.title.startswith(SHOWN_OF_OTHERS)]
        found.append(f"### {_machine(of_machine)}\n\n" + _document(of_machine, shown, "", legend=False))
    return "\n\n".join(found)


def _machine(results: dict[str, Result]) -> str:
    first = results.get("gemm") or next(iter(results.values()))
    return f"On another machine: {first.environment['machine']['cpu']}, {kind_of(first)}"


def full_report(sources: Sources) -> str:
    """All tables, as a page of its own."""
    closing = "Written by `python -m bench report` from the JSON beside it."
    chapters = ["# Benchmark report"]
    if sources.results or not sources.others:
        chapters.append(_document(sources.results, tables(sources.results), closing))
    for name, results in sources.others.items():
        chapters += [f"## {_machine(results)} ({name})", _document(results, tables(results), "", legend=False)]
    if sources.modelled:
        chapters += ["## ARM, modelled", modelled.section(sources.modelled)]
    return "\n\n".join(chapters) + "\n"


def _document(results: dict[str, Result], chosen: Sequence[Table], closing: str, *, legend: bool = True) -> str:
    if not results:
        raise ReportError("no result files: python -m bench run all")
    words = (
        "Ratios are medians over rounds of the ratio within a round, [p10-p90]; rates are medians (best decile). The int8 peers get "
        "activations of 0..127, where the saturating ones are exact; `ulp` is exact everywhere."
    )
    body = [*(t.markdown() for t in chosen), words if legend else "", *_provenances(results), closing]
    return "\n\n".join(filter(None, body))


def _provenances(results: dict[str, Result]) -> list[str]:
    """Where the result files come from: one sentence for those of the first's machine and commit, shorter ones for what differs."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results.values():
        key = (str(result.environment["machine"]), str(result.environment.get("commit")))
        groups.setdefault(key, []).append(result)
    first = results.get("gemm") or next(iter(results.values()))
    made = []
    for group in sorted(groups.values(), key=lambda group: first not in group):
        names = f"{', '.join(one.what for one in group)}: " if len(groups) > 1 else ""
        env = group[0].environment
        if first in group:
            made.append(names + provenance(first))
        elif env["machine"] != first.environment["machine"]:
            made.append(names + provenance(group[0]))
        else:
            made.append(f"{names}on the same machine, {env['date'][:10]}, commit {_commit(env)}.")
    return made


def _commit(environment: dict[str, Any]) -> str:
    return (environment.get("commit") or "unknown")[:12] + (" with local changes" if environment.get("dirty") else "")


def with_section(text: str, body: str, begin: str = BEGIN, end: str = END, name: str = "the document") -> str:
    """The text with the part between the markers replaced. ReportError unless there is exactly one pair of markers, in order."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ReportError(f"{name} needs one line {begin} and after it one line {end}")
    return re.sub(re.escape(begin) + r".*?" + re.escape(end), lambda _: f"{begin}\n{body}\n{end}", text, flags=re.DOTALL)


def _new_readme(path: Path, sources: Sources) -> str:
    return with_section(_read(path), readme_section(sources.results, sources.others), name=path.name)


def _new_performance(path: Path, sources: Sources) -> str:
    text = with_section(_read(path), performance_section(sources.results, sources.others), name=path.name)
    if sources.modelled:
        text = with_section(text, modelled.section(sources.modelled), MODELLED_BEGIN, MODELLED_END, path.name)
    return text


def _read(path: Path) -> str:
    if not path.exists():
        raise ReportError(f"no {path.name} to put the tables into")
    return path.read_text(encoding="utf-8")


def _new_choosing(path: Path, sources: Sources) -> str:
    section = quantize.stages_table(sources.results["stages"]).markdown()
    return with_section(_read(path), section, STAGES_BEGIN, STAGES_END, path.name)


def _all_new(readme: Path, performance: Path, sources: Sources, choosing: Path | None) -> dict[Path, str]:
    new = {readme: _new_readme(readme, sources), performance: _new_performance(performance, sources)}
    if choosing is not None and "stages" in sources.results:
        new[choosing] = _new_choosing(choosing, sources)
    return new


def outdated(readme: Path, performance: Path, sources: Sources, choosing: Path | None = None) -> list[Path]:
    """Those of the documents that do not say what the results say. choosing: docs/choosing-bits.md, where `stages` was measured."""
    return [path for path, text in _all_new(readme, performance, sources, choosing).items() if _read(path) != text]


def write(readme: Path, performance: Path, sources: Sources, choosing: Path | None = None) -> list[Path]:
    """Fill the documents between their markers, and return those that changed. None is written if one cannot be."""
    new = _all_new(readme, performance, sources, choosing)
    changed = [path for path, text in new.items() if _read(path) != text]
    for path in changed:
        path.write_text(new[path], encoding="utf-8")
    return changed
