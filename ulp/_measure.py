"""What every kernel costs on this machine, at every bit pair and several heights of A: `ulp.tune.machine`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core
from ._explain import kernels
from ._progress import progress_bar
from ._validate import interval
from .packed import pack

HEIGHTS = (1, 4, 16, 64, 256)
"""Rows of A; in between, and beyond the last, the choice of kernels interpolates."""

_ROUNDS = 8
_SAMPLE_NS = 200_000
# A call that takes longer is timed once per pass, and in the first pass only.
_SLOW_NS = 20_000_000
_FEW_ROWS, _FEW_SIDE, _SIDE = 4, 1024, 512


def measure(*, progress: bool) -> dict[str, list[float]]:
    """Femtoseconds per multiply-accumulate at each of HEIGHTS, by "<kernel> W<b_bits>A<a_bits>": the minimum over passes through all.

    On one thread; where the system has it, in CPU time, which what else runs on the machine does not lengthen. A kernel is left out if
    another thread lowers the instruction set (`set_isa`) below what it needs.
    """
    cells = [(kernel.name, pair) for kernel in kernels() if kernel.available for pair in sorted(kernel.pairs)]
    threads = _core.num_threads()
    operands = _Operands()
    costs: dict[str, list[float]] = {}
    passes = [cell for _ in range(_ROUNDS) for cell in cells]
    lost: set[str] = set()
    _core.set_num_threads(1)
    try:
        for name, (a_bits, b_bits) in progress_bar(passes, progress, "measure", "kernel"):
            key = f"{name} W{b_bits}A{a_bits}"
            known = costs.get(key)
            try:
                found = [
                    known[i] if known and known[i] * macs > 1e6 * _SLOW_NS else 1e6 * _sample(run) / macs
                    for i, (run, macs) in enumerate(operands.call(name, a_bits, b_bits, rows) for rows in HEIGHTS)
                ]
            except ValueError:  # it no longer runs: nothing else can be wrong with these calls
                lost.add(name)
                continue
            costs[key] = [min(pair) for pair in zip(found, known or found, strict=True)]
    finally:
        _core.set_num_threads(threads)
    return {key: figures for key, figures in costs.items() if key.split()[0] not in lost}


def _sample(run: Callable[[], object]) -> float:
    """Nanoseconds per call."""
    clock = time.thread_time_ns if hasattr(time, "CLOCK_THREAD_CPUTIME_ID") else time.perf_counter_ns
    begin = clock()
    run()  # the first call brings the operands into cache, and allocates
    once = max(clock() - begin, 1)
    if once > _SLOW_NS:
        return once
    calls = max(1, _SAMPLE_NS // once)
    begin = clock()
    for _ in range(calls):
        run()
    return max((clock() - begin) / calls, 1.0)


def weights_like_layers(rng: np.random.Generator, k: int, n: int, bits: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    """(k, n) signed values of a normal distribution, the largest of each column at the end of the interval, as those of trained layers are.

    How many are near the ends decides how long kernels take that leave out what exceeds a narrow sum (`trim`).
    """
    values = rng.standard_normal((k, n), dtype=np.float32)
    if bits == 1:
        return np.where(values < 0, -1, 1).astype(np.int8)
    _, high = interval(bits, signed=True)
    values *= high / np.abs(values).max(axis=0)
    return np.rint(values, out=values).astype(np.int8)


class _Operands:
    """Matrices of random values, each made once: codes, and weights as layers have."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.left: dict[tuple[int, int], Any] = {}
        self.right: dict[tuple[int, int], Any] = {}

    def call(self, kernel: str, a_bits: int, b_bits: int, rows: int) -> tuple[Callable[[], object], int]:
        """A product, and its multiply-accumulates. Large enough that a call's fixed costs do not count."""
        side = _FEW_SIDE if rows <= _FEW_ROWS else _SIDE
        if (rows, a_bits) not in self.left:
            self.left[rows, a_bits] = self.rng.integers(0, 2**a_bits, size=(rows, side), dtype=np.uint8)
        if (side, b_bits) not in self.right:
            self.right[side, b_bits] = pack(weights_like_layers(self.rng, side, side, b_bits), bits=b_bits)._packed
        a, b, out = self.left[rows, a_bits], self.right[side, b_bits], np.empty((rows, side), np.int32)
        return lambda: _core.gemm(a, b, a_bits, 0, 0, kernel, out), rows * side * side
