"""ResNet-50's convolutions on a device: checked against the CPU, then timed beside torch's fp16 and bf16 and cuDNN's int8.

    python -m bench.cuda.conv check --out bench/results --seconds 240
    python -m bench.cuda.conv speed --out bench/results --seconds 360

Each part writes its file after every layer and, started again, goes on behind the last layer that is there, if device and commit are the
same. `check` writes cuda_conv_checks.json, `speed` cuda_conv.json. Layers have their ReLU and give codes of the pair's activations.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.runs import results
from bench.subjects.interface import WrongResultError

from . import conv_peers
from .measure import Bench

CHECKS = "cuda_conv_checks.json"
PAIRS = ((4, 4), (2, 1), (2, 2), (1, 1))  # (a_bits, w_bits) that are timed
CHECKED = ((4, 4), (2, 1), (2, 2), (1, 1), (3, 3), (8, 8), (8, 4))
BATCHES = (8, 64)
CHECK_IMAGES = 2
ROUNDS = 9


@dataclass(frozen=True)
class Layer:
    """A convolution of `size` x `size` images, padded to keep the size at stride 1; it comes `count` times in ResNet-50."""

    channels: int
    outputs: int
    kernel: int
    stride: int
    size: int
    count: int

    @property
    def name(self) -> str:
        """As 3x3/2 128-128@56."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}{stride} {self.channels}-{self.outputs}@{self.size}"

    @property
    def out(self) -> int:
        """The result's side."""
        return (self.size - 1) // self.stride + 1

    @property
    def k(self) -> int:
        """Products per sum."""
        return self.kernel**2 * self.channels

    def macs(self, images: int) -> int:
        """Multiply-accumulates."""
        return images * self.out**2 * self.outputs * self.k

    def nbytes(self, images: int, w_bits: int, bytes_each: int = 1) -> int:
        """Weights, images and results, once each; bytes_each: of an activation."""
        activations = images * (self.size**2 * self.channels + self.out**2 * self.outputs)
        return activations * bytes_each + self.outputs * self.k * w_bits // 8


def _layers() -> Iterator[Layer]:
    yield Layer(3, 64, 7, 2, 224, 1)
    inputs, size = 64, 56
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        first, outputs = (1 if width == 64 else 2), 4 * width
        small = size // first
        yield Layer(inputs, width, 1, 1, size, 1)
        yield Layer(width, width, 3, first, size, 1)
        yield Layer(width, outputs, 1, 1, small, blocks)
        yield Layer(inputs, outputs, 1, first, size, 1)
        yield Layer(outputs, width, 1, 1, small, blocks - 1)
        yield Layer(width, width, 3, 1, small, blocks - 1)
        inputs, size = outputs, small


def _distinct(layers: Iterator[Layer]) -> tuple[Layer, ...]:
    """Each shape once, with all its occurrences."""
    counts: dict[tuple[int, ...], int] = {}
    for layer in layers:
        shape = (layer.channels, layer.outputs, layer.kernel, layer.stride, layer.size)
        counts[shape] = counts.get(shape, 0) + layer.count
    return tuple(Layer(*shape, count=count) for shape, count in counts.items())  # type: ignore[misc]  # five sides


RESNET50 = _distinct(_layers())


