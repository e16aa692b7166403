"""The measurements of products: each builds groups of contestants, checks every product, and returns a `Result`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.peers import ceiling
from bench.subjects import installed, operands
from bench.subjects.interface import EXACT

from . import machine, timing
from .options import ALL_PAIRS, GEMM_PAIRS, Options
from .results import Result
from .session import Run
from .timing import Contestant

GEMM_SIZES = (64, 128, 256, 512, 1024, 2048)
MAIN_SIZE = 512
GEMV_PAIRS = ((8, 1), (8, 2), (8, 3), (8, 4), (8, 8))
GEMV_ROWS = (1, 8, 64)
THREADS_SIZES = (256, 512, 1024)
SMALL_PAIRS = ((1, 1), (3, 3), (4, 4), (8, 8))
SHOWN_CEILINGS = ("mul8", "lut", "dot512", "bitserial512")
FLOOD = 1.25  # what is read to evict the weights, in sizes of the last cache
COLD_ROUNDS = 11  # each with a flood for every contestant
FEW_ROWS = 8  # up to here a product is bound by reading its weights


def _shape_name(m: int, n: int, k: int) -> str:
    return f"{m}x{n}x{k}"


def gemm(options: Options) -> Result:
    """Square sizes; every bit pair of `ulp`, with int32 and with uint8 results, and every peer alternate at each size."""
    run = Run(options, "gemm")
    sizes = options.sizes or ((64, 128) if options.quick else GEMM_SIZES)
    return _squares(run, sizes, options.pairs or GEMM_PAIRS, requantized=True)


def pairs(options: Options) -> Result:
    """All 64 bit pairs at one size (512) beside every peer."""
    run = Run(options, "pairs")
    return _squares(run, options.sizes or ((64,) if options.quick else (512,)), options.pairs or ALL_PAIRS)


def _squares(run: Run, sizes: Sequence[int], wanted: Sequence[tuple[int, int]], *, requantized: bool = False) -> Result:
    run.plan([_shape_name(s, s, s) for s in sizes])
    with timing.pinned(run.options.core) as run.core:
        peers = run.admit(("int8", "fp32"))
        for s in sorted(sizes, key=lambda s: s != MAIN_SIZE):  # first of all what the first tables show
            if run.wants(name := _shape_name(s, s, s)):
                contestants = run.ulp_contestants(wanted, s, s, s)
                if requantized:
                    contestants += run.ulp_contestants(wanted, s, s, s, requantized=True)
                run.measure(name, (s, s, s), contestants + run.peer_contestants(peers, s, s, s) + run.ceilings(SHOWN_CEILINGS))
    return run.result()


def _cold(contestant: Contestant, evict: Callable[[], object]) -> Contestant:
    return dataclasses.replace(contestant, before=evict, cold=True)


def gemv(options: Options) -> Result:
    """Few rows against 4096 x 4096 weights, twice: with the weights where the last call left them (in L3 if they fit), and from memory.

    A read of a buffer as large as each weight matrix alternates with them: the bandwidth that bounds the product.
    """
    run = Run(options, "gemv")
    size = (options.sizes or ((256,) if options.quick else (4096,)))[0]
    flood = np.ones((1 << 20 if options.quick else round(FLOOD * machine.last_level_bytes())) // 8, dtype=np.int64)

    def evict() -> object:
        return flood.sum()

    shapes = [(m, size, size) for m in ((1, 8) if options.quick else GEMV_ROWS)]
    run.plan([_shape_name(*shape) + where for shape in shapes for where in ("", " cold")])
    with timing.pinned(options.core) as run.core:
        peers = run.admit(("int8", "fp32", "info"))
        for shape in shapes:
            hot, cold = _shape_name(*shape), f"{_shape_name(*shape)} cold"
            wanted = [name for name in (hot, cold) if not run.has(name)]
            if not wanted:
                continue
            contestants = run.ulp_contestants(options.pairs or GEMV_PAIRS, *shape)
            contestants += run.reads(sorted({b for _, b in options.pairs or GEMV_PAIRS}), size * size)
            contestants += run.peer_contestants(peers, *shape)
            if run.wants(hot):
                run.measure(hot, shape, contestants)
            if run.wants(cold):
                run.measure(cold, shape, [_cold(c, evict) for c in contestants], options.rounds or (3 if options.quick else COLD_ROUNDS))
    return run.result()


def small(options: Options) -> Result:
    """The latency of one 16x16x16 call from Python, weights packed, with and without `out=`; numpy's products beside it.

    Also the latency of one layer and of one compiled network on images of 16 channels and 4 x 4 pixels.
    """
    run = Run(options, "small")
    s = (options.sizes or (16,))[0]
    run.plan([_shape_name(s, s, s), "1x16x4x4"])
    with timing.pinned(options.core) as run.core:
        peers = run.admit(("int8", "fp32"))
        if run.wants(name := _shape_name(s, s, s)):
            run.measure(name, (s, s, s), _small_products(run, s) + run.peer_contestants(peers, s, s, s))
        if run.ulp is not None and run.wants("1x16x4x4") and (calls := installed.small_layers()):
            layers = [Contestant(name, "ulp", call, macs, nbytes, (3, 3)) for name, call, macs, nbytes in calls]
            run.measure("1x16x4x4", (16, 16, 16), layers)
    return run.result()


def _small_products(run: Run, s: int) -> list[Contestant]:
    contestants = run.ulp_contestants(run.options.pairs or SMALL_PAIRS, s, s, s)
    if run.ulp is not None:
        for bits in run.options.pairs or SMALL_PAIRS:
            call = installed.product(run.ulp, s, s, s, bits, out=True)
            name, info = f"ulp W{bits[1]}A{bits[0]} out=", {"kernel": installed.last_kernel()}
            contestants.append(Contestant(name, "ulp", call, s**3, int(call.packed.nbytes), bits, info=info))
    a, b = operands.activations(s, s, 8).astype(np.int32), operands.weights(s, s, 8).astype(np.int32)
    contestants.append(Contestant("numpy int32", "numpy", functools.partial(np.matmul, a, b), s**3, b.nbytes))
    return contestants


def threads(options: Options) -> Result:
    """`ulp` on two threads beside one, wall time, not pinned. The two alternate like any contestants."""
    run = Run(options, "threads", clock="wall")
    sizes = options.sizes or ((64,) if options.quick else THREADS_SIZES)
    run.plan([_shape_name(s, s, s) for s in sizes])
    for s in sizes if run.ulp is not None else ():
        if not run.wants(name := _shape_name(s, s, s)):
            continue
        contestants = []
        for bits in options.pairs or ((1, 1), (3, 3), (4, 4), (8, 8)):
            call = installed.product(run.ulp, s, s, s, bits)
            kernel = installed.last_kernel()
            for count in (1, 2):
                before = functools.partial(run.ulp.set_num_threads, count)
                label = f"ulp W{bits[1]}A{bits[0]} {count} thread{'s' if count > 1 else ''}"
                info = {"kernel": kernel, "threads": count, "check": EXACT.as_dict()}
                contestants.append(Contestant(label, "ulp", call, s**3, int(call.packed.nbytes), bits, before, info=info))
        run.measure(name, (s, s, s), contestants)
    if run.ulp is not None:
        run.ulp.set_num_threads(1)
    return run.result()


def kernels(options: Options) -> Result:
    """Every row of `ulp.kernels()` on every bit pair that it supports, at 512x512x512 and 1x4096x4096, beside the row's bare loop.

    The rows that support a pair alternate. A row that refuses a shape is listed in settings["not_run"] with its reason.
    """
    run = Run(options, "kernels")
    shapes = [(32, 128, 128), (1, 256, 256)] if options.quick else [(512, 512, 512), (1, 4096, 4096)]
    if options.sizes:
        shapes = [(s, s, s) for s in options.sizes]
    wanted = options.pairs or (GEMM_PAIRS if options.quick else ALL_PAIRS)
    rows = [] if run.ulp is None else [r for r in run.ulp.kernels() if installed.field(r, "available")]
    rows = [r for r in rows if options.kernels is None or installed.field(r, "name") in options.kernels]
    able = {bits: [r for r in rows if bits in {tuple(p) for p in installed.field(r, "pairs")}] for bits in wanted}
    able = {bits: found for bits, found in able.items() if found}
    run.plan([f"{_shape_name(*shape)} W{bits[1]}A{bits[0]}" for shape in shapes for bits in able])
    with timing.pinned(options.core) as run.core:
        for shape in shapes:
            for bits, found in able.items():
                if run.wants(name := f"{_shape_name(*shape)} W{bits[1]}A{bits[0]}"):
                    contestants, loops = rows_as_contestants(run, found, shape, bits)
                    reads = run.reads([bits[1]], shape[1] * shape[2]) if shape[0] <= FEW_ROWS else []
                    run.measure(name, shape, contestants + run.ceilings(sorted(loops)) + reads if contestants else [])
    return run.result()


def rows_as_contestants(
    run: Run, rows: Sequence[Any], shape: tuple[int, int, int], bits: tuple[int, int]
) -> tuple[list[Contestant], set[str]]:
    """Rows of the kernel table, checked on one pair, and the names of the bare loops that bound them."""
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
        info: dict[str, Any] = {"kernel": name, "technique": technique, "isa": isa, "ceiling": None, "check": EXACT.as_dict()}
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
