"""Exported low-bit models in `ulp.load` beside onnxruntime and qonnx: `python -m bench onnx`, which writes onnx.json.

The models are those of `bench.subjects.brevitas_networks`: a network trained on digits, ResNet-18 and MobileNetV2 at W3A3 with random
weights, each as QONNX (which onnxruntime cannot run) and as QCDQ. Beside them onnxruntime runs the int8 QDQ version that its own tool makes
of the same architecture. All contestants alternate, on one core, in CPU time; loading is timed separately.

Needs brevitas, onnxoptimizer and onnxruntime. qonnx's executor needs another version of onnx, so another Python runs it (--qonnx).
"""

from __future__ import annotations

import argparse
import copy
import functools
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ulp
from bench.subjects.models import model

from . import machine, parts, results
from .timing import Contestant, measure, pinned

QUICK_ROUNDS = 2
# What another Python runs: the median time of a call in ms.
QONNX = """
import sys, time, numpy as np
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
x = np.load(sys.argv[2])
model = ModelWrapper(sys.argv[1])
model.set_tensor_shape(model.graph.input[0].name, list(x.shape))
model = model.transform(InferShapes())
feed = {model.graph.input[0].name: x}
times = []
for _ in range(int(sys.argv[3])):
    begin = time.thread_time_ns()
    execute_onnx(model, feed)
    times.append(time.thread_time_ns() - begin)
print(float(np.median(times)) / 1e6)
"""


def _session(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options)


def _loading(load: Callable[[], object], rounds: int = 5) -> float:
    """ms, the median."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        load()
        times.append(time.perf_counter_ns() - begin)
    return float(np.median(times)) / 1e6


def _ort(name: str, kind: str, session: Any, x: Any) -> Contestant:
    feed = {session.get_inputs()[0].name: x}
    return Contestant(name, kind, lambda: session.run(None, feed), 0)


def _group(name: str, batch: int, contestants: list[Contestant], rounds: int, info: dict[str, Any]) -> results.Group:
    """Measured; the first contestant's cell holds `info`."""
    contestants[0].info.update(info)
    samples = measure(contestants, rounds=rounds)
    group = results.group(name, (batch, 0, 0), contestants, samples)
    for cell in group.cells if rounds > QUICK_ROUNDS else ():
        print(f"{name:28} {cell.name:26} {cell.time.median / 1e6:9.3f} ms  {group.cells[0].over(cell).median:6.2f}x", flush=True)
    return group


def _digits(
    brevitas: Any, torch: Any, folder: Path, rounds: int, qonnx: str | None, batches: Sequence[int], *, quick: bool
) -> Iterator[results.Group]:
    torch.manual_seed(0)
    network = brevitas.convolutional(3, 3)
    images = brevitas.digits()[0]
    if quick:
        brevitas.settle(network, images[:64])
    else:
        brevitas.train(network)
    files = {kind: brevitas.export(network, kind, images[:1]) for kind in ("qonnx", "qcdq")}
    loaded, session = ulp.load(files["qonnx"], strict=True), _session(files["qcdq"])
    for batch in batches:
        x = images[:batch].numpy()
        if (loaded(x).argmax(axis=1) != session.run(None, {"x": x})[0].argmax(axis=1)).any():
            raise RuntimeError("digits: the predictions differ")
        contestants = [Contestant("ulp QONNX", "ulp", functools.partial(loaded, x), 0), _ort("onnxruntime QCDQ", "fp32", session, x)]
        info: dict[str, Any] = {"load_ms": _loading(lambda: ulp.load(files["qonnx"]))}
        if qonnx:
            (folder / "digits.onnx").write_bytes(files["qonnx"])
            np.save(folder / "x.npy", x)
            command = [qonnx, "-W", "ignore", "-c", QONNX, str(folder / "digits.onnx"), str(folder / "x.npy"), "15"]
            info["qonnx_executor_ms"] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
            print(f"digits, batch {batch}: qonnx's executor {info['qonnx_executor_ms']:.2f} ms")
        yield _group(f"digits CNN W3A3, batch {batch}", batch, contestants, rounds, info)


