"""What kernels cost on CPUs with AVX-VNNI or AVX-512: a few coefficients per kernel, fitted to measurements on one of them.

A product of M rows takes, for every element of B,

    fixed + fixed_bit * b_bits                  expanding the panel, once
  + (tile + tile_bit * b_bits) * ceil(M / mr)   per tile of rows
  + M * (mac + spill / spill_every + plane * a_bits * b_bits)

femtoseconds. `measure` times a sample of pairs and heights, kept in results/kernel_costs_vnni.json; `fit` finds the coefficients, none of
them negative, with the least squares of relative errors. `bench.reports.cost_headers` writes csrc/gemm/costs_x86_vnni.h from them.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects import installed

from . import costs, machine
from .results import DIRECTORY

RESULT = DIRECTORY / "kernel_costs_vnni.json"
PAIRS = ((1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 1), (8, 2), (8, 4), (8, 6), (8, 8))
FIELDS = ("fixed", "fixed_bit", "tile", "tile_bit", "mac", "spill", "plane")

Cell = tuple[int, int, int, int]  # a_bits, b_bits, rows, spill_every


def measure(seconds: float = 0.06, passes: int = 3) -> dict[str, Any]:
    """The least time of each cell over several passes: a machine that is shared can only make it longer.

    Kernels that do not run here keep their stored figures.
    """
    from tqdm import tqdm

    ulp = installed.load()
    ulp.set_num_threads(1)
    cells = [(k, pair, rows) for k in ulp.kernels() if k.available for pair in PAIRS if pair in k.pairs for rows in costs.ROWS]
    shortest = [float("inf")] * len(cells)
    for _ in range(passes):
        for i, (kernel, pair, rows) in enumerate(tqdm(cells, desc="costs", unit="cell")):
            length = costs.side(rows)
            a, w = costs.cell_operands(ulp, rows, length, *pair)
            out = np.empty((rows, length), np.int32)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                begin = time.thread_time_ns()
                ulp.gemm(a, w, bits=pair, kernel=kernel.name, out=out)
                shortest[i] = min(shortest[i], 1e6 * (time.thread_time_ns() - begin) / (rows * length * length))
    kernels: dict[str, dict[str, list[int]]] = {}
    for (kernel, (a_bits, b_bits), _), fs in zip(cells, shortest, strict=True):
        kernels.setdefault(kernel.name, {}).setdefault(f"W{b_bits}A{a_bits}", []).append(round(fs))
    for name, figures in load()["kernels"].items() if RESULT.exists() else ():
        kernels.setdefault(name, figures)
    return {"environment": machine.describe(["costs", "--vnni"]), "basis": "fitted", "rows": list(costs.ROWS), "kernels": kernels}


@dataclass(frozen=True)
class Fit:
    """The coefficients of a kernel, in the order of FIELDS, and the relative errors of what they say: median and largest."""

    coefficients: tuple[int, ...]
    median: float
    largest: float


def _terms(a_bits: int, b_bits: int, rows: int, spill_every: int, mr: int) -> list[float]:
    tiles = -(-rows // mr)
    spills = rows / spill_every if 0 < spill_every < 1 << 20 else 0  # else sums are never too narrow
    return [1, b_bits, tiles, tiles * b_bits, rows, spills, rows * a_bits * b_bits]


def _nonnegative(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Least squares without negative coefficients: of all sets of terms the best whose solution has none."""
    best, min_error = np.zeros(x.shape[1]), float("inf")
    for size in range(1, x.shape[1] + 1):
        for chosen in itertools.combinations(range(x.shape[1]), size):
            part, *_ = np.linalg.lstsq(x[:, chosen], y, rcond=None)
            error = float(np.sum((x[:, chosen] @ part - y) ** 2))
            if (part >= 0).all() and error < min_error:
                best, min_error = np.zeros(x.shape[1]), error
                best[list(chosen)] = part
    return best


def fit(stored: dict[str, Any]) -> dict[str, Fit]:
    """By kernel."""
    from ulp import _core

    table = {row["name"]: row for row in _core.kernels()}
    fits = {}
    for name, pairs in stored["kernels"].items():
        row = table[name]
        terms, times = [], []
        for pair, figures in pairs.items():
            b_bits, a_bits = int(pair[1]), int(pair[3])
            for rows, fs in zip(stored["rows"], figures, strict=True):
                terms.append(_terms(a_bits, b_bits, rows, row["spill_every"][a_bits, b_bits], row["mr"]))
                times.append(fs * rows)
        x, y = np.array(terms), np.array(times, dtype=np.float64)
        relative = x / y[:, None]
        scale = np.abs(relative).max(axis=0)
        scale[scale == 0] = 1
        coefficients = np.rint(_nonnegative(relative / scale, np.ones(len(y))) / scale)
        error = np.abs(x @ coefficients / y - 1)
        fits[name] = Fit(tuple(int(c) for c in coefficients), float(np.median(error)), float(error.max()))
    return fits


def load(path: Path = RESULT) -> dict[str, Any]:
    """The stored figures."""
    stored: dict[str, Any] = json.loads(path.read_text())
    return stored


def save(stored: dict[str, Any]) -> Path:
    """Write the file; returns its path."""
    return costs.save(stored, RESULT)
