"""From a float network to three bits in three stages: `python -m bench stages`, which writes stages.json (docs/choosing-bits.md).

1. `ulp.quantize` at W3A3, after training. 2. `bits="auto"`: no larger and no slower than that. 3. A few epochs of training with
quantization by Brevitas from the float weights, at W3A3 and at the bits that auto chose, exported to QONNX and loaded back.

The network is the ResNet of bench.subjects.float_networks; accuracy is that on digits which no training has seen; auto judges by digits
that are neither among those nor among those of the calibration.
Needs torch, brevitas, onnxruntime and scipy.
"""

from __future__ import annotations

import argparse
import copy
import functools
import time
import warnings
from pathlib import Path
from typing import Any

import ulp
from bench.subjects.quantize_tasks import session
from ulp.quantize import Budget, FloatNetwork, auto
from ulp.quantize.request import assignment_of

from . import machine, results
from .timing import Contestant, measure, pinned

EPOCHS, RATE = 5, 1e-3


def main(arguments: list[str]) -> int:
    """Print each stage's accuracy and milliseconds, and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m bench stages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the training with quantization")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--out", type=Path, default=results.DIRECTORY, help="the directory of stages.json")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # what Brevitas and torch say of each other
    import torch

    from bench.subjects import brevitas_networks, float_networks, low_bit_resnet, quantize_tasks

    torch.set_num_threads(1)
    ulp.set_num_threads(1)
    task = quantize_tasks.digits("resnet")
    trained = float_networks.trained("resnet")
    side = float_networks.NETWORKS["resnet"][1]
    example = torch.from_numpy(task.example)
    made: dict[str, tuple[Any, int, dict[str, Any]]] = {}

    def stage(name: str, run: Any, nbytes: int, **info: Any) -> None:
        made[name] = run, nbytes, {"accuracy": task.score(run), "metric": task.metric, **info}
        print(f"{name:22} {made[name][2]['accuracy']:6.2f} %  {nbytes / 1e3:6.1f} kB", flush=True)

    with pinned(args.core):
        stage("float", session(task.model), len(task.model))
        network = FloatNetwork(task.model, task.calibrate)
        uniform = assignment_of("W3A3", [layer.name for layer in network.layers], 8)
        first = network.quantized(uniform).load(progress=False)
        stage("W3A3 after training", first, first.nbytes)
        chosen = auto(network, Budget(max_ms="W3A3", max_bytes=first.nbytes), metric=task.select, example=task.example)
        loaded = chosen.load(progress=False)
        assert chosen.choice is not None
        print(chosen.choice)
        stage("auto after training", loaded, loaded.nbytes, bits={name: str(pair) for name, pair in chosen.assignment.items()})
        for name, assignment in (("W3A3 trained", uniform), ("auto trained", chosen.assignment)):
            pairs = {layer: (pair.weight, pair.activation) for layer, pair in assignment.items() if pair is not None}
            begin = time.perf_counter()
            torch.manual_seed(0)
            low = low_bit_resnet.low_bit(copy.deepcopy(trained), pairs)
            float_networks.fit(low, side, epochs=args.epochs, rate=RATE)
            seconds = time.perf_counter() - begin
            tuned = ulp.load(brevitas_networks.export(low, "qonnx", example), progress=False)
            stage(name, tuned, tuned.nbytes, epochs=args.epochs, training_s=round(seconds, 1), integer=tuned.integer)
        contestants = [
            Contestant(name, "fp32" if name == "float" else "ulp", functools.partial(run, task.example), 0, nbytes, info=info)
            for name, (run, nbytes, info) in made.items()
        ]
        samples = measure(contestants, rounds=args.rounds)
    group = results.group("resnet", (1, 0, 0), contestants, samples)
    for cell in group.cells:
        print(f"{cell.name:22} {cell.info['accuracy']:6.2f} %  {cell.time.median / 1e6:8.4f} ms  {cell.nbytes / 1e3:6.1f} kB")
    environment = machine.describe(arguments) | {"command": " ".join(["python -m bench stages", *arguments])}
    environment["isa"] = ulp.get_isa()
    results.save(results.Result("stages", environment, {"rounds": args.rounds, "threads": 1}, None, {}, [group]), args.out)
    return 0
