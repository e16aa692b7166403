"""`python -m ulp run | inspect | bench MODEL`: what `ulp.load` does, from the command line; and `tune`, which measures this machine."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import ulp
from ulp._progress import progress_bar
from ulp._table import Table

if TYPE_CHECKING:
    from ulp.onnx import OnnxNetwork

Array = npt.NDArray[Any]
Inputs = dict[str, Array]

# Calls are timed in groups that take at least this long.
_SLICE_SECONDS = 0.01


def load(given: argparse.Namespace, *, tune: bool) -> OnnxNetwork:
    """The model of the command line."""
    shapes = dict(given.shape)
    return ulp.load(str(given.model), strict=given.strict, shapes=shapes or None, mode=given.mode, tune=tune, progress=True)


def read_inputs(network: OnnxNetwork, files: Sequence[str]) -> Inputs:
    """Arrays of .npy files, given as FILE in the order of the model's inputs or as NAME=FILE, and those of .npz files, by name."""
    names = [port.name for port in network.inputs]
    inputs: Inputs = {}
    for text in files:
        name, _, path = text.rpartition("=")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                inputs.update({key: loaded[key] for key in loaded.files})
            continue
        free = [candidate for candidate in names if candidate not in inputs]
        if not name and not free:
            raise ValueError(f"{path}: the model has {len(names)} inputs, {', '.join(names)}, and each has an array already")
        inputs[name or free[0]] = loaded
    return inputs


def random_inputs(network: OnnxNetwork, batch: int) -> Inputs:
    """Normal floats and zeros of other types; open sides are `batch` if first, else 1."""
    rng = np.random.default_rng(0)
    inputs: Inputs = {}
    for port in network.inputs:
        if port.shape is None:
            raise ValueError(f"the file leaves the shape of the input {port.name!r} open: pass the array by --input")
        shape = [side if isinstance(side, int) else batch if i == 0 else 1 for i, side in enumerate(port.shape)]
        inputs[port.name] = rng.standard_normal(shape).astype(port.dtype) if port.dtype.kind == "f" else np.zeros(shape, port.dtype)
    return inputs


def results_of(network: OnnxNetwork, inputs: Inputs) -> dict[str, Array]:
    """All outputs by name."""
    results = network(**inputs)
    return results if isinstance(results, dict) else {network.outputs[0].name: results}


def run(given: argparse.Namespace) -> str:
    """Run once: the table of results, and where the time goes."""
    network = load(given, tune=given.profile)
    inputs = read_inputs(network, given.input) if given.input else random_inputs(network, given.batch)
    results = results_of(network, inputs)
    if given.output is not None:
        save(given.output, results)
    rows: list[tuple[str, ...]] = []
    for name, array in results.items():
        shape = "x".join(map(str, array.shape))
        numbers = (f"{f(array):.6g}" if array.size else "" for f in (np.min, np.mean, np.max))
        rows.append((name, str(array.dtype), shape, *numbers))
    text = str(Table(("output", "dtype", "shape", "min", "mean", "max"), rows, right=3))
    if given.profile:
        text += f"\n\n{network.profile(*(inputs[port.name] for port in network.inputs if port.name in inputs))}"
    return text


def save(path: Path, results: dict[str, Array]) -> None:
    """One array as .npy, or all of them as .npz."""
    if path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **results)
    elif path.suffix == ".npy" and len(results) == 1:
        np.save(path, next(iter(results.values())), allow_pickle=False)
    else:
        raise ValueError(f"--output={path}: expected a name that ends in .npz{', or .npy' if len(results) == 1 else ''}")


def inspect(given: argparse.Namespace) -> str:
    """The table of layers."""
    return str(load(given, tune=False))


