"""The headers of csrc/gemm that the choice of kernels follows, written from the stored costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import ROOT
from bench.runs import costs_vnni

_NAMES = (("measured", "costs_x86.h"), ("fitted", "costs_x86_vnni.h"), ("modelled", "costs_arm64.h"))
HEADERS = {basis: ROOT / "csrc" / "gemm" / name for basis, name in _NAMES}


def header(costs: dict[str, Any]) -> str:
    """A header of csrc/gemm: the stored figures as a C++ table. Modelled costs have a column for each core, measured ones have one."""
    if costs.get("basis") == "fitted":
        return _fitted(costs)
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
        f"// Femtoseconds per multiply-accumulate on one thread, by kernel, bit pair and rows of A; {note}",
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


def _fitted(stored: dict[str, Any]) -> str:
    lines = [
        "// Written by `python -m bench costs --vnni` from bench/results/kernel_costs_<core>.json. Do not edit.",
        "//",
        "// Femtoseconds on one thread, fitted (bench/runs/costs_vnni.py):",
        "// of each element of B: fixed + fixed_bit (b_bits - 1), of each tile of rows: tile + tile_bit (b_bits - 1) +",
        "// parts kJoined[b_bits], at 8 bits + halves, and of each multiply-accumulate: mac + mac_bit (b_bits - 1) + spill / spill_every +",
        "// plane a_bits b_bits; of each element of A: pack; of a call: call. Beside each kernel: the fit's median and largest error.",
        "#pragma once",
        "",
        "namespace ulp {",
        "",
        "struct CostFit {",
        "  const char* core;  // CpuCore::model",
        "  const char* kernel;",
        f"  double {', '.join(costs_vnni.FIELDS)};",
        "};",
        "",
        f"inline constexpr double kJoined[] = {{{', '.join(map(str, costs_vnni.JOINED))}}};",
        "",
        "// clang-format off",
        "inline constexpr CostFit kCostFits[] = {",
    ]
    for core, of_core in stored["cores"].items():
        lines.append(f"    // {of_core['environment']['machine']['cpu']}, {of_core['environment']['date'][:10]}")
        for name, of_kernel in costs_vnni.fit(of_core).items():
            figures = ", ".join(map(str, of_kernel.coefficients))
            lines.append(f'    {{"{core}", "{name}", {figures}}},  // {of_kernel.median:.0%}, {of_kernel.largest:.0%}')
    return "\n".join([*lines, "};", "// clang-format on", "", "}  // namespace ulp", ""])


def _basis(costs: dict[str, Any]) -> str:
    return str(costs.get("basis", "measured"))


def write(costs: dict[str, Any]) -> Path:
    """Write the header of these costs; returns its path."""
    path = HEADERS[_basis(costs)]
    path.write_text(header(costs), encoding="utf-8")
    return path


def is_current(costs: dict[str, Any]) -> bool:
    """Whether the header says what these costs say."""
    return HEADERS[_basis(costs)].read_text(encoding="utf-8") == header(costs)
