"""What every kernel costs at every bit pair and several heights of A.

Measured here and kept in results/kernel_costs.json; `bench.reports.cost_headers` writes csrc/gemm/costs_x86.h from it, which the choice of
kernels follows:

    {"schema": 1, "environment": {...}, "rows": [1, 2, ...], "kernels": {"mul8_avx2_3x32": {"W3A3": [fs per MAC, one per rows], ...}}}
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.subjects import installed, operands

from . import machine, timing
from .results import DIRECTORY

SCHEMA = 1
RESULT = DIRECTORY / "kernel_costs.json"

# Rows of A at which the cost is measured; in between, and per row beyond, the driver interpolates.
ROWS = (1, 2, 4, 8, 16, 64, 512)


def side(rows: int) -> int:
    """N = K of the measurement: large enough that the call's fixed costs stay small."""
    return 1024 if rows <= 8 else 512


def _sample(run: Any, repeats: int) -> float:
    begin = time.thread_time_ns()
    for _ in range(repeats):
        run()
    return (time.thread_time_ns() - begin) / repeats


def _cells(ulp: Any) -> Iterator[tuple[str, tuple[int, int], int]]:
    for kernel in ulp.kernels():
        if kernel.available and kernel.technique != "trim":  # what trim takes depends on the weights: csrc/gemm/costs.cpp models it
            for pair in sorted(kernel.pairs):
                for rows in ROWS:
                    yield kernel.name, pair, rows


def measure(rounds: int = 9) -> dict[str, Any]:
    """Time every cell in `rounds` passes over the whole table, so that a slow minute of the machine hits all alike; keep the least."""
    from tqdm import tqdm

    ulp = installed.load()
    ulp.set_num_threads(1)
    cells = list(_cells(ulp))
    runs: list[tuple[Any, int, int]] = []
    for name, (a_bits, b_bits), rows in cells:
        length = side(rows)
        a, w = cell_operands(ulp, rows, length, a_bits, b_bits)
        out = np.empty((rows, length), np.int32)

        def run(a: Any = a, w: Any = w, out: Any = out, name: str = name, bits: tuple[int, int] = (a_bits, b_bits)) -> None:
            ulp.gemm(a, w, bits=bits, kernel=name, out=out)

        run()
        once = max(_sample(run, 1), 1.0)
        runs.append((run, max(1, round(150_000 / once)), rows * length * length))
    samples: list[list[float]] = [[] for _ in cells]
    with timing.pinned(None):
        for _ in tqdm(range(rounds), desc="costs", unit="round"):
            for i, (run, repeats, macs) in enumerate(runs):
                run()
                samples[i].append(1e6 * _sample(run, repeats) / macs)
    kernels: dict[str, dict[str, list[int]]] = {}
    for (name, (a_bits, b_bits), _), fs in zip(cells, samples, strict=True):
        kernels.setdefault(name, {}).setdefault(f"W{b_bits}A{a_bits}", []).append(round(min(fs)))
    return {"schema": SCHEMA, "environment": machine.describe(["costs"]), "rows": list(ROWS), "kernels": kernels}


_KEPT: dict[tuple[int, int, int, int], tuple[Any, Any]] = {}


def cell_operands(ulp: Any, rows: int, length: int, a_bits: int, b_bits: int) -> tuple[Any, Any]:
    """A (rows, length) and packed B (length, length), made once."""
    key = (rows, length, a_bits, b_bits)
    if key not in _KEPT:
        _KEPT[key] = (operands.activations(rows, length, a_bits), ulp.pack(operands.weights(length, length, b_bits), bits=b_bits))
    return _KEPT[key]


def load(path: Path = RESULT) -> dict[str, Any]:
    """The stored figures."""
    costs: dict[str, Any] = json.loads(path.read_text())
    return costs


def save(costs: dict[str, Any], path: Path = RESULT) -> Path:
    """Write the file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({k: v for k, v in costs.items() if k != "kernels"}, indent=1)
    kernels = ",\n".join(
        f'  "{name}": {{\n' + ",\n".join(f'   "{pair}": {json.dumps(fs)}' for pair, fs in pairs.items()) + "\n  }"
        for name, pairs in costs["kernels"].items()
    )
    path.write_text(f'{text[:-2]},\n "kernels": {{\n{kernels}\n }}\n}}\n')
    return path