def seconds_per_call(calls: dict[str, Callable[[], Any]], rounds: int, title: str) -> dict[str, float]:
    """Median seconds per call; in every round all take turns."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(_SLICE_SECONDS / max(time.perf_counter() - start, 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in progress_bar(range(rounds), True, title, "round"):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}


def onnxruntime_session(path: Path, threads: int) -> Any:
    """A session on the CPU; a str that says why there is none."""
    try:
        import onnxruntime
    except ImportError:
        return "onnxruntime is not installed: pip install onnxruntime to compare with it"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its many kinds, all of which say that it does not run the model
        return f"onnxruntime does not run this model: {str(error).splitlines()[0]:.200}"


def bench(given: argparse.Namespace) -> str:
    """Times of batches, beside onnxruntime's where it runs the model."""
    network = load(given, tune=True)
    session = onnxruntime_session(given.model, given.threads)
    compared = not isinstance(session, str)
    names = [port.name for port in network.outputs]
    rows: list[tuple[str, ...]] = []
    for batch in given.batches:
        inputs = random_inputs(network, batch)
        calls: dict[str, Callable[[], Any]] = {"ulp": partial(results_of, network, inputs)}
        if compared:
            calls["onnxruntime"] = partial(session.run, names, inputs)
        seconds = seconds_per_call(calls, given.rounds, f"bench, batch {batch}")
        row = [str(batch), f"{1e3 * seconds['ulp']:.3f}", "", "", ""]
        if compared:
            ours = results_of(network, inputs)
            pairs = zip(names, session.run(names, inputs), strict=True)
            difference = max(float(np.max(np.abs(ours[name] - theirs.astype(np.float64)), initial=0.0)) for name, theirs in pairs)
            row[2:] = [f"{1e3 * seconds['onnxruntime']:.3f}", f"{seconds['onnxruntime'] / seconds['ulp']:.2f}", f"{difference:.3g}"]
        rows.append(tuple(row))
    threads = f"{given.threads} thread{'s' if given.threads > 1 else ''}"
    head = f"ulp {ulp.__version__}, {ulp.get_isa()}, {threads}, medians of {given.rounds} rounds"
    heads = ("batch", "ulp, ms", "onnxruntime, ms", "times as fast", "largest difference")
    return str(Table(heads, rows, right=5, title=head, foot="" if compared else str(session)))


def tune(given: argparse.Namespace) -> str:
    """Measure all kernels, and show what is chosen from now on; or forget it."""
    if given.forget:
        ulp.tune.forget()
        return f"forgotten: what was tuned or measured on this machine ({ulp.get_isa()})"
    costs = ulp.tune.machine(progress=True)
    rows = []
    for bits in range(1, 9):
        cells = [f"W{bits}A{bits}"]
        for m in (1, 64, 512):
            ranking = ulp.explain(m, 512, 512, bits=bits)
            cells += [ranking.kernel, f"{ranking.candidates[0].gmacs:.1f}"]
        rows.append(tuple(cells))
    heads = ("bits", *(text for m in (1, 64, 512) for text in (f"M={m}: kernel", "GMAC/s")))
    place = ulp.tune.path()
    title = f"ulp {ulp.__version__}, {ulp.get_isa()}, one thread, N = K = 512: {len(costs)} kernels and bit pairs measured here"
    foot = f"kept in {place}; `python -m ulp tune --forget` drops it" if place else "not kept: ULP_TUNE_CACHE=off, or no user directory"
    return str(Table(heads, rows, title=title, foot=foot))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sides = text.rpartition("=")
    try:
        shape = tuple(int(side) for side in sides.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=1,3,224,224")
    return name, shape


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65536):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 to 65536")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ulp", description="Run quantized ONNX models: QONNX, QCDQ, QDQ and QLinear operators.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function, text in (
        ("run", run, "run a model once"),
        ("inspect", inspect, "show its layers: bits, sizes, and which run in integers"),
        ("bench", bench, "time it, beside onnxruntime where that runs it"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        command.add_argument("model", type=Path)
        command.add_argument("--strict", action="store_true", help="refuse a model of which a layer would run in floats")
        command.add_argument("--mode", choices=("requantize", "requantise", "threshold"), help="see ulp.load")
        command.add_argument("--shape", type=_shape, action="append", default=[], metavar="NAME=1,3,224,224", help="of an input left open")
        command.add_argument("--threads", type=_count, default=None, help="default: ulp's own, for bench 1")
    text = "measure every kernel on this machine, in about a minute, and choose by that from now on"
    tune_command = commands.add_parser("tune", help=text, description=text)
    tune_command.set_defaults(function=tune, threads=1)
    tune_command.add_argument("--forget", action="store_true", help="drop what was measured, and what `ulp.tune` found")
    run_command, bench_command = commands.choices["run"], commands.choices["bench"]
    source = run_command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", action="append", metavar="[NAME=]FILE", help=".npy, or .npz of arrays by name; repeat it for more inputs"
    )
    source.add_argument("--random", action="store_true", help="normal random numbers")
    run_command.add_argument("--batch", type=_count, default=1, help="of random inputs whose batch size is open")
    run_command.add_argument("--output", type=Path, help="write the results: .npy, or .npz by name")
    run_command.add_argument("--profile", action="store_true", help="tune the plan, and show where its time goes")
    bench_command.add_argument("--batches", type=_count, nargs="+", default=[1, 64], help="default 1 64")
    bench_command.add_argument("--rounds", type=_count, default=21, help="default 21")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0; 2, with the error's words on stderr, for a model, file or package that is missing or refused."""
    given = _parser().parse_args(arguments)
    threads = given.threads or (1 if given.command == "bench" else ulp.get_num_threads())
    given.threads = threads
    before = ulp.get_num_threads()
    try:
        ulp.set_num_threads(threads)
        sys.stdout.write(f"{given.function(given)}\n")
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.stderr.write(f"ulp {given.command}: {error}\n")
        return 2
    finally:
        ulp.set_num_threads(before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
