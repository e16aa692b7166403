"""The measurements of products: each builds groups of contestants, checks every product, and returns a `Result`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.peers import ceiling
from bench.subjects import installed, operands

from . import machine, timing
from .options import ALL_PAIRS, GEMM_PAIRS, Options
from .results import Result
from .session import Run
from .timing import Contestant

GEMM_SIZES = (64, 128, 256, 512, 1024, 2048)
GEMV_PAIRS = ((8, 1), (8, 2), (8, 3), (8, 4), (8, 8))
SMALL_PAIRS = ((1, 1), (3, 3), (4, 4), (8, 8))
FEW_ROWS = 8  # up to here a product is bound by reading its weights


def _shape_name(m: int, n: int, k: int) -> str:
    return f"{m}x{n}x{k}"


def gemm(options: Options) -> Result:
    """Square sizes; every bit pair of `ulp` and every peer alternate at each size."""
    run = Run(options, "gemm")
    sizes = options.sizes or ((64, 256) if options.quick else GEMM_SIZES)
    with timing.pinned(options.core) as core:
        peers = run.admit(("int8", "fp32"))
        for s in sizes:
            contestants = run.ulp_contestants(options.pairs or GEMM_PAIRS, s, s, s) + run.peer_contestants(peers, s, s, s)
            run.measure(_shape_name(s, s, s), (s, s, s), contestants + run.ceilings(("mul8", "lut")))
    return run.result("thread", core)


def pairs(options: Options) -> Result:
    """All 64 bit pairs at one size (512) beside every peer."""
    run = Run(options, "pairs")
    sizes = options.sizes or ((128,) if options.quick else (512,))
    with timing.pinned(options.core) as core:
        peers = run.admit(("int8", "fp32"))
        for s in sizes:
            contestants = run.ulp_contestants(options.pairs or ALL_PAIRS, s, s, s) + run.peer_contestants(peers, s, s, s)
            run.measure(_shape_name(s, s, s), (s, s, s), contestants + run.ceilings(("mul8", "lut")))
    return run.result("thread", core)


def _cold(contestant: Contestant, evict: Callable[[], object]) -> Contestant:
    return Contestant(
        contestant.name, contestant.kind, contestant.run, contestant.macs, contestant.nbytes, contestant.bits, evict, True, contestant.info
    )


def gemv(options: Options) -> Result:
    """Few rows against 4096 x 4096 weights, twice: with the weights where the last call left them (in L3 if they fit), and from memory.

    A read of a buffer as large as each weight matrix alternates with them: the bandwidth that bounds the product.
    """
    run = Run(options, "gemv")
    size = (options.sizes or ((1024,) if options.quick else (4096,)))[0]
    flood = np.ones(2 * machine.last_level_bytes() // 8, dtype=np.int64)

    def evict() -> object:
        return flood.sum()

    with timing.pinned(options.core) as core:
        peers = run.admit(("int8", "fp32", "info"))
        for m in (1, 8):
            contestants = run.ulp_contestants(options.pairs or GEMV_PAIRS, m, size, size)
            contestants += run.reads(sorted({b for _, b in options.pairs or GEMV_PAIRS}), size * size)
            contestants += run.peer_contestants(peers, m, size, size)
            shape = (m, size, size)
            run.measure(_shape_name(*shape), shape, contestants)
            run.measure(f"{_shape_name(*shape)} cold", shape, [_cold(c, evict) for c in contestants])
    return run.result("thread", core)


def small(options: Options) -> Result:
    """The latency of one 16x16x16 call from Python, weights packed, with and without `out=`; numpy's products beside it.

    Also the latency of one layer and of one compiled network on images of 16 channels and 4 x 4 pixels.
    """
    run = Run(options, "small")
    s = (options.sizes or (16,))[0]
    with timing.pinned(options.core) as core:
        peers = run.admit(("int8", "fp32"))
        contestants = run.ulp_contestants(options.pairs or SMALL_PAIRS, s, s, s)
        if run.ulp is not None:
            for bits in options.pairs or SMALL_PAIRS:
                call = installed.product(run.ulp, s, s, s, bits, out=True)
                name, info = f"ulp W{bits[1]}A{bits[0]} out=", {"kernel": installed.last_kernel()}
                contestants.append(Contestant(name, "ulp", call, s**3, int(call.packed.nbytes), bits, info=info))
        a, b = operands.activations(s, s, 8).astype(np.int32), operands.weights(s, s, 8).astype(np.int32)
        contestants.append(Contestant("numpy int32", "numpy", functools.partial(np.matmul, a, b), s**3, b.nbytes))
        run.measure(_shape_name(s, s, s), (s, s, s), contestants + run.peer_contestants(peers, s, s, s))
        if run.ulp is not None and (calls := installed.small_layers()):
            layers = [Contestant(name, "ulp", call, macs, nbytes, (3, 3)) for name, call, macs, nbytes in calls]
            run.measure("1x16x4x4", (16, 16, 16), layers)
    return run.result("thread", core)


def threads(options: Options) -> Result:
    """`ulp` on two threads beside one, wall time, not pinned. The two alternate like any contestants."""
    run = Run(options, "threads")
    s = (options.sizes or ((256,) if options.quick else (1024,)))[0]
    if run.ulp is not None:
        contestants = []
        for bits in options.pairs or ((1, 1), (3, 3), (4, 4), (8, 8)):
            call = installed.product(run.ulp, s, s, s, bits)
            kernel = installed.last_kernel()
            for count in (1, 2):
                before = functools.partial(run.ulp.set_num_threads, count)
                name = f"ulp W{bits[1]}A{bits[0]} {count} thread{'s' if count > 1 else ''}"
                info = {"kernel": kernel, "threads": count}
                contestants.append(Contestant(name, "ulp", call, s**3, int(call.packed.nbytes), bits, before, info=info))
        run.measure(_shape_name(s, s, s), (s, s, s), contestants, clock="wall")
        run.ulp.set_num_threads(1)
    return run.result("wall", None)


def kernels(options: Options) -> Result:
    """Every row of `ulp.kernels()` on every bit pair that it supports, at 512x512x512 and 1x4096x4096, beside the row's bare loop.

    The rows that support a pair alternate. A row that refuses a shape is listed in settings["not_run"] with its reason.
    """
    run = Run(options, "kernels")
    shapes = [(128, 128, 128), (1, 512, 512)] if options.quick else [(512, 512, 512), (1, 4096, 4096)]
    if options.sizes:
        shapes = [(s, s, s) for s in options.sizes]
    wanted = options.pairs or (GEMM_PAIRS if options.quick else ALL_PAIRS)
    with timing.pinned(options.core) as core:
        rows = [] if run.ulp is None else [r for r in run.ulp.kernels() if installed.field(r, "available")]
        rows = [r for r in rows if options.kernels is None or installed.field(r, "name") in options.kernels]
        for shape in shapes:
            for bits in wanted:
                able = [r for r in rows if bits in {tuple(p) for p in installed.field(r, "pairs")}]
                contestants, loops = _rows_as_contestants(run, able, shape, bits)
                if contestants:
                    name = f"{_shape_name(*shape)} W{bits[1]}A{bits[0]}"
                    reads = run.reads([bits[1]], shape[1] * shape[2]) if shape[0] <= FEW_ROWS else []
                    run.measure(name, shape, contestants + run.ceilings(sorted(loops)) + reads)
    return run.result("thread", core)


def _rows_as_contestants(
    run: Run, rows: Sequence[Any], shape: tuple[int, int, int], bits: tuple[int, int]
) -> tuple[list[Contestant], set[str]]:
    m, n, k = shape
    contestants: list[Contestant] = []
    loops: set[str] = set()
    for row in rows:
        name, technique, isa = (str(installed.field(row, key)) for key in ("name", "technique", "isa"))
        try:
            call = installed.product(run.ulp, m, n, k, bits, kernel=name)
        except ValueError as error:
            run.not_run.append({"kernel": name, "shape": list(shape), "bits": list(bits), "why": str(error)})
            continue
        info: dict[str, Any] = {"kernel": name, "technique": technique, "isa": isa, "ceiling": None}
        if bound := ceiling.of_kernel(technique, isa, *bits):
            info["ceiling"] = {"loop": f"ceiling {bound.loop}", "divisor": bound.divisor}
            loops.add(bound.loop)
        contestants.append(Contestant(name, "ulp", call, m * n * k, int(call.packed.nbytes), bits, info=info))
    return contestants, loops


RUNS: dict[str, Callable[[Options], Result]] = {
    "gemm": gemm,
    "pairs": pairs,
    "gemv": gemv,
    "small": small,
    "threads": threads,
    "kernels": kernels,
}
