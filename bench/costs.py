"""What every kernel costs at every bit pair and several heights of A.

Measured here, kept in results/kernel_costs.json, and written from there into csrc/gemm/costs_x86.h, which the choice of kernels follows:

    {"schema": 1, "environment": {...}, "rows": [1, 2, ...], "kernels": {"mul8_avx2_3x32": {"W3A3": [fs per MAC, one per rows], ...}}}
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import data, machine, subject, timing
from .results import DIRECTORY

SCHEMA = 1
RESULT = DIRECTORY / "kernel_costs.json"
HEADERS = {basis: subject.ROOT / "csrc" / "gemm" / name for basis, name in (("measured", "costs_x86.h"), ("modelled", "costs_arm64.h"))}

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
        if kernel.available:
            for pair in sorted(kernel.pairs):
                for rows in ROWS:
                    yield kernel.name, pair, rows


def measure(rounds: int = 9) -> dict[str, Any]:
    """Time every cell in `rounds` passes over the whole table, so that a slow minute of the machine hits all alike; keep the medians."""
    from tqdm import tqdm

    ulp = subject.load()
    ulp.set_num_threads(1)
    cells = list(_cells(ulp))
    runs: list[tuple[Any, int, int]] = []
    for name, (a_bits, b_bits), rows in cells:
        length = side(rows)
        a, w = operands(ulp, rows, length, a_bits, b_bits)
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
        kernels.setdefault(name, {}).setdefault(f"W{b_bits}A{a_bits}", []).append(round(float(np.median(fs))))
    return {"schema": SCHEMA, "environment": machine.describe(["costs"]), "rows": list(ROWS), "kernels": kernels}


_KEPT: dict[tuple[int, int, int, int], tuple[Any, Any]] = {}


def operands(ulp: Any, rows: int, length: int, a_bits: int, b_bits: int) -> tuple[Any, Any]:
    """A (rows, length) and packed B (length, length), made once."""
    key = (rows, length, a_bits, b_bits)
    if key not in _KEPT:
        _KEPT[key] = (data.activations(rows, length, a_bits), ulp.pack(data.weights(length, length, b_bits), bits=b_bits))
    return _KEPT[key]


def header(costs: dict[str, Any]) -> str:
    """A header of csrc/gemm: the stored figures as a C++ table. Modelled costs have a column for each core, measured ones have one."""
    modelled = costs.get("basis") == "modelled"
    rows, cpus = costs["rows"], costs.get("cpus", [""])
    if modelled:
        command, source = "model", "modelled_costs.json"
        note = f"N = K = {costs['side']}.\n// Modelled: executed instructions times a model of the core, at a usual clock; not measured."
    else:
        command, source = "costs", "kernel_costs.json"
        note = f"N = K = 1024 up to 8 rows, 512 above.\n// {costs['environment']['machine']['cpu']}, {costs['environment']['date'][:10]}."
    lines = [
        f"// Written by `python -m bench {command}` from bench/results/{source}. Do not edit.",
        "//",
        f"// Femtoseconds a multiply-accumulate on one thread, by kernel, bit pair and rows of A; {note}",
        "#pragma once",
        "",
        "#include <cstdint>",
        "",
        '#include "costs.h"',
        "",
        "namespace ulp {",
        "",
        f"inline constexpr Basis kCostBasis = Basis::{'modelled' if modelled else 'measured'};",
        "inline constexpr const char* kCostCpus[] = {" + ", ".join(f'"{cpu}"' for cpu in cpus) + "};",
        f"inline constexpr int kCostRows[] = {{{', '.join(map(str, rows))}}};",
        "",
        "struct CostRow {",
        "  const char* kernel;",
        "  int a_bits;",
        "  int b_bits;",
        f"  uint32_t fs_per_mac[{len(cpus)}][{len(rows)}];  // 0: this core cannot run it",
        "};",
        "",
        "// clang-format off",
        "inline constexpr CostRow kCosts[] = {",
    ]
    for name, pairs in costs["kernels"].items():
        for pair, figures in pairs.items():
            columns = ", ".join(f"{{{', '.join(map(str, fs))}}}" for fs in (figures if modelled else [figures]))
            lines.append(f'    {{"{name}", {pair[3]}, {pair[1]}, {{{columns}}}}},')
    return "\n".join([*lines, "};", "// clang-format on", "", "}  // namespace ulp", ""])


def load(path: Path = RESULT) -> dict[str, Any]:
    """The stored figures."""
    costs: dict[str, Any] = json.loads(path.read_text())
    return costs


def is_current() -> bool:
    """Whether csrc/gemm/costs_x86.h says what the stored figures say."""
    return HEADERS["measured"].read_text() == header(load())


def save(costs: dict[str, Any]) -> Sequence[Path]:
    """Write both files; returns their paths."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({k: v for k, v in costs.items() if k != "kernels"}, indent=1)
    kernels = ",\n".join(
        f'  "{name}": {{\n' + ",\n".join(f'   "{pair}": {json.dumps(fs)}' for pair, fs in pairs.items()) + "\n  }"
        for name, pairs in costs["kernels"].items()
    )
    RESULT.write_text(f'{text[:-2]},\n "kernels": {{\n{kernels}\n }}\n}}\n')
    HEADERS["measured"].write_text(header(costs))
    return [RESULT, HEADERS["measured"]]
