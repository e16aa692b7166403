"""`python -m bench`: measure, report, and show what is here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Before numpy and the peers are imported: their thread pools read these once. One thread each is what is compared.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Commands with a parser of their own, which gets all that follows the name.
PASSED_ON = {
    "onnx": "exported models in ulp.load beside onnxruntime and qonnx",
    "quantize": "float models quantized after training by ulp.quantize beside other tools",
    "stages": "from a float network to three bits in three stages (docs/choosing-bits.md)",
    "train": "train the demo's classifiers of digits and write their files",
    "train_float": "train the float networks that `quantize` quantizes",
}
WHATS = ("gemm", "pairs", "gemv", "small", "threads", "kernels", "conv", "networks")


def _pair(text: str) -> tuple[int, int]:
    weight, a, activation = text.upper().removeprefix("W").partition("A")
    if not a or weight not in "12345678" or activation not in "12345678" or not weight or not activation:
        raise argparse.ArgumentTypeError(f"{text!r} is no bit pair; write it as W3A3")
    return int(activation), int(weight)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of ulp beside its peers, alternating in one run.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure and write <what>.json")
    run.add_argument(
        "what",
        choices=[*WHATS, "all"],
        help="gemm: square sizes; pairs: all 64 bit pairs at 512; gemv: 1 and 8 rows x 4096 x 4096; small: one 16x16x16 call; "
        "threads: two against one; kernels: every kernel on every pair; conv: single convolutions; networks: seven CNNs, one image",
    )
    run.add_argument("--sizes", type=_positive, nargs="+", help="square sizes instead of the benchmark's own (gemv: N = K)")
    run.add_argument("--pairs", nargs="+", default=None, help="bit pairs such as W3A3 W2A8, or all")
    run.add_argument("--peers", nargs="+", default=None, help="only these peers, by the names that `env` prints; none for none")
    run.add_argument("--kernels", nargs="+", default=None, help="only these rows (run kernels)")
    run.add_argument("--networks", nargs="+", default=None, help="only these (run networks)")
    run.add_argument("--threads", type=_positive, nargs="+", default=[1], help="counts of threads, each a group (run networks; default 1)")
    run.add_argument("--no-memory", action="store_true", help="do not start a process for each model to measure its memory (run networks)")
    run.add_argument("--rounds", type=_positive, default=0, help="rounds of each group instead of 21 (7 for the largest)")
    run.add_argument("--min-sample-ms", type=float, default=2.0, help="shortest sample (default 2 ms)")
    run.add_argument("--core", type=int, default=None, help="core to run on (default: the last one)")
    run.add_argument("--quick", action="store_true", help="smoke run of seconds on small sizes, kept apart in results/quick")
    run.add_argument("--out", type=Path, default=None, help="directory of the result files (default: bench/results)")
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


def _run(args: argparse.Namespace, arguments: list[str]) -> int:
    from . import peers
    from .reports import documents, products
    from .runs import convolutions, options, results
    from .runs import networks as network_runs
    from .runs import products as product_runs
    from .subjects import networks

    everything = args.pairs is not None and [p.lower() for p in args.pairs] == ["all"]
    pairs = None if args.pairs is None else options.ALL_PAIRS if everything else tuple(_pair(p) for p in args.pairs)
    names = [] if args.peers == ["none"] else args.peers
    peers.check_names(names)
    networks.named(args.networks)
    given = options.Options(
        arguments, None if names is None else tuple(names), args.rounds, args.min_sample_ms, args.core, args.quick,
        tuple(args.sizes) if args.sizes else None, pairs, tuple(args.kernels) if args.kernels else None,
        tuple(args.networks) if args.networks else None, tuple(args.threads), not args.no_memory,
    )  # fmt: skip
    commands = {**product_runs.RUNS, "conv": convolutions.conv, "networks": network_runs.whole}
    directory = args.out or (results.DIRECTORY / "quick" if args.quick else results.DIRECTORY)
    for what in WHATS if args.what == "all" else (args.what,):
        result = commands[what](given)
        if not result.groups:
            print(f"{what}: nothing could be measured")
            continue
        results.save(result, directory)
        for table in documents.tables({what: result}, exactness=what == "gemm"):
            print(table.text(), end="\n\n")
        if what == "pairs":
            print("\n\n".join(products.speed_table(result, g).text() for g in result.groups))
    return 0


def _costs(*, vnni: bool) -> int:
    from .reports import cost_headers
    from .runs import costs, costs_vnni

    module = costs_vnni if vnni else costs
    measured = module.measure()
    for path in (module.save(measured), cost_headers.write(measured)):
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
    from .runs import modelled, results

    directory = args.results or results.DIRECTORY
    readme, performance = args.readme or ROOT / "README.md", args.performance or ROOT / documents.PERFORMANCE
    choosing = ROOT / documents.CHOOSING if args.readme is None else None
    path = directory / modelled.PRODUCTS.name
    sources = documents.Sources(results.load_all(directory), modelled.load(path) if path.exists() else None)
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
    if command == "quantize":
        from .runs import quantize

        return quantize.main(arguments)
    if command == "stages":
        from .runs import stages

        return stages.main(arguments)
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
    threads = args.threads[0] if args.command == "run" and len(args.threads) == 1 else 1
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    try:
        if args.command == "run":
            return _run(args, given)
        if args.command == "costs":
            return _costs(vnni=args.vnni)
        if args.command == "model":
            return _model()
        if args.command == "instructions":
            return _instructions(args)
        return _report(args) if args.command == "report" else _env()
    except (ValueError, RuntimeError, AssertionError, argparse.ArgumentTypeError) as error:
        print(f"python -m bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
