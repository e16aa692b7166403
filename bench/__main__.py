"""`python -m bench`: measure, report, and show what is here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import running

# Before numpy and the peers are imported: their thread pools read these once. One thread each is what is compared.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Commands with a parser of their own, which gets all that follows the name.
PASSED_ON = {
    "grouped": "few rows against weights in groups (GPTQ, AWQ, NF4) beside onnxruntime and torch",
    "keyword": "keyword spotting on a stream: microseconds per frame of 10 ms, here and modelled on Cortex-A53",
    "onnx": "exported models in ulp.load beside onnxruntime and qonnx",
    "quantize": "float models quantized after training by ulp.quantize beside other tools",
    "sentences": "a trained encoder of sentences (MiniLM): quantized in the call, after training, and in floats",
    "stages": "from a float network to three bits in three stages (docs/choosing-bits.md)",
    "train": "train the demo's classifiers of digits and write their files",
    "train_keywords": "train the LSTM of `keyword` on synthesized words",
    "train_float": "train the float networks that `quantize` quantizes",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of ulp beside its peers, alternating in one run.")
    commands = parser.add_subparsers(dest="command", required=True)
    running.add_parser(commands)
    report = commands.add_parser("report", help="print the tables, draw the plots, fill README.md and docs/performance.md")
    report.add_argument("--check", action="store_true", help="change nothing; fail unless both documents say what the results say")
    report.add_argument("--results", type=Path, default=None, help="directory of the result files (default: bench/results)")
    report.add_argument("--readme", type=Path, default=None, help="the README (default: the repository's)")
    report.add_argument("--performance", type=Path, default=None, help="the page of all tables (default: docs/performance.md)")
    report.add_argument("--no-plots", action="store_true", help="tables only")
    costs = commands.add_parser(
        "costs", help="time every kernel at every bit pair and rewrite csrc/gemm/costs_x86.h, which selection follows"
    )
    costs.add_argument("--vnni", action="store_true", help="on a CPU with AVX-VNNI or AVX-512: the fits of csrc/gemm/costs_x86_vnni.h")
    commands.add_parser(
        "model", help="calculate, with an emulator and models of ARM cores, what kernels cost there; rewrites csrc/gemm/costs_arm64.h"
    )
    counts = commands.add_parser("instructions", help="count what every ARM kernel executes, and store it")
    counts.add_argument("--check", action="store_true", help="store nothing; fail where a kernel takes over 2 %% more than is stored")
    for name, text in PASSED_ON.items():
        commands.add_parser(name, help=text, add_help=False)
    commands.add_parser("env", help="show ulp, the peers and the ceilings: found, or missing and why")
    doctor = commands.add_parser("doctor", help="is this machine fit to measure? and the command that gets each missing peer")
    doctor.add_argument("--core", type=int, default=None, help="the core to be measured on (default: the last one)")
    doctor.add_argument("--seconds", type=float, default=3.0, help="how long to watch the machine (default 3)")
    compare = commands.add_parser("compare", help="which cells moved beyond noise between two result files or directories, and by how much")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument("--fail", action="store_true", help="exit with 1 if a cell of ulp became slower")
    records = commands.add_parser("records", help="every result as one flat record: JSON lines, or CSV")
    records.add_argument("--results", type=Path, default=None, help="directory of the result files (default: bench/results)")
    records.add_argument("--csv", action="store_true")
    return parser


def _env() -> int:
    from . import peers
    from .peers import ceiling
    from .runs import machine
    from .subjects import installed

    described = machine.describe([])
    print(f"{described['machine']['cpu']}, {described['machine']['cores']} cores, {described['os']}, Python {described['python']}")
    rows = [("ulp", installed.why_unavailable(), installed.version(), "")]
    for family, members in {"products": peers.ALL, **peers.FAMILIES}.items():
        for peer in peers.chosen(members, None):
            reason = peer.why_unavailable()
            note = "; ".join(filter(None, (peer.kind, peer.note)))
            rows.append((f"{peer.name} ({family})", reason, "" if reason else peer.version(), note))
    rows.append(("core ceilings", ceiling.why_unavailable(), "", "bare loops, read bandwidth, clock"))
    width = max(len(name) for name, *_ in rows)
    for name, reason, version, note in rows:
        print(f"{name:{width}}  " + (f"missing: {reason}" if reason else "  ".join(filter(None, ("found", version, note)))))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from . import peers
    from .runs import doctor

    findings = doctor.examine(args.core, args.seconds)
    for finding in findings:
        print(f"{'ok  ' if finding.fit else 'NO  ' if finding.fit is False else '-   '} {finding.words}")
    families = {"products": peers.ALL, **peers.FAMILIES}
    missing: dict[str, list[str]] = {}
    for family, members in families.items():
        for peer in peers.chosen(members, None):
            if command := peer.how_to_get():
                missing.setdefault(command, []).append(f"{peer.name} ({family})")
    for command, names in missing.items():
        print(f"peer missing: {', '.join(names)}\n      {command}")
    if not missing:
        print("ok   every peer is here")
    unfit = [finding for finding in findings if finding.fit is False]
    print(f"not fit to measure: {len(unfit)} reasons above" if unfit else "fit to measure")
    return 1 if unfit else 0


def _compare(args: argparse.Namespace) -> int:
    from .reports import comparison
    from .runs import compare

    pairs = compare.files(args.before, args.after)
    slower = False
    for before, after in pairs:
        found = compare.compare(before, after)
        print(comparison.text(found), end="\n\n")
        slower |= any(shift.times > 1 for shift in found.moved)
    return 1 if args.fail and slower else 0


def _records(args: argparse.Namespace) -> int:
    import csv
    import json

    from .runs import records, results

    found = list(records.everything(args.results or results.DIRECTORY))
    if not args.csv:
        for record in found:
            print(json.dumps(record))
        return 0
    writer = csv.DictWriter(sys.stdout, list(dict.fromkeys(key for record in found for key in record)))
    writer.writeheader()
    writer.writerows(found)
    return 0


def _costs(*, vnni: bool) -> int:
    from .reports import cost_headers
    from .runs import costs, costs_vnni

    module = costs_vnni if vnni else costs
    for path in (module.save(module.measure()), cost_headers.write(module.load())):
        print(f"wrote {path.name}")
    return 0


def _model() -> int:
    from .reports import cost_headers
    from .runs import modelled

    modelled.build()
    written = [modelled.save(modelled.products(), modelled.PRODUCTS), modelled.save(modelled.costs(), modelled.COSTS)]
    for path in (*written, cost_headers.write(modelled.load(modelled.COSTS))):
        print(f"wrote {path.name}")
    return 0


def _instructions(args: argparse.Namespace) -> int:
    from .runs import modelled

    modelled.build()
    if not args.check:
        print(f"wrote {modelled.save(modelled.instructions(), modelled.INSTRUCTIONS).name}")
        return 0
    complaints = modelled.check_instructions()
    print(complaints or "no kernel executes more instructions than before, and each has its modelled costs")
    return 1 if complaints else 0


def _report(args: argparse.Namespace) -> int:
    from . import ROOT
    from .reports import documents, plots
    from .reports import modelled as modelled_tables
    from .runs import results

    directory = args.results or results.DIRECTORY
    readme, performance = args.readme or ROOT / "README.md", args.performance or ROOT / documents.PERFORMANCE
    choosing = ROOT / documents.CHOOSING if args.readme is None else None
    sources = documents.read(directory)
    if args.check:
        outdated = documents.outdated(readme, performance, sources, choosing)
        for path in outdated:
            print(f"{path.name} does not say what the results say: python -m bench report", file=sys.stderr)
        return 1 if outdated else 0
    for table in [*documents.tables(sources.results), *(modelled_tables.tables(sources.modelled) if sources.modelled else [])]:
        print(table.text(), end="\n\n")
    if not args.no_plots:
        for path in plots.draw(sources.results, directory / "plots"):
            print(f"drew {path.name}")
    (directory / documents.FULL_REPORT).write_text(documents.full_report(sources), encoding="utf-8")
    changed = documents.write(readme, performance, sources, choosing)
    for path in (readme, performance):
        print(f"{path.name} " + ("updated" if path in changed else "was up to date"))
    return 0


def _passed_on(command: str, arguments: list[str]) -> int:
    if command == "onnx":
        from .runs import onnx_models

        return onnx_models.main(arguments)
    if command == "grouped":
        from .runs import grouped

        return grouped.main(arguments)
    if command == "quantize":
        from .runs import quantize

        return quantize.main(arguments)
    if command == "sentences":
        from .runs import sentences

        return sentences.main(arguments)
    if command == "stages":
        from .runs import stages

        return stages.main(arguments)
    if command == "keyword":
        from .runs import keyword

        return keyword.main(arguments)
    if command == "train_keywords":
        from .subjects import train_keywords

        train_keywords.main(arguments)
        return 0
    if command == "train_float":
        from .subjects import float_networks

        float_networks.main(arguments)
        return 0
    from .subjects import train_digits

    train_digits.main(arguments)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 where a check fails, 2 for wrong use."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in PASSED_ON:
        return _passed_on(given[0], given[1:])
    args = _parser().parse_args(given)
    # Counts of threads go to processes of their own when there are several.
    threads = running.threads_of(args) if args.command == "run" else (1,)
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads[0] if len(threads) == 1 else 1)
    simple = {"doctor": _doctor, "compare": _compare, "records": _records, "instructions": _instructions, "report": _report}
    try:
        if args.command == "run":
            return running.run(args, given)
        if args.command in simple:
            return simple[args.command](args)
        if args.command == "costs":
            return _costs(vnni=args.vnni)
        if args.command == "model":
            return _model()
        return _env()
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, `--resume` goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, RuntimeError, AssertionError, argparse.ArgumentTypeError) as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
