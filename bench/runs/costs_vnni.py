"""What kernels cost on CPUs with AVX-VNNI or AVX-512: a few coefficients per kernel and core, fitted to measurements.

A product of M rows takes, for every element of B,

    fixed + fixed_bit * (b_bits - 1)                          expanding the panel, once
  + (tile + tile_bit * (b_bits - 1) + join) * ceil(M / mr)    per tile of rows
  + M * (mac + mac_bit * (b_bits - 1) + spill / spill_every + plane * a_bits * b_bits)

femtoseconds, where join is `parts` times JOINED[b_bits], the operations that put a code together, and at 8 bits `halves`, as kernels may
take such codes in two; for every element of A `pack`; and `call` once.

`measure` times a sample of pairs and shapes, kept in results/kernel_costs_<core>.json; `fit` finds the coefficients, none of them negative,
with the least squares of relative errors, each weighted by how near the kernel is to the best one: where it is hopeless, its time does not
matter. `bench.reports.cost_headers` writes csrc/gemm/costs_x86_vnni.h from them.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects import installed, operands

from . import costs, machine
from .results import DIRECTORY

FILES = "kernel_costs_*.json"  # one per core, as csrc/gemm/x86_features.h names it
PAIRS = ((1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 1), (8, 2), (8, 4), (8, 6), (8, 8))
CALLS_MACS = 1 << 22  # of a sample of several short calls
FIELDS = ("fixed", "fixed_bit", "tile", "tile_bit", "parts", "halves", "mac", "mac_bit", "spill", "plane", "pack", "call")
# By b_bits: operations per vector of codes beyond those of one field (csrc/gemm/bitpacked.h), three for each further one.
JOINED = (0.0, 0.0, 0.0, 0.75, 0.0, 3.0, 3.0, 6.0, 0.0)
ISAS = ("baseline", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512vbmi")
# M, N, K: heights of A against many weights, and small products, where packing A and the call itself count.
SMALL = ((1, 64, 64), (8, 64, 64), (64, 64, 64), (1, 256, 256), (8, 256, 256), (64, 64, 512))
SHAPES = tuple((rows, costs.side(rows), costs.side(rows)) for rows in costs.ROWS) + SMALL


def measure(seconds: float = 0.02, passes: int = 3) -> dict[str, Any]:
    """The least time of each cell over several passes: a machine that is shared can only make it longer.

    Kernels that do not run here keep their stored figures.
    """
    from tqdm import tqdm

    from ulp import _core

    core = _core.cost_core()
    if not core:
        raise SystemExit("this core has no name in csrc/gemm/x86_features.h, so its costs could not be told from those of others")
    ulp = installed.load()
    ulp.set_num_threads(1)
    # What trim takes depends on the weights: csrc/gemm/costs.cpp models it.
    kernels_here = [k for k in ulp.kernels() if k.available and k.technique != "trim"]
    cells = [(k, pair, shape) for k in kernels_here for pair in PAIRS if pair in k.pairs for shape in SHAPES]
    shortest = [float("inf")] * len(cells)
    for _ in range(passes):
        for i, (kernel, pair, shape) in enumerate(tqdm(cells, desc="costs", unit="cell")):
            shortest[i] = min(shortest[i], _shortest(ulp, kernel.name, pair, shape, seconds))
    kernels: dict[str, dict[str, list[int]]] = {}
    for (kernel, (a_bits, b_bits), _), fs in zip(cells, shortest, strict=True):
        kernels.setdefault(kernel.name, {}).setdefault(f"W{b_bits}A{a_bits}", []).append(round(fs))
    before = load()["cores"].get(core, {"kernels": {}, "spill_every": {}})
    spill_every = before["spill_every"] | _spill_lengths(kernels)
    for name, figures in before["kernels"].items():
        kernels.setdefault(name, figures)
    environment = machine.describe(["costs", "--vnni"])
    described = {"environment": environment, "basis": "fitted", "core": core, "shapes": [*map(list, SHAPES)]}
    return described | {"spill_every": spill_every, "kernels": kernels}


def _spill_lengths(kernels: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Steps between two spills, of the kernels and pairs that spill: kept with the figures, as only CPUs with the instructions can tell."""
    from ulp import _core

    lengths = {row["name"]: {f"W{b}A{a}": n for (a, b), n in row["spill_every"].items()} for row in _core.kernels()}
    of_measured = {name: {pair: lengths[name][pair] for pair in pairs} for name, pairs in kernels.items()}
    spilling = {name: {pair: n for pair, n in of_pairs.items() if 0 < n < 1 << 20} for name, of_pairs in of_measured.items()}
    return {name: of_pairs for name, of_pairs in spilling.items() if of_pairs}


