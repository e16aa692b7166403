"""`python -m bench run layers`: how the time of a compiled network divides among its steps, on one core."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.subjects import models, networks, ulp_networks
from bench.subjects.interface import EXACT

from . import timing
from .options import Options
from .results import Cell, Group, Result
from .session import Run

SHOWN = ("ResNet-18", "MobileNetV2")
BITS = (3, 3)  # (a_bits, w_bits)
ROUNDS = 15


def layers(options: Options) -> Result:
    """Groups "ResNet-18 W3A3": a cell per step, in order, named "<number> <layer>"; a round is one profiled call."""
    run = Run(options, "layers")
    pairs = options.pairs or (BITS,)
    wanted = networks.named(options.networks or (("SqueezeNet 1.1",) if options.quick else SHOWN))
    run.plan([f"{name} W{w}A{a}" for name in wanted for a, w in pairs])
    with timing.pinned(options.core) as run.core:
        for name in wanted if run.ulp is not None else ():
            for bits in pairs:
                if run.wants(title := f"{name} W{bits[1]}A{bits[0]}"):
                    run.keep(_profiled(name, bits, title, options.rounds or (2 if options.quick else ROUNDS)))
    return run.result()


def _profiled(name: str, bits: tuple[int, int], title: str, rounds: int) -> Group:
    with tempfile.TemporaryDirectory() as directory:
        model = models.model(name)
        runtime = ulp_networks.UlpNetwork(bits)
        path = runtime.build(model, Path(directory))
        x = model.images()
        runtime.check(name, path, x)
        compiled = runtime.load(name, path, x, 1).compiled
        compiled.timed(x)
        rows = [compiled.timed(x) for _ in range(rounds)]
    cells = []
    for number, same in enumerate(zip(*rows, strict=True)):
        one = same[0]
        info = {
            "layer": one.layer, "type": one.type, "step": one.step, "kernel": one.kernel, "shape": list(one.shape),
            "check": EXACT.as_dict(),
        }  # fmt: skip
        w_bits, a_bits = one.bits
        ns = [max(1.0, round(row.ms * 1e6)) for row in same]
        cells.append(
            Cell(f"{number} {one.layer or one.step}", "ulp", (a_bits, w_bits) if a_bits and w_bits else None, one.macs, 0, 1, ns, info)
        )
    return Group(title, (3, 224, 224), cells)
