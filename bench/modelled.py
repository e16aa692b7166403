"""ARM without an ARM: modelled cycles of every kernel and of its peers, and exact counts of instructions.

`python -m bench model` executes products under qemu (`bench.emulation`), prices them by a model of each core (`bench.emulation.cycles`)
and writes results/modelled.json, a table at one size, and results/modelled_costs.json; from the latter csrc/gemm/costs_arm64.h, which the
choice of kernels follows on ARM. Nothing in them was measured on an ARM core.

`python -m bench instructions` counts what each kernel executes, into results/instructions.json; with --check it compares instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import emulation, machine
from .costs import HEADERS, header
from .emulation import Product, Row
from .emulation.cycles import CORES, Core, Cycles
from .results import DIRECTORY

SCHEMA = 1
PRODUCTS = DIRECTORY / "modelled.json"
COSTS = DIRECTORY / "modelled_costs.json"
INSTRUCTIONS = DIRECTORY / "instructions.json"

# What issue trackers and papers compare: a square product that fits every core's caches.
SHAPE = (256, 256, 256)
PAIRS = ((1, 1), (2, 2), (3, 3), (4, 4), (8, 8))

# Heights of A in the ranking, and its N = K.
ROWS = (1, 4, 16, 64)
SIDE = 256

COUNTED_SHAPE = (13, 104, 200)
TOLERANCE = 1.02

# Peers, with the widest operands that they are used with: unsigned activations of 7 bits are within int8, too.
PEERS = {"neon": ("gemmlowp", "smlal"), "dotprod": ("gemmlowp", "smlal", "sdot")}


def _runs_on(row: Row, core: Core) -> bool:
    return row.isa in ("baseline", *core.isas)


def _variant(core: Core) -> str:
    return "dotprod" if "dotprod" in core.isas else "neon"


def _environment(command: str) -> dict[str, Any]:
    """Where the figures were worked out; the machine is not what they are about."""
    described = machine.describe([command])
    kept = {key: described[key] for key in ("date", "command", "commit", "dirty", "os")}
    return {**kept, "compiler": emulation.compiler_version()}


def products() -> dict[str, Any]:
    """Cycles a multiply-accumulate at SHAPE, by core, kernel or peer, and bit pair."""
    table = emulation.kernels()
    ours = [Product(row.name, *pair, *SHAPE) for row in table for pair in PAIRS if pair in row.pairs]
    theirs = {variant: [Product(name, 7, 8, *SHAPE) for name in names] for variant, names in PEERS.items()}
    our_runs = emulation.execute(ours)
    their_runs = {variant: emulation.execute(list(peers), variant) for variant, peers in theirs.items()}
    isa_of = {row.name: row for row in table}
    cells: dict[str, dict[str, dict[str, float]]] = {}
    for core in CORES.values():
        variant = _variant(core)
        runs = [(p, r) for p, r in zip(ours, our_runs, strict=True) if _runs_on(isa_of[p.name], core)]
        runs += zip(theirs[variant], their_runs[variant], strict=True)
        cycles = Cycles(core).of([run for _, run in runs])
        of_core = cells.setdefault(core.name, {})
        for (product, _), total in zip(runs, cycles, strict=True):
            of_core.setdefault(product.name, {})[product.pair] = float(f"{total / product.macs:.4g}")
    cores = {core.name: {"model": core.note, "ghz": core.ghz, "isas": core.isas} for core in CORES.values()}
    return {
        "schema": SCHEMA, "basis": "modelled", "unit": "cycles per multiply-accumulate", "environment": _environment("model"),
        "shape": SHAPE, "cores": cores, "peers": sorted({name for names in PEERS.values() for name in names}), "products": cells,
    }  # fmt: skip


def costs() -> dict[str, Any]:
    """Femtoseconds a multiply-accumulate of every kernel at every pair and ROWS, by core; 0 where the core cannot run it."""
    table = emulation.kernels()
    cells = [(row, Product(row.name, *pair, m, SIDE, SIDE)) for row in table for pair in row.pairs for m in ROWS]
    runs = emulation.execute([product for _, product in cells])
    kernels: dict[str, dict[str, list[list[int]]]] = {}
    for core in CORES.values():
        can = [i for i, (row, _) in enumerate(cells) if _runs_on(row, core)]
        cycles = dict(zip(can, Cycles(core).of([runs[i] for i in can]), strict=True))
        for i, (row, product) in enumerate(cells):
            per_core = kernels.setdefault(row.name, {}).setdefault(product.pair, [])
            if product.m == ROWS[0]:
                per_core.append([])
            per_core[-1].append(round(1e6 * cycles[i] / product.macs / core.ghz) if i in cycles else 0)
    return {
        "schema": SCHEMA, "basis": "modelled", "environment": _environment("model"), "side": SIDE, "cpus": list(CORES), "rows": ROWS,
        "kernels": kernels,
    }  # fmt: skip


def instructions() -> dict[str, Any]:
    """Instructions of a call with each kernel, at those of PAIRS that it supports."""
    cells = [Product(row.name, *pair, *COUNTED_SHAPE) for row in emulation.kernels() for pair in PAIRS if pair in row.pairs]
    kernels: dict[str, dict[str, int]] = {}
    for product, run in zip(cells, emulation.execute(cells), strict=True):
        kernels.setdefault(product.name, {})[product.pair] = run.instructions
    return {"schema": SCHEMA, "compiler": emulation.compiler_version(), "shape": COUNTED_SHAPE, "kernels": kernels}


def more_instructions(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What is wrong with the counts of now: a kernel or pair that is not stored, or is no more, or takes over 2 % more."""
    complaints = []
    flat = [{(name, pair): n for name, pairs in counts["kernels"].items() for pair, n in pairs.items()} for counts in (now, before)]
    for cell in sorted(flat[0].keys() | flat[1].keys()):
        new, old = flat[0].get(cell), flat[1].get(cell)
        where = " ".join(cell)
        if new is None or old is None:
            complaints.append(f"{where}: {'counted, but not stored' if old is None else 'stored, but not in the table'}")
        elif new > TOLERANCE * old:
            complaints.append(f"{where}: {new} instructions, stored are {old} (+{new / old - 1:.1%})")
    return complaints