def _large(brevitas: Any, torch: Any, folder: Path, rounds: int, name: str, make: Callable[[int], Any]) -> results.Group:
    from bench.peers.network import quantized_onnx

    torch.manual_seed(0)
    images = torch.randn(4, 3, 224, 224) / 2
    network = brevitas.settle(make(3), images)
    files = {kind: brevitas.export(network, kind, images[:1]) for kind in ("qonnx", "qcdq")}
    path = folder / f"{name} W3A3.onnx"
    path.write_bytes(files["qonnx"])
    qdq = quantized_onnx(model(name), folder)
    x = images[:1].numpy()
    loaded, int8 = ulp.load(path, strict=True), ulp.load(qdq, strict=True)
    qcdq = _session(files["qcdq"])
    # In float64 no rounding decides a code; in float32 one falls to its neighbour now and then, and layers behind it make more of that.
    with torch.inference_mode():
        precise, single = copy.deepcopy(network).double()(images[:1].double()), network(images[:1])
    precise, single = (getattr(y, "value", y).numpy() for y in (precise, single))
    results_of = {"ulp QONNX": loaded(x), "onnxruntime QCDQ": qcdq.run(None, {"x": x})[0], "Brevitas float32": single}
    differences = {key: float(np.abs(y - precise).max()) for key, y in results_of.items()}
    contestants = [
        Contestant("ulp QONNX", "ulp", lambda: loaded(x), 0),
        _ort("onnxruntime QCDQ", "fp32", qcdq, x),
        _ort("onnxruntime int8 QDQ", "int8", _session(str(qdq)), x),
        Contestant("ulp int8 QDQ", "ulp", lambda: int8(x), 0),
    ]
    info: dict[str, Any] = {"load_ms": _loading(lambda: ulp.load(path)), "untuned_load_ms": _loading(lambda: ulp.load(path, tune=False))}
    loaded.save(folder / "saved.ulp")
    info["saved_load_ms"] = _loading(lambda: ulp.load(folder / "saved.ulp"))
    info["largest_difference_to_brevitas_in_float64"] = differences
    print(f"{name}: {info}")
    return _group(f"{name} W3A3, batch 1", 1, contestants, rounds, info)


def _groups(args: argparse.Namespace, measured: set[str]) -> Iterator[results.Group]:
    """What is not measured yet."""
    import torch

    from bench.subjects import brevitas_networks as brevitas

    rounds = QUICK_ROUNDS if args.quick else args.rounds
    with pinned(args.core), tempfile.TemporaryDirectory() as folder:
        batches = [batch for batch in ((1,) if args.quick else (1, 64)) if f"digits CNN W3A3, batch {batch}" not in measured]
        if batches:
            yield from _digits(brevitas, torch, Path(folder), rounds, args.qonnx, batches, quick=args.quick)
        for name, make in () if args.quick else (("ResNet-18", brevitas.resnet18), ("MobileNetV2", brevitas.mobilenet_v2)):
            if f"{name} W3A3, batch 1" not in measured:
                yield _large(brevitas, torch, Path(folder), rounds, name, make)


def main(arguments: list[str]) -> int:
    """Measure and write the file, group by group."""
    parser = argparse.ArgumentParser(prog="python -m bench onnx", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--qonnx", help="a Python that has qonnx with its onnx")
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="one small model, to see that all is right")
    parser.add_argument("--resume", action="store_true", help="keep the groups measured at this commit")
    parser.add_argument("--out", type=Path, default=results.DIRECTORY, help="the directory of onnx.json")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # what Brevitas and torch say of each other
    ulp.set_num_threads(1)
    # The path of the Python that has qonnx stays out of the result file.
    shown = ["PYTHON" if argument == args.qonnx else argument for argument in arguments]
    environment = machine.describe(shown) | {"command": " ".join(["python -m bench onnx", *shown])}
    settings = {"rounds": args.rounds, "quick": args.quick, "options": {"qonnx": bool(args.qonnx)}}
    earlier = parts.found("onnx", args.out, environment, settings) if args.resume else None
    groups = list(earlier.groups) if earlier else []
    for group in _groups(args, {group.name for group in groups}):
        groups.append(group)
        results.save(results.Result("onnx", environment, settings, None, {}, groups), args.out)
    return 0