class Problem:
    """A layer at a pair, with random weights and an epilogue that spreads its sums over the codes. On the CPU until `on_device`."""

    def __init__(self, layer: Layer, a_bits: int, w_bits: int) -> None:
        from ulp import _core
        from ulp.nn.script import Script

        self.layer, self.a_bits, self.w_bits = layer, a_bits, w_bits
        rng = np.random.default_rng(layer.k + 10 * a_bits + w_bits)
        self.rng = rng
        shape = (layer.kernel, layer.kernel, -(-layer.channels // 4) * 4, layer.outputs)
        weights = rng.integers(-(2 ** (w_bits - 1)), 2 ** (w_bits - 1), shape, dtype=np.int8)
        if w_bits == 1:
            weights = rng.choice(np.array([-1, 1], np.int8), shape)
        spread = math.sqrt(layer.k) * 2.0 ** (a_bits + w_bits - 4)
        script = Script(_core.Plan())
        source = script.codes(height=layer.size, width=layer.size, channels=layer.channels, bits=a_bits, zero=0, scale=1.0)
        target = script.codes(height=layer.out, width=layer.out, channels=layer.outputs, bits=a_bits, zero=0, scale=1.0)
        script.input_codes(tensor=source, nhwc=True)
        finish = {
            "scale": (rng.uniform(0.5, 1.5, layer.outputs) * 2**a_bits / spread).astype(np.float32),
            "bias": rng.uniform(0, 2**a_bits / 2, layer.outputs).astype(np.float32),
            "residual": None, "low": 0.0, "high": math.inf, "targets": [(target, 0)], "thresholds": [None],
        }  # fmt: skip
        script.conv(
            source=source, source_channel=0, weights=_core.pack(weights.reshape(-1, layer.outputs), w_bits),
            kernel=(layer.kernel,) * 2, stride=(layer.stride,) * 2, padding=(layer.kernel // 2,) * 4, dilation=(1, 1), weight_zero=0,
            finish=finish, method=None,
        )  # fmt: skip
        script.output(tensor=target, nhwc=True)
        script.finalize(1, False, tune=False)
        self.script = script

    def images(self, count: int) -> Any:
        """Codes (count, size, size, channels), uint8."""
        shape = (count, self.layer.size, self.layer.size, self.layer.channels)
        return self.rng.integers(0, 2**self.a_bits, shape, dtype=np.uint8)

    def on_cpu(self, images: Any) -> Any:
        """The codes that it must give."""
        return self.script.plan.run(images)[0]

    def on_device(self) -> Any:
        """The layer on GPU 0."""
        from ulp._gpu.network import DeviceNetwork

        return DeviceNetwork(self.script.calls, ["input", "conv", "output"], 0)


def check(out: Path, seconds: float, layers: Sequence[Layer] = RESNET50) -> bool:
    """Every layer at every pair, bit for bit; whether all were right."""
    deadline = time.monotonic() + seconds
    path = out / CHECKS
    now = where()
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if found.get("where") != now:
        found = {"where": now, "layers": {}}
    for layer in layers:
        for a_bits, w_bits in CHECKED:
            name = f"{layer.name} W{w_bits}A{a_bits}"
            if name in found["layers"] or time.monotonic() > deadline:
                continue
            found["layers"][name] = _checked(Problem(layer, a_bits, w_bits))
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            if found["layers"][name] != "equal":
                print(f"  {name}: {found['layers'][name]}", flush=True)
    missing = len(layers) * len(CHECKED) - len(found["layers"])
    wrong = [name for name, outcome in found["layers"].items() if outcome != "equal"]
    print(f"  {len(found['layers'])} checked, {len(wrong)} wrong, {missing} left", flush=True)
    return not wrong and missing == 0


def _checked(problem: Problem) -> str:
    images = problem.images(CHECK_IMAGES)
    try:
        (got,) = problem.on_device().on_host([images])
    except (RuntimeError, ValueError, MemoryError) as error:
        return f"failed: {str(error).splitlines()[0]}"
    wrong = int((got != problem.on_cpu(images)).sum())
    return f"{wrong} of {got.size} codes are wrong" if wrong else "equal"


def where() -> dict[str, Any]:
    """Device and commit: results of others are not gone on with."""
    from bench.runs import machine
    from ulp._gpu import native

    facts = native.devices()[0]
    return {"gpu": facts["name"], "arch": facts["arch"], "commit": machine.describe([])["commit"]}


def speed(bench: Bench, layers: Sequence[Layer] = RESNET50, batches: Sequence[int] = BATCHES) -> None:
    """Every layer at every batch: the pairs of `ulp`, and its peers."""
    resume(bench)
    for images in batches:
        for layer in layers:
            name = f"batch {images}, {layer.name}"
            if bench.result.find(name) is not None:
                continue
            if bench.late():
                return
            calls = [call for pair in PAIRS for call in bench.prepared(name, f"ulp W{pair[1]}A{pair[0]}", _ulp(bench, layer, images, pair))]
            for dtype in conv_peers.FLOATS:
                calls += bench.prepared(name, f"torch {dtype}", functools.partial(conv_peers.floats, bench, layer, images, dtype))
            calls += bench.prepared(name, conv_peers.CUDNN, functools.partial(conv_peers.cudnn_int8, bench, layer, images))
            for call in calls:
                call.info["count"] = layer.count
            bench.time(name, (images * layer.out**2, layer.outputs, layer.k), calls, ROUNDS)


def resume(bench: Bench) -> None:
    """Take in what a run that was cut short has left, of the same device and commit."""
    path = bench.directory / f"{bench.result.what}.json"
    if not path.exists():
        return
    before = results.load(path)
    here = bench.result.environment
    if all(before.environment.get(key) == here.get(key) for key in ("gpu", "commit")):
        bench.result.groups.extend(before.groups)
        bench.result.settings["clocks"].update(before.settings.get("clocks", {}))


def _ulp(bench: Bench, layer: Layer, images: int, pair: tuple[int, int]) -> Callable[[], Any]:
    def make() -> Any:
        from .device import Call, torch

        t = torch()
        problem = Problem(layer, *pair)
        first = problem.images(1)
        nbytes = layer.nbytes(images, pair[1])
        copies = conv_peers.slots(bench, nbytes)
        networks = [problem.on_device() for _ in range(copies)]
        expected, x = problem.on_cpu(first), np.repeat(first, images, axis=0)
        for network in networks:  # which leaves the images in its memory
            if not (network.on_host([x])[0] == expected).all():
                raise WrongResultError(f"ulp W{pair[1]}A{pair[0]} is wrong")

        def run(slot: int) -> None:
            networks[slot]._native.start_step(1, images, int(t.cuda.current_stream().cuda_stream))

        outs = [t.empty(1, dtype=t.uint8, device="cuda") for _ in networks]  # results stay in the networks' own memory
        info = {"kernel": networks[0].methods(images)[1]}
        return Call(
            f"ulp W{pair[1]}A{pair[0]}",
            "ulp",
            run,
            outs,
            layer.macs(images),
            nbytes,
            conv_peers.least_ns(bench, layer, images, pair),
            pair,
            None,
            info,
        )

    return make


def main(arguments: Sequence[str] | None = None) -> int:
    """One part; 1 where something was wrong or is left."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.conv", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=["check", "speed"])
    parser.add_argument("--out", type=Path, default=results.DIRECTORY)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--commit", default=None, help="where git is not there to say it")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "check":
        return 0 if check(args.out, args.seconds) else 1
    args.command, args.libraries = "python -m bench.cuda.conv speed", Path()
    bench = Bench("cuda_conv", args)
    speed(bench)
    bench.save()
    return 0 if bench.result.groups and not bench.not_run and not bench.result.settings["cut"] else 1


if __name__ == "__main__":
    sys.exit(main())
