"""ResNet-50 as a whole on a device: checked against the CPU, then timed beside torch's fp16 in channels_last, both in CUDA graphs.

    python -m bench.cuda.network check --out bench/results --seconds 120
    python -m bench.cuda.network speed --out bench/results --seconds 120
    python -m bench.cuda.network model

The first layer has 8 bits, all others those of the pair; weights are random. `check` writes cuda_network_checks.json, `speed`
cuda_network.json; both write after every part and, started again, go on behind the last that is there, if device and commit are the same.
`model` needs no device: it prints the modelled clocks of the convolutions, and how many of them read and write planes.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.runs import results

from . import conv
from .measure import Bench

CHECKS = "cuda_network_checks.json"
PAIRS = ((4, 4), (2, 1))  # (a_bits, w_bits)
BATCHES = (8, 64)
CHECK_IMAGES = 2
ROUNDS = 9
SIZE = 224
MACS = 4_089_184_256  # of an image


def architecture(nn: Any) -> Any:
    """The network, of the layers of `nn`."""
    from bench.subjects.networks import resnet50

    return resnet50(nn)


@functools.cache
def compiled(a_bits: int, w_bits: int) -> Any:
    """ResNet-50 of random weights on the CPU."""
    from bench.subjects.ulp_networks import UlpNN, load_nn

    network, x = architecture(UlpNN(w_bits, a_bits)), images(1)
    network.calibrate([x])
    return load_nn().compile(network, x, tune=False, progress=False)


def images(count: int) -> Any:
    """(count, 3, 224, 224) float32."""
    return np.random.default_rng(count).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


def check(out: Path, seconds: float, pairs: Sequence[tuple[int, int]] = PAIRS) -> bool:
    """Every pair, bit for bit; whether all were right."""
    deadline, path, now = time.monotonic() + seconds, out / CHECKS, conv.where()
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if found.get("where") != now:
        found = {"where": now, "networks": {}}
    for pair in pairs:
        name = f"W{pair[1]}A{pair[0]}"
        if name in found["networks"] or time.monotonic() > deadline:
            continue
        found["networks"][name] = _checked(compiled(*pair))
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"  {name}: {found['networks'][name]}", flush=True)
    return len(found["networks"]) == len(pairs) and set(found["networks"].values()) == {"equal"}


def _checked(network: Any) -> str:
    x = images(CHECK_IMAGES)
    try:
        got = network.to("cuda")(x)
    except (RuntimeError, ValueError, MemoryError) as error:
        return f"failed: {str(error).splitlines()[0]}"
    return "equal" if got.tobytes() == network(x).tobytes() else "wrong"


def speed(bench: Bench, pairs: Sequence[tuple[int, int]] = PAIRS, batches: Sequence[int] = BATCHES) -> None:
    """Every batch: the pairs of `ulp`, and torch."""
    conv.resume(bench)
    for count in batches:
        name = f"batch {count}, ResNet-50"
        if bench.result.find(name) is not None:
            continue
        if bench.late():
            return
        calls = [call for pair in pairs for call in bench.prepared(name, f"ulp W{pair[1]}A{pair[0]}", _ulp(bench, count, pair))]
        calls += bench.prepared(name, "torch fp16", functools.partial(_torch, bench, count))
        bench.time(name, (count, 1, 1), calls, ROUNDS)


def call(there: Any, x: Any) -> Any:
    """The network's result for a tensor on the device."""
    return there(x)


def _ulp(bench: Bench, count: int, pair: tuple[int, int]) -> Callable[[], Any]:
    def make() -> Any:
        from .device import Call, torch

        t = torch()
        network = compiled(*pair)
        there, x = network.to("cuda"), images(1)
        expected, batch = t.tensor(network(x), device="cuda"), t.tensor(np.repeat(x, count, axis=0), device="cuda")
        call(there, batch)  # memory for so many, before any graph
        outs = [t.empty((count, *expected.shape[1:]), device="cuda")]

        def run(_: int) -> None:
            outs[0].copy_(call(there, batch))

        def right(out: Any) -> bool:
            return bool((out == expected).all())

        name = f"ulp W{pair[1]}A{pair[0]}"
        return Call(name, "ulp", run, outs, count * MACS, batch.nbytes, _least_ns(bench, count, pair), pair, right)

    return make


def _torch(bench: Bench, count: int) -> Any:
    from bench.subjects.torch_nn import TorchNN

    from .device import Call, torch

    t = torch()
    t.backends.cudnn.benchmark = True
    form = {"dtype": t.float16, "memory_format": t.channels_last}
    x = t.tensor(images(count), device="cuda").to(**form)
    network = architecture(TorchNN()).eval().to(device=x.device, **form)
    with t.no_grad():
        outs = [network(x).clone()]

    def run(_: int) -> None:
        with t.no_grad():
            outs[0].copy_(network(x))

    return Call("torch fp16", "fp16", run, outs, count * MACS, x.nbytes, _least_ns(bench, count, (8, 8)))


def _least_ns(bench: Bench, count: int, pair: tuple[int, int]) -> float:
    from . import conv_peers

    return sum(layer.count * conv_peers.least_ns(bench, layer, count, pair) for layer in conv.RESNET50)


def model(pairs: Sequence[tuple[int, int]] = (*PAIRS, (1, 1), (2, 2))) -> list[tuple[str, int, int, int, int]]:
    """(pair, batch, clocks, convolutions that read planes, that write planes) for the device at hand, or that is emulated."""
    rows = []
    for pair in pairs:
        there = compiled(*pair).to("cuda")
        for count in BATCHES:
            methods = there._network.methods(count)
            clocks = sum(int(found[1]) for text in methods if (found := re.search(r"(\d+) modelled clocks", text)))
            reading, writing = (sum(what in text for text in methods) for what in ("reads planes", "writes planes"))
            rows.append((f"W{pair[1]}A{pair[0]}", count, clocks, reading, writing))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """One part; 1 where something was wrong or is left."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cuda.network", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=["check", "speed", "model"])
    parser.add_argument("--out", type=Path, default=results.DIRECTORY)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--commit", default=None, help="where git is not there to say it")
    args = parser.parse_args(arguments)
    if args.part == "model":
        for row in model():
            print("{}, batch {}: {} clocks, {} read planes, {} write them".format(*row), flush=True)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part == "check":
        return 0 if check(args.out, args.seconds) else 1
    args.command, args.libraries = "python -m bench.cuda.network speed", Path()
    bench = Bench("cuda_network", args)
    speed(bench)
    bench.save()
    return 0 if bench.result.groups and not bench.not_run and not bench.result.settings["cut"] else 1


if __name__ == "__main__":
    sys.exit(main())
