"""`python -m bench run`: the benchmarks in the order of their value, within a budget of time, each written as it is measured."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import ROOT
from .runs.options import ALL_PAIRS, Options

if TYPE_CHECKING:  # numpy must not be imported before the command has set its number of threads
    from .runs.results import Result

# What `run` measures, and the share of the budget of `run all` that each may use at most. In the order of `run all`: what documents and the
# paper say first comes first. A benchmark that ends early leaves its time to the others.
WHATS = {
    "gemm": ("square sizes, every peer, int32 and uint8 results", 0.25),
    "networks": ("seven CNNs, one image; on one core and on two", 0.45),
    "gemv": ("1, 8 and 64 rows x 4096 x 4096, weights from cache and from memory", 0.3),
    "pairs": ("all 64 bit pairs at 512", 0.2),
    "paper": ("the ULPPACK paper's products beside its peers", 0.2),
    "ablation": ("each technique on and off", 0.2),
    "conv": ("single convolutions", 0.4),
    "layers": ("the time of each step of a network", 0.3),
    "threads": ("two threads against one", 0.3),
    "batches": ("networks on 8 and 64 images", 0.5),
    "models": ("exported and quantized models: onnx.json, quantize.json", 0.7),
    "small": ("one 16x16x16 call", 0.5),
    "kernels": ("every kernel on every pair", 1.0),
    "cuda": ("kernels for GPUs, where there is one", 1.0),
}
NEEDED_BY_MODELS = ("torch", "brevitas", "onnx", "onnxoptimizer", "onnxruntime", "qonnx")
ALL_MINUTES = 60.0  # of `run all` where --minutes does not say otherwise


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    run = commands.add_parser("run", help="measure and write <what>.json", formatter_class=argparse.RawDescriptionHelpFormatter)
    width = max(map(len, WHATS))
    run.description = "\n".join(f"{what:{width}}  {words}" for what, (words, _) in WHATS.items())
    run.add_argument("what", choices=[*WHATS, "all"])
    run.add_argument("--quick", action="store_true", help="tiny shapes, to see that all is right; shows no times; kept in results/quick")
    run.add_argument("--resume", action="store_true", help="go on after an interruption: groups measured at this commit are kept")
    run.add_argument("--minutes", type=float, default=None, help=f"start nothing after this time (`run all`: {ALL_MINUTES:.0f})")
    run.add_argument("--sizes", type=_positive, nargs="+", help="square sizes instead of the benchmark's own (gemv: N = K)")
    run.add_argument("--pairs", nargs="+", default=None, help="bit pairs such as W3A3 W2A8, or all")
    run.add_argument("--peers", nargs="+", default=None, help="only these peers, by the names that `env` prints; none for none")
    run.add_argument("--kernels", nargs="+", default=None, help="only these rows (run kernels)")
    run.add_argument("--networks", nargs="+", default=None, help="only these (run networks, batches, layers)")
    run.add_argument("--threads", type=_positive, nargs="+", default=None, help="counts of threads, each a group (run networks: 1 2)")
    run.add_argument("--batches", type=_positive, nargs="+", default=None, help="images at once (run batches: 8 64)")
    run.add_argument("--no-memory", action="store_true", help="do not start a process for each model to measure its memory (run networks)")
    run.add_argument("--rounds", type=_positive, default=0, help="rounds of each group instead of 21 (7 for the largest)")
    run.add_argument("--min-sample-ms", type=float, default=2.0, help="shortest sample (default 2 ms)")
    run.add_argument("--core", type=int, default=None, help="core to run on (default: the last one)")
    run.add_argument("--out", type=Path, default=None, help="directory of the result files (default: bench/results)")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _pair(text: str) -> tuple[int, int]:
    weight, a, activation = text.upper().removeprefix("W").partition("A")
    if not a or weight not in "12345678" or activation not in "12345678" or not weight or not activation:
        raise argparse.ArgumentTypeError(f"{text!r} is no bit pair; write it as W3A3")
    return int(activation), int(weight)


def _benchmarks() -> dict[str, Callable[[Options], Result]]:
    from .runs import ablation, convolutions, layers, networks, paper, products

    return {
        **products.RUNS, "conv": convolutions.conv, "networks": networks.whole, "batches": networks.batches, "layers": layers.layers,
        "ablation": ablation.ablation, "paper": paper.paper,
    }  # fmt: skip


def threads_of(args: argparse.Namespace) -> tuple[int, ...]:
    """The counts of threads of `run networks`: one and two, of a quick run one."""
    return tuple(args.threads or ((1,) if args.quick else (1, 2)))


def options_of(args: argparse.Namespace, arguments: list[str]) -> Options:
    """What the command line says, checked."""
    from . import peers
    from .runs.results import DIRECTORY
    from .subjects import networks

    everything = args.pairs is not None and [p.lower() for p in args.pairs] == ["all"]
    pairs = None if args.pairs is None else ALL_PAIRS if everything else tuple(_pair(p) for p in args.pairs)
    names = [] if args.peers == ["none"] else args.peers
    peers.check_names(names)
    networks.named(args.networks)
    if args.minutes is not None and not args.minutes >= 0:
        raise ValueError(f"--minutes is {args.minutes}; it cannot be negative")
    return Options(
        arguments, None if names is None else tuple(names), args.rounds, args.min_sample_ms, args.core, args.quick,
        tuple(args.sizes) if args.sizes else None, pairs, tuple(args.kernels) if args.kernels else None,
        tuple(args.networks) if args.networks else None, threads_of(args), not (args.no_memory or args.quick),
        tuple(args.batches) if args.batches else None, args.out or (DIRECTORY / "quick" if args.quick else DIRECTORY), args.resume,
    )  # fmt: skip


def run(args: argparse.Namespace, arguments: list[str]) -> int:
    """Measure what is asked for. 1 where something could not be measured at all."""
    given = options_of(args, arguments)
    minutes = args.minutes if args.minutes is not None else ALL_MINUTES if args.what == "all" else None
    end = None if minutes is None else time.monotonic() + 60 * minutes
    failed = []
    for number, what in enumerate(WHATS if args.what == "all" else (args.what,), start=1):
        deadline = end
        if end is not None and minutes is not None and args.what == "all":
            deadline = min(end, time.monotonic() + 60 * minutes * WHATS[what][1])
            print(f"== {number}/{len(WHATS)} {what}, {max(0.0, end - time.monotonic()) / 60:.1f} min left", file=sys.stderr, flush=True)
        one = dataclasses.replace(given, deadline=deadline)
        measure = SEPARATE.get(what) or functools.partial(_measure, what)
        try:
            done = measure(one)
        except (ArithmeticError, AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError):
            if args.what != "all":
                raise
            traceback.print_exc()  # the others are measured all the same
            done = False
        if not done:
            failed.append(what)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _measure(what: str, given: Options) -> bool:
    from .reports import documents, products
    from .runs import parts, results

    assert given.directory is not None
    result = _benchmarks()[what](given)
    late = [one["group"] for one in result.settings["not_run"] if "group" in one]
    if late:
        print(f"{what}: {len(late)} groups were left out for want of time, --resume measures them: {', '.join(late)}")
    if not result.groups:
        print(f"{what}: nothing was measured")
        return bool(late)
    results.save(result, given.directory)
    if not late:
        parts.finish(what, given.directory)
    if given.quick:
        print(_checks(result))
        return True
    for table in documents.tables({what: result}, exactness=what == "gemm"):
        print(table.text(), end="\n\n")
    if what == "pairs":
        print("\n\n".join(products.speed_table(result, g).text() for g in result.groups))
    return True


def _checks(result: Result) -> str:
    """What a quick run says: how many results were compared with the reference, and how the inexact ones differ."""
    from .subjects.interface import Check

    checked = {f"{g.name}, {c.name}": c.info["check"] for g in result.groups for c in g.cells if "check" in c.info and c.kind != "info"}
    cosines = [c.info["cosine"] for g in result.groups for c in g.cells if "cosine" in c.info]
    wrong = {name: Check(**found).words() for name, found in checked.items() if not found["exact"]}
    tensors = sum(c.info.get("tensors_checked", 0) for g in result.groups for c in g.cells)
    ran = sum(len(g.cells) for g in result.groups)
    words = [f"{result.what}: {ran} contestants in {len(result.groups)} groups ran"]
    words.append(f"{len(checked)} results checked, {len(wrong)} inexact")
    if tensors:
        words.append(f"{tensors} tensors of networks exact")
    if cosines:
        words.append(f"scores beside float32's: cosine {min(cosines):.4f} or more")
    return "; ".join(words) + "".join(f"\n  {name}: {how}" for name, how in wrong.items())


def _process(module: list[str], given: Options) -> bool:
    """Another command of this Python, stopped when the time is up; whether it ended well."""
    left = given.seconds_left()
    try:
        done = subprocess.run([sys.executable, *module], cwd=ROOT, check=False, timeout=left)
    except subprocess.TimeoutExpired:
        print(f"{' '.join(module[1:3])}: stopped for want of time, --resume goes on")
        return True
    return done.returncode == 0


def _models(given: Options) -> bool:
    """Exported models, then models quantized after training; what a missing package leaves out is said by name."""
    import importlib.util

    if given.seconds_left() == 0.0:
        print("models: left out for want of time")
        return True
    out = ["--out", str(given.directory)]
    missing = [
        name for name in ("torch", "brevitas", "onnx", "onnxoptimizer", "onnxruntime", "qonnx") if not importlib.util.find_spec(name)
    ]
    if missing:
        print(f"models: left out, not installed: pip install {' '.join(missing)}")
        return True
    more = (["--resume"] if given.resume else []) + (["--core", str(given.core)] if given.core is not None else [])
    if given.quick:
        return _process(["-m", "bench", "onnx", "--quick", *out, *more], given)
    exported = _process(["-m", "bench", "onnx", *out, *more], given)
    return _process(["-m", "bench", "quantize", *out, *more], given) and exported


def _cuda(given: Options) -> bool:
    """The benchmark for GPUs, which builds its kernels for the device that is here."""
    import shutil

    if shutil.which("nvidia-smi") is None or subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode:
        print("cuda: left out, no GPU here (nvidia-smi shows none)")
        return True
    if given.seconds_left() == 0.0:
        print("cuda: left out for want of time")
        return True
    parts = ["--parts", "build", "check"] if given.quick else []
    return _process(["-m", "bench.cuda.run", "--out", str(given.directory), *parts], given)


SEPARATE = {"models": _models, "cuda": _cuda}  # processes of their own, with result files of their own