def check_instructions() -> str:
    """Nothing if the counts are those stored and every kernel has its modelled costs; else why not.

    Counts of another compiler than the stored ones' are not compared, which is printed.
    """
    before = load(INSTRUCTIONS)
    complaints = []
    if before["compiler"] == emulation.compiler_version():
        complaints = more_instructions(instructions(), before)
    else:
        print(f"not compared: counts of {before['compiler']} are stored, here is {emulation.compiler_version()}")
    if complaints:
        complaints.append("python -m bench instructions stores the counts of now")
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
    """Written so that a kernel's pair, or a kernel's row of a table, is a line."""
    nested = {key for key in ("kernels", "products") if key in content}
    plain = json.dumps({key: value for key, value in content.items() if key not in nested}, indent=1)
    parts = [f' "{key}": {{\n{_entries(content[key])}\n }}' for key in sorted(nested)]
    path.write_text(",\n".join([plain[:-2], *parts]) + "\n}\n", encoding="utf-8")
    return path


def _entries(outer: dict[str, dict[str, Any]]) -> str:
    def lines(inner: dict[str, Any]) -> Iterable[str]:
        return (f'   "{key}": {json.dumps(value)}' for key, value in inner.items())

    return ",\n".join(f'  "{key}": {{\n' + ",\n".join(lines(inner)) + "\n  }" for key, inner in outer.items())


def write_header(stored: dict[str, Any]) -> Path:
    """csrc/gemm/costs_arm64.h."""
    HEADERS["modelled"].write_text(header(stored), encoding="utf-8")
    return HEADERS["modelled"]


def is_current() -> bool:
    """Whether csrc/gemm/costs_arm64.h says what the stored figures say."""
    return HEADERS["modelled"].read_text(encoding="utf-8") == header(load(COSTS))


def model() -> Sequence[Path]:
    """Work out and write everything but the counts; returns the files."""
    emulation.build()
    written = [save(products(), PRODUCTS), save(costs(), COSTS)]
    return [*written, write_header(load(COSTS))]
