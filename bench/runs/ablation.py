"""`python -m bench run ablation`: what each technique gains, the same work with it and without it in turn.

Without: the kernel that would run if the technique did not exist, on the same values, or what a caller would do instead. Every result is
checked before it is timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.subjects import convolutions, installed, operands, ulp_networks
from bench.subjects.convolutions import Convolution
from bench.subjects.interface import EXACT, WrongResultError, compare

from . import machine, timing
from .options import Options
from .results import Result
from .session import Run
from .timing import Contestant

Pair = tuple[int, int]  # (a_bits, b_bits)


class NotHereError(RuntimeError):
    """This CPU or this build has not what the comparison needs."""


@dataclass(frozen=True)
class Technique:
    """One comparison. words: what the technique is; make: its two calls (with, without), given the run and whether it is a quick one."""

    name: str
    words: str
    make: Callable[[Run, bool], tuple[Contestant, Contestant]]


def _contestant(role: str, what: str, call: Any, macs: int, nbytes: int, bits: Pair | None, before: Any = None) -> Contestant:
    info = {"role": role, "kernel": what, "check": EXACT.as_dict()}
    return Contestant(f"{role}: {what}", "ulp", call, macs, nbytes, bits, before, cold=before is not None, info=info)


def _row(run: Run, technique: str, isa: str) -> str:
    """The name of the kernel of this technique for this instruction set."""
    for row in run.ulp.kernels():
        if (installed.field(row, "technique"), installed.field(row, "isa")) == (technique, isa) and installed.field(row, "available"):
            return str(installed.field(row, "name"))
    raise NotHereError(f"no kernel {technique} for {isa} on this CPU")


def _side(quick: bool) -> int:
    return 64 if quick else 512


def _kernels(with_: tuple[str, str], without: tuple[str, str], bits: Pair) -> Callable[[Run, bool], tuple[Contestant, Contestant]]:
    """Two kernels, by technique and instruction set, on one square product."""

    def make(run: Run, quick: bool) -> tuple[Contestant, Contestant]:
        s = _side(quick)
        made = []
        for role, (technique, isa) in (("with", with_), ("without", without)):
            name = _row(run, technique, isa)
            call = installed.product(run.ulp, s, s, s, bits, kernel=name)
            made.append(_contestant(role, name, call, s**3, int(call.packed.nbytes), bits))
        return made[0], made[1]

    return make


def _checked(call: Callable[[], Any], expected: Any, what: str) -> Callable[[], Any]:
    verdict = compare(np.asarray(call()), expected)
    if not verdict.exact:
        raise WrongResultError(f"{what} is {verdict.words()}")
    return call


def _widening(run: Run, quick: bool) -> tuple[Contestant, Contestant]:
    """W3A3 values, declared as such and as 7 bits, where the same kernel widens after every second step."""
    s, kernel = _side(quick), _row(run, "mul8", "avx2")
    a, b = operands.activations(s, s, 3), operands.weights(s, s, 3)
    expected, made = operands.reference(a, b), []
    for role, bits in (("with", 3), ("without", 7)):
        packed = run.ulp.pack(b, bits=bits)
        call = functools.partial(run.ulp.gemm, a, packed, bits=(bits, bits), kernel=kernel)
        what = f"{kernel}, sums widened " + ("when they could overflow" if role == "with" else "as for 7 bits")
        made.append(_contestant(role, what, _checked(call, expected, what), s**3, int(packed.nbytes), (3, 3)))
    return made[0], made[1]


def _trim_on_normal(run: Run, quick: bool) -> tuple[Contestant, Contestant]:
    """Weights of a normal distribution, as trained ones are, the largest of each column at 127."""
    s = _side(quick)
    a, real = operands.activations(s, s, 8), np.random.default_rng(operands.SEED).standard_normal((s, s))
    b = np.rint(real / np.abs(real).max(axis=0) * 127).astype(np.int8)
    expected, made = operands.reference(a, b), []
    packed = run.ulp.pack(b, bits=8)
    for role, technique in (("with", "trim"), ("without", "mul16")):
        kernel = _row(run, technique, "avx2")
        call = functools.partial(run.ulp.gemm, a, packed, bits=(8, 8), kernel=kernel)
        made.append(_contestant(role, kernel, _checked(call, expected, kernel), s**3, int(packed.nbytes), (8, 8)))
    return made[0], made[1]


def _bit_packed(run: Run, quick: bool) -> tuple[Contestant, Contestant]:
    """One row times weights of 3 bits from memory, stored in 3 bits and in 8."""
    s = 256 if quick else 4096
    flood = np.ones((1 << 20 if quick else round(1.25 * machine.last_level_bytes())) // 8, dtype=np.int64)
    a, b = operands.activations(1, s, 8), operands.weights(s, s, 3)
    expected, made = operands.reference(a, b), []
    for role, bits in (("with", 3), ("without", 8)):
        packed = run.ulp.pack(b, bits=bits)
        call = functools.partial(run.ulp.gemm, a, packed, bits=(8, bits))
        what = f"weights stored in {bits} bits"
        made.append(_contestant(role, what, _checked(call, expected, what), s**2, int(packed.nbytes), (8, 3), flood.sum))
    return made[0], made[1]


def _prepacked(run: Run, quick: bool) -> tuple[Contestant, Contestant]:
    """Eight rows: the packing of weights is not hidden by the product."""
    s = 64 if quick else 1024
    a, b = operands.activations(8, s, 3), operands.weights(s, s, 3)
    expected, packed = operands.reference(a, b), run.ulp.pack(b, bits=3)
    once = functools.partial(run.ulp.gemm, a, packed, bits=(3, 3))

    def each() -> Any:
        return run.ulp.gemm(a, run.ulp.pack(b, bits=3), bits=(3, 3))

    calls = (("with", "weights packed once", once), ("without", "weights packed in each call", each))
    made = [_contestant(r, w, _checked(c, expected, w), 8 * s**2, int(packed.nbytes), (3, 3)) for r, w, c in calls]
    return made[0], made[1]


def _finish(run: Run, quick: bool) -> tuple[Contestant, Contestant]:
    """uint8 results: requantized in the tile, and by numpy in passes of their own over int32."""
    s = _side(quick)
    a, b = operands.activations(s, s, 3), operands.weights(s, s, 3)
    sums, packed = operands.reference(a, b), run.ulp.pack(b, bits=3)
    step = operands.requantization_step(sums)
    expected = operands.requantized(sums, step)
    scaled, codes = np.empty((s, s), np.float32), np.empty((s, s), np.uint8)
    fused = functools.partial(run.ulp.gemm, a, packed, bits=(3, 3), scale=1 / step, out_bits=8, out_zero=operands.ZERO)

    def apart() -> Any:
        np.multiply(run.ulp.gemm(a, packed, bits=(3, 3)), np.float32(1 / step), out=scaled)
        np.rint(scaled, out=scaled)
        np.add(scaled, np.float32(operands.ZERO), out=scaled)
        np.clip(scaled, 0, 255, out=scaled)
        np.copyto(codes, scaled, casting="unsafe")
        return codes

    calls = (("with", "requantized in the tile", fused), ("without", "requantized by numpy afterwards", apart))
    made = [_contestant(r, w, _checked(c, expected, w), s**3, int(packed.nbytes), (3, 3)) for r, w, c in calls]
    return made[0], made[1]


def _layer(quick: bool, full: Convolution) -> Convolution:
    return Convolution("small", 12, 12, 32, 32, 3) if quick else full


def _winograd(layer: Convolution, bits: Pair) -> Callable[[Run, bool], tuple[Contestant, Contestant]]:
    """One layer by Winograd's method and directly, both on AVX2."""

    def make(run: Run, quick: bool) -> tuple[Contestant, Contestant]:
        shape, made = _layer(quick, layer), []
        for role, method in (("with", "winograd"), ("without", _row(run, "mul8", "avx2"))):
            call = ulp_networks.layer(shape, bits, method)
            made.append(_contestant(role, call.method, call, shape.macs, call.nbytes, bits))
        return made[0], made[1]

    return make