def _shortest(ulp: Any, kernel: str, pair: tuple[int, int], shape: tuple[int, int, int], seconds: float) -> float:
    """Femtoseconds per multiply-accumulate: the least of the samples that fit into so many seconds, each of several short calls."""
    m, n, k = shape
    a, w = _operands(ulp, m, n, k, *pair)
    out = np.empty((m, n), np.int32)
    calls = max(1, CALLS_MACS // (m * n * k))
    least = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.thread_time_ns()
        for _ in range(calls):
            ulp.gemm(a, w, bits=pair, kernel=kernel, out=out)
        least = min(least, (time.thread_time_ns() - begin) / calls)
    return 1e6 * least / (m * n * k)


@functools.cache
def _operands(ulp: Any, m: int, n: int, k: int, a_bits: int, b_bits: int) -> tuple[Any, Any]:
    return operands.activations(m, k, a_bits), ulp.pack(operands.weights(k, n, b_bits), bits=b_bits)


@dataclass(frozen=True)
class Fit:
    """The coefficients of a kernel, in the order of FIELDS, and the relative errors of what they say: median and largest."""

    coefficients: tuple[int, ...]
    median: float
    largest: float


def _terms(a_bits: int, b_bits: int, shape: Sequence[int], spill_every: int | None, mr: int) -> list[float]:
    rows, n, k = shape
    tiles = -(-rows // mr)
    spills = rows / spill_every if spill_every else 0  # None: sums are never too narrow
    more = b_bits - 1
    join = [tiles * JOINED[b_bits], tiles * (b_bits == 8)]
    return [1, more, tiles, tiles * more, *join, rows, rows * more, spills, rows * a_bits * b_bits, rows / n, 1 / (n * k)]


def _nonnegative(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Least squares without negative coefficients (Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23)."""
    found = np.zeros(x.shape[1])
    chosen = np.zeros(x.shape[1], bool)
    while not chosen.all():
        gradient = np.where(chosen, -np.inf, x.T @ (y - x @ found))
        if gradient.max() <= 1e-9:
            break
        chosen[gradient.argmax()] = True
        while True:
            free = np.zeros_like(found)
            free[chosen], *_ = np.linalg.lstsq(x[:, chosen], y, rcond=None)
            low = chosen & (free <= 0)
            if not low.any():
                break
            found += (free - found) * np.min(found[low] / (found[low] - free[low]))
            chosen &= found > 1e-12
        found = free
    return found


def _best(stored: dict[str, Any], levels: dict[str, int], level: int, pair: str, i: int) -> float:
    """The least time of a cell, of kernels up to a level."""
    kernels = stored["kernels"].items()
    return float(min(pairs[pair][i] for name, pairs in kernels if levels[name] <= level and i < len(pairs.get(pair, ()))))


def fit(stored: dict[str, Any]) -> dict[str, Fit]:
    """By kernel. One that was measured at fewer shapes, before there were more, has the first of them."""
    from ulp import _core

    table = {row["name"]: row for row in _core.kernels()}
    levels = {name: ISAS.index(table[name]["isa"]) for name in stored["kernels"]}
    fits = {}
    for name, pairs in stored["kernels"].items():
        row = table[name]
        terms, times, weights = [], [], []
        for pair, figures in pairs.items():
            b_bits, a_bits = int(pair[1]), int(pair[3])
            for i, (shape, fs) in enumerate(zip(stored["shapes"], figures, strict=False)):
                terms.append(_terms(a_bits, b_bits, shape, stored["spill_every"].get(name, {}).get(pair), row["mr"]))
                times.append(fs * shape[0])
                weights.append(_best(stored, levels, levels[name], pair, i) / fs)
        x, y, weight = np.array(terms), np.array(times, dtype=np.float64), np.array(weights)
        relative = x / y[:, None] * weight[:, None]
        scale = np.abs(relative).max(axis=0)
        scale[scale == 0] = 1
        coefficients = np.rint(_nonnegative(relative / scale, weight) / scale)
        error = np.abs(x @ coefficients / y - 1)
        fits[name] = Fit(tuple(int(c) for c in coefficients), float(np.median(error)), float(error.max()))
    return fits


def load() -> dict[str, Any]:
    """The stored figures of all cores."""
    stored = [json.loads(path.read_text()) for path in sorted(DIRECTORY.glob(FILES))]
    return {"basis": "fitted", "cores": {of_core["core"]: of_core for of_core in stored}}


def save(stored: dict[str, Any]) -> Path:
    """Write the file of one core; returns its path."""
    return costs.save(stored, DIRECTORY / FILES.replace("*", stored["core"]))
