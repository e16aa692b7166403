"""The checks that need torch on the device: `ulp.gemm` on its tensors, streams, CUDA graphs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .check import Device, Stage
from .operands import Array, matrix

ROUNDS = 12
STREAMS = 4
PAIRS = ((4, 4), (8, 4), (8, 8), (8, 1), (3, 2))
SHAPES = ((1, 512, 1024), (33, 320, 640), (300, 256, 512))


def expected(a: Array, b: Array) -> Array:
    """The exact product."""
    return np.asarray(np.rint(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32))


class Calls:
    """`ulp.gemm` on torch's tensors with fresh operands."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.ulp: Any = importlib.import_module("ulp")
        self.rng = rng

    def upload(self, array: Array) -> Any:
        """On the device, when the copy is done."""
        return self.torch.from_numpy(array).cuda()

    def operands(self, shape: tuple[int, int, int], bits: tuple[int, int]) -> tuple[Array, Array]:
        """a unsigned, b signed."""
        m, n, k = shape
        return matrix(self.rng, (m, k), bits[0], False), matrix(self.rng, (k, n), bits[1], True)


def public(stage: Stage, rng: np.random.Generator) -> Iterator[None]:
    """torch's and cupy's arrays in, the same kind out; packed on the device or brought there; into `out=` and quantized."""
    calls = Calls(rng)
    torch, ulp = calls.torch, calls.ulp
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        cupy = None
    for bits in PAIRS:
        for shape in SHAPES:
            a, b = calls.operands(shape, bits)
            right, x = expected(a, b), calls.upload(a)
            what = f"ulp.gemm {shape} {bits}"
            packed = ulp.pack(calls.upload(b), bits=bits[1])
            stage.expect(ulp.gemm(x, packed, bits=bits).cpu().numpy(), right, what)
            brought = ulp.pack(b, bits=bits[1], device="cuda")
            out = torch.full(right.shape, -1, dtype=torch.int32, device="cuda")
            ulp.gemm(x, brought, bits=bits, out=out)
            stage.expect(out.cpu().numpy(), right, f"{what} into out")
            if cupy is not None:
                got = cupy.asnumpy(ulp.gemm(cupy.asarray(a), packed, bits=bits))
                stage.expect(got, right, f"{what} of cupy's arrays")
            yield


def streams(stage: Stage, rng: np.random.Generator) -> Iterator[None]:
    """Several streams at work at once, each result waited for on its own stream only."""
    calls = Calls(rng)
    torch, ulp = calls.torch, calls.ulp
    lanes = [torch.cuda.Stream() for _ in range(STREAMS)]
    for turn in range(ROUNDS):
        bits = PAIRS[turn % len(PAIRS)]
        work = [calls.operands(SHAPES[turn % len(SHAPES)], bits) for _ in lanes]
        ready = [(calls.upload(a), ulp.pack(calls.upload(b), bits=bits[1])) for a, b in work]
        torch.cuda.synchronize()
        results = []
        for lane, (x, packed) in zip(lanes, ready, strict=True):
            with torch.cuda.stream(lane):
                results.append([ulp.gemm(x, packed, bits=bits) for _ in range(5)][-1])
        for lane, (a, b), result in zip(lanes, work, results, strict=True):
            lane.synchronize()
            stage.expect(result.cpu().numpy(), expected(a, b), f"streams {bits}")
        yield


def graphs(stage: Stage, rng: np.random.Generator) -> Iterator[None]:
    """Captured once, replayed on operands that change in place."""
    calls = Calls(rng)
    torch, ulp = calls.torch, calls.ulp
    for bits in PAIRS:
        for shape in SHAPES:
            a, b = calls.operands(shape, bits)
            x, packed = calls.upload(a), ulp.pack(calls.upload(b), bits=bits[1])
            out = torch.empty((shape[0], shape[1]), dtype=torch.int32, device="cuda")
            ulp.gemm(x, packed, bits=bits, out=out)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                ulp.gemm(x, packed, bits=bits, out=out)
            for _ in range(3):
                fresh = calls.operands(shape, bits)[0]
                x.copy_(torch.from_numpy(fresh))
                out.fill_(-1)
                graph.replay()
                stage.expect(out.cpu().numpy(), expected(fresh, b), f"graph {shape} {bits}")
            yield


def plan(device: Device, rng: np.random.Generator) -> list[tuple[str, float, Callable[[Stage], Iterator[None]]]]:
    """(name, share of the time, stage); one that says why, where torch sees no device."""
    try:
        torch: Any = importlib.import_module("torch")
        reason = None if torch.cuda.is_available() else f"torch {torch.__version__} sees no device beside {device.name}"
    except ImportError:
        reason = "torch is not installed"
    if reason is not None:

        def skip(stage: Stage) -> Iterator[None]:
            stage.skipped = reason
            return iter(())

        return [("torch", 0.0, skip)]
    stages = {"public": public, "streams": streams, "graphs": graphs}
    return [(name, 0.05, lambda stage, make=make: make(stage, rng)) for name, make in stages.items()]  # type: ignore[misc]
