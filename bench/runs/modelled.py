"""ARM without an ARM: the figures of `tools.arm`, stored as result files.

`python -m bench model` writes results/modelled.json, a table at one size, and results/modelled_costs.json; from the latter
`bench.reports.cost_headers` writes csrc/gemm/costs_arm64.h, which the choice of kernels follows on ARM.

`python -m bench instructions` counts what each kernel executes, into results/instructions.json; with --check it compares instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.peers import native
from tools.arm import emulation, model

from . import machine
from .results import DIRECTORY

SCHEMA = 1
PRODUCTS = DIRECTORY / "modelled.json"
COSTS = DIRECTORY / "modelled_costs.json"
INSTRUCTIONS = DIRECTORY / "instructions.json"


def _environment() -> dict[str, Any]:
    """Where the figures were calculated. The machine is left out: they do not depend on it."""
    described = machine.describe(["model"])
    kept = {key: described[key] for key in ("date", "command", "commit", "dirty", "os")}
    return {**kept, "compiler": emulation.compiler_version()}


def build() -> None:
    """Cross-build the library and the emulated programs, gemmlowp among them."""
    emulation.build(gemmlowp=native.SOURCES / "gemmlowp_peer.cpp")


def products() -> dict[str, Any]:
    """The table at one size, for `save` at PRODUCTS."""
    return {"schema": SCHEMA, "basis": "modelled", "environment": _environment(), **model.products()}


def costs() -> dict[str, Any]:
    """The costs of every kernel, for `save` at COSTS."""
    return {"schema": SCHEMA, "basis": "modelled", "environment": _environment(), **model.costs()}


def instructions() -> dict[str, Any]:
    """The counts, for `save` at INSTRUCTIONS."""
    return {"schema": SCHEMA, **model.instructions()}


def check_instructions() -> str:
    """Empty if no kernel executes more than is stored and every kernel has its modelled costs, else the complaints.

    Counts of another compiler are not comparable: then only the costs are checked, and a line printed says so.
    """
    before = load(INSTRUCTIONS)
    complaints = []
    if before["compiler"] == emulation.compiler_version():
        complaints = model.more_instructions(instructions(), before)
    else:
        print(f"not compared: counts of {before['compiler']} are stored, here is {emulation.compiler_version()}")
    if complaints:
        complaints.append("python -m bench instructions stores the new counts")
    costs_of = {name: set(pairs) for name, pairs in load(COSTS)["kernels"].items()}
    table = {row.name: {f"W{b}A{a}" for a, b in row.pairs} for row in emulation.kernels()}
    if costs_of != table:
        different = sorted(name for name in costs_of.keys() | table.keys() if costs_of.get(name) != table.get(name))
        complaints.append(f"{COSTS.name} lacks or has too much of {', '.join(different)}: python -m bench model")
    return "\n".join(complaints)


def load(path: Path) -> dict[str, Any]:
    """A file of this module; ValueError where it is of another schema."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.get("schema") != SCHEMA:
        raise ValueError(f"{path.name}: schema {content.get('schema')!r}, expected {SCHEMA}")
    return content


def save(content: dict[str, Any], path: Path) -> Path:
    """Write the file with one line per kernel and pair; returns its path."""
    nested = {key for key in ("kernels", "products") if key in content}
    plain = json.dumps({key: value for key, value in content.items() if key not in nested}, indent=1)
    parts = [f' "{key}": {{\n{_entries(content[key])}\n }}' for key in sorted(nested)]
    path.write_text(",\n".join([plain[:-2], *parts]) + "\n}\n", encoding="utf-8")
    return path


def _entries(outer: dict[str, dict[str, Any]]) -> str:
    def lines(inner: dict[str, Any]) -> Iterable[str]:
        return (f'   "{key}": {json.dumps(value)}' for key, value in inner.items())

    return ",\n".join(f'  "{key}": {{\n' + ",\n".join(lines(inner)) + "\n  }" for key, inner in outer.items())
