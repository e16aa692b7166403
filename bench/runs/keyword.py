"""Keyword spotting on a stream, per frame of 10 ms: `python -m bench keyword`, which writes keyword.json.

The network is an LSTM of 64 units over 40 log-mel energies, trained on synthesized words (`subjects.keywords`), at 4, 5 and 8 bits of
weights and 8 of activations, compiled for one frame per call with its states in and out; features are computed in the same process. Beside
it stands onnxruntime's dynamic int8, and with `--kwsmlp FILE` the MLP W3A3 of qonnx's model zoo, whose input is 49 frames of 10 numbers.

Beside each time stand the share of 200 test words that are recognized, and what the products of a frame take on Cortex-A53 by the modelled
costs of kernels (modelled_costs.json): products alone, without gates, features and calls.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import ulp
from bench.subjects import keywords
from ulp import nn

from . import machine, modelled, results
from .timing import Contestant, measure, pinned

TESTED, CORE = 200, "cortex-a53"


def modelled_us(macs: int, bits: int, act_bits: int) -> float:
    """Microseconds of one row's products on CORE, by its fastest kernel."""
    costs: dict[str, Any] = json.loads(modelled.COSTS.read_text(encoding="utf-8"))
    at, row = costs["cpus"].index(CORE), costs["rows"].index(1)
    pair = f"W{bits}A{act_bits}"
    found = [kernel[pair][at][row] for kernel in costs["kernels"].values() if pair in kernel]
    return float(macs * min(cost for cost in found if cost) * 1e-9)


def _stream(network: keywords.Spotter) -> tuple[Any, nn.CompiledNetwork]:
    """A function of one frame that keeps the states, and the compiled network."""
    states = (1, 1, keywords.HIDDEN)
    compiled = nn.compile(network, ((1, 1, keywords.MELS), states, states), progress=False)
    kept = [np.zeros(states, np.float32), np.zeros(states, np.float32)]

    def step(frame: Any) -> Any:
        scores, *kept[:] = compiled(frame, *kept)
        return scores

    return step, compiled


def _onnxruntime(folder: Path) -> Any:
    """The float network quantized in the call by onnxruntime, as a function of one frame; None without its packages."""
    try:
        import onnxruntime
        import torch
        from onnxruntime.quantization import quantize_dynamic

        from bench.subjects.train_keywords import Network
    except ImportError:
        return None
    network = Network().eval()
    network.load_state_dict({name: torch.from_numpy(value) for name, value in keywords.weights().items()})

    class Step(torch.nn.Module):  # type: ignore[misc]  # torch is not there for mypy
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any, h: Any, c: Any) -> Any:
            y, (h, c) = self.network.rnn(x, (h, c))
            return self.network.head(y), h, c

    zeros = torch.zeros(1, 1, keywords.HIDDEN)
    path, low = folder / "float.onnx", folder / "dynamic.onnx"
    names = {"input_names": ["x", "h", "c"], "output_names": ["y", "h1", "c1"]}
    torch.onnx.export(Step(), (torch.zeros(1, 1, keywords.MELS), zeros, zeros), str(path), dynamo=False, opset_version=14, **names)
    quantize_dynamic(path, low)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(low), options, providers=["CPUExecutionProvider"])
    kept = [zeros.numpy(), zeros.numpy()]

    def step(frame: Any) -> Any:
        scores, *kept[:] = session.run(None, {"x": frame, "h": kept[0], "c": kept[1]})
        return scores

    return step


def _group(given: argparse.Namespace, folder: Path) -> results.Group:
    test, labels = keywords.samples(2, given.tested)
    calibration, _ = keywords.samples(3, 40)
    frame = np.ascontiguousarray(test[:1, 60:61])
    sound = np.zeros(keywords.WINDOW, np.float32) + np.sin(np.arange(keywords.WINDOW, dtype=np.float32))
    contestants = [Contestant("features of a frame", "numpy", partial(keywords.features, sound), 0)]
    for bits in (4, 5, 8):
        network = keywords.spotter(bits, calibration)
        step, compiled = _stream(network)
        zeros = np.zeros((1, len(test), keywords.HIDDEN), np.float32)
        right = float((keywords.decided(network(test, zeros, zeros)[0]) == labels).mean())
        contestants.append(Contestant(f"ulp LSTM W{bits}A8", "ulp", partial(step, frame), compiled.macs, compiled.nbytes, (8, bits)))
        contestants[-1].info.update(recognized=right, modelled_us={CORE: round(modelled_us(compiled.macs, bits, 8), 2)})
    dynamic = _onnxruntime(folder)
    if dynamic is not None:
        contestants.append(Contestant("onnxruntime LSTM, dynamic int8", "int8", partial(dynamic, frame), 0, 0, (8, 8)))
    if given.kwsmlp is not None:
        mlp = ulp.load(given.kwsmlp, shapes={"inp.1": (1, 1, 10, 49)})
        x = np.random.default_rng(0).standard_normal((1, 1, 10, 49)).astype(np.float32)
        macs = 490 * 256 + 2 * 256 * 256 + 256 * 12
        contestants.append(Contestant("ulp KWS MLP W3A3", "ulp", partial(mlp, x), macs, 0, (3, 3)))
        contestants[-1].info.update(modelled_us={CORE: round(modelled_us(macs, 3, 3), 2)})
    group = results.group("a frame of 10 ms", (1, keywords.HIDDEN, keywords.MELS), contestants, measure(contestants, rounds=given.rounds))
    for cell in group.cells:
        print(f"{cell.name:32} {cell.time.median / 1e3:8.2f} us  {cell.info or ''}", flush=True)
    return group


def main(arguments: list[str]) -> int:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench keyword", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kwsmlp", type=Path, default=None, help="the file of the KWS MLP W3A3 of qonnx's model zoo")
    parser.add_argument("--tested", type=int, default=TESTED, help=f"synthesized words to recognize (default: {TESTED})")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--out", type=Path, default=results.DIRECTORY, help="the directory of keyword.json")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # what exporters and quantizers of others say
    ulp.set_num_threads(1)
    with pinned(given.core), tempfile.TemporaryDirectory() as folder:
        group = _group(given, Path(folder))
    shown = [argument for argument in arguments if argument not in ("--kwsmlp", str(given.kwsmlp))]
    environment = machine.describe(shown) | {"command": " ".join(["python -m bench keyword", *shown])}
    results.save(results.Result("keyword", environment, {"rounds": given.rounds, "threads": 1}, None, {}, [group]), given.out)
    return 0