def _indirection(run: Run, quick: bool) -> tuple[Contestant, Contestant]:
    """A layer that reads the image where it lies, and one whose windows numpy copies into a matrix first."""
    shape, bits = _layer(quick, Convolution("ResNet-18", 28, 28, 128, 128, 3)), (3, 3)
    direct = ulp_networks.layer(shape, bits, "direct")
    a, w = convolutions.operands(shape, *bits)
    sums = convolutions.accumulators(shape, a, w)
    step = convolutions.step(sums, 7)
    height, width = shape.out
    edge = shape.padding
    padded = np.zeros((shape.height + 2 * edge, shape.width + 2 * edge, shape.channels), np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (shape.kernel, shape.kernel), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    matrix = np.empty((height, width, shape.kernel, shape.kernel, shape.channels), np.uint8)
    packed = run.ulp.pack(np.ascontiguousarray(w.transpose(1, 2, 3, 0).reshape(shape.depth, shape.filters)), bits=3)

    def copied() -> Any:
        padded[edge:-edge, edge:-edge] = a
        np.copyto(matrix, windows)
        return run.ulp.gemm(matrix.reshape(height * width, -1), packed, bits=bits, scale=1 / step, out_bits=3, relu=True)

    expected = convolutions.requantized(sums, step, 7).reshape(height * width, -1)
    what = "windows copied into a matrix (im2col)"
    return (
        _contestant("with", f"windows read through pointers ({direct.method})", direct, shape.macs, direct.nbytes, bits),
        _contestant("without", what, _checked(copied, expected, what), shape.macs, int(packed.nbytes), bits),
    )


TECHNIQUES = (
    Technique("operand packing W2A2", "two products in one 16-bit multiply", _kernels(("ulppack_p1", "avx2"), ("mul16", "avx2"), (2, 2))),
    Technique("operand packing W3A3", "two products in one 16-bit multiply", _kernels(("ulppack_p1", "avx2"), ("mul16", "avx2"), (3, 3))),
    Technique("deferred widening W3A3", "narrow sums are widened only when they could overflow", _widening),
    Technique("lookup W1A1", "sums of products by byte shuffles", _kernels(("lut", "avx2"), ("mul8", "avx2"), (1, 1))),
    Technique("lookup W2A2", "sums of products by byte shuffles", _kernels(("lut", "avx2"), ("mul8", "avx2"), (2, 2))),
    Technique("lookup W1A2, AVX-512", "by vpermb", _kernels(("lut", "avx512vbmi"), ("dot", "avx512vnni"), (2, 1))),
    Technique("row pairs W1A1", "two rows in one operand", _kernels(("rowpair", "avx2"), ("mul8", "avx2"), (1, 1))),
    Technique("bit planes W1A1, AVX-512", "AND and population count", _kernels(("bitserial", "avx512vbmi"), ("dot", "avx512vnni"), (1, 1))),
    Technique("VNNI W3A3", "four products straight to 32 bits", _kernels(("dot", "avx512vnni"), ("mul8", "avx2"), (3, 3))),
    Technique("exact W8A8 by trim, normal weights", "what could overflow is taken off the weights", _trim_on_normal),
    Technique("exact W8A8 by trim, uniform weights", "the same, its worst case", _kernels(("trim", "avx2"), ("mul16", "avx2"), (8, 8))),
    Technique("Winograd W3A3 56x56x64, AVX2", "2.25x fewer products", _winograd(Convolution("ResNet-18", 56, 56, 64, 64, 3), (3, 3))),
    Technique("Winograd W3A3 14x14x256, AVX2", "2.25x fewer products", _winograd(Convolution("ResNet-18", 14, 14, 256, 256, 3), (3, 3))),
    Technique("indirection W3A3 28x28x128", "convolution without im2col", _indirection),
    Technique("fused finish W3A3", "requantized while the sums are in cache", _finish),
    Technique("prepacked weights, 8x1024x1024 W3A3", "packed once, not in each call", _prepacked),
    Technique("bit-packed weights, 1x4096x4096 W3A8 cold", "weights in memory take their own width", _bit_packed),
)  # fmt: skip


def ablation(options: Options) -> Result:
    """Each technique in a group of its own; one that this CPU does not have is listed in settings["not_run"]."""
    run = Run(options, "ablation")
    if run.ulp is None:
        return run.result()
    run.plan([one.name for one in TECHNIQUES])
    run.notes = {"words": {one.name: one.words for one in TECHNIQUES}, "peer_operands": "none"}
    with timing.pinned(options.core) as run.core:
        for one in TECHNIQUES:
            if not run.wants(one.name):
                continue
            try:
                pair = one.make(run, options.quick)
            except NotHereError as reason:
                run.not_run.append({"technique": one.name, "why": str(reason)})
                run.measure(one.name, (0, 0, 0), [])
                continue
            macs = pair[0].macs
            run.measure(one.name, (0, 0, macs), pair)
    return run.result()
