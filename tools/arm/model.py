"""Modelled cycles of every ARM kernel and of its peers, and exact counts of instructions: figures only, `bench` keeps and reports them.

Products run under qemu (`emulation`) and are priced by a model of each core (`cycles`). Nothing here was measured on an ARM core.
"""

from __future__ import annotations

from typing import Any

from . import emulation
from .cycles import CORES, Core, Cycles
from .emulation import Product, Row

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


def products() -> dict[str, Any]:
    """Cycles per multiply-accumulate at SHAPE, by core, kernel or peer, and bit pair."""
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
    peers = sorted({name for names in PEERS.values() for name in names})
    return {"unit": "cycles per multiply-accumulate", "shape": SHAPE, "cores": cores, "peers": peers, "products": cells}


def costs() -> dict[str, Any]:
    """Femtoseconds per multiply-accumulate of every kernel at every pair and ROWS, by core; 0 where the core cannot run it."""
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
    return {"side": SIDE, "cpus": list(CORES), "rows": ROWS, "kernels": kernels}


def instructions() -> dict[str, Any]:
    """Instructions per call with each kernel, at those of PAIRS that it supports."""
    cells = [Product(row.name, *pair, *COUNTED_SHAPE) for row in emulation.kernels() for pair in PAIRS if pair in row.pairs]
    kernels: dict[str, dict[str, int]] = {}
    for product, run in zip(cells, emulation.execute(cells), strict=True):
        kernels.setdefault(product.name, {})[product.pair] = run.instructions
    return {"compiler": emulation.compiler_version(), "shape": COUNTED_SHAPE, "kernels": kernels}


def more_instructions(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Complaints about the new counts: a kernel or pair that is not stored, or no longer exists, or executes over 2 % more."""
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
