"""Every result as one flat record, for tables and databases of others: `python -m bench records`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import modelled
from .results import DIRECTORY, Cell, Group, Result, load_all


def _commit(environment: dict[str, Any]) -> dict[str, Any]:
    return {key: environment.get(key) for key in ("commit", "dirty", "date", "command")}


def _of_cell(result: Result, group: Group, cell: Cell) -> dict[str, Any]:
    peer, check, info = result.peers.get(cell.name, {}), cell.info.get("check"), cell.info
    own = cell.kind in ("ulp", "ulp requantized", "technique")
    environment = result.environment
    # A ceiling or a read computes nothing that could be wrong.
    error = None if check is None else check["max_error"] * check["step"]
    full = peer.get("full_range")
    return {
        "basis": "measured",
        "what": result.what,
        "group": group.name,
        "shape": list(group.shape),
        "bits": f"W{cell.bits[1]}A{cell.bits[0]}" if cell.bits else None,
        "contestant": cell.name,
        "kind": cell.kind,
        "version": environment["ulp"].get("version") if own else peer.get("version"),
        "kernel": info.get("kernel") or info.get("kernels"),
        "output": info.get("output") or peer.get("output"),
        "exact": None if check is None else bool(check["exact"]),
        "largest_error": error,
        "largest_error_full_range": 0.0 if own and check else None if full is None else full["max_error"] * full["step"],
        "cosine_to_float32": info.get("cosine"),
        "median_ns": cell.time.median,
        "p10_ns": cell.time.p10,
        "p90_ns": cell.time.p90,
        "gmacs": cell.rate.median if cell.macs else None,
        "rounds": len(cell.ns),
        "calls_per_sample": cell.repeats,
        "threads": info.get("threads", result.settings.get("threads", 1)),
        "batch": info.get("batch", 1),
        "weights": "cold" if group.name.endswith("cold") else "warm",
        "weight_bytes": cell.nbytes or None,
        "peak_bytes": info.get("memory", {}).get("peak"),
        "cpu": environment["machine"]["cpu"],
        "isa": environment["machine"]["isa"],
        "compiler": environment["ulp"].get("compiler") if own else None,
        **_commit(environment),
    }


def of(result: Result) -> list[dict[str, Any]]:
    """One record per cell of a result file."""
    return [_of_cell(result, group, cell) for group in result.groups for cell in group.cells]


def of_modelled(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """One record per figure of modelled.json, whose medians are of a model of a core and not of a run."""
    records = []
    for core, rows in raw["products"].items():
        ghz, isas = raw["cores"][core]["ghz"], raw["cores"][core]["isas"]
        macs = raw["shape"][0] * raw["shape"][1] * raw["shape"][2]
        for name, cells in rows.items():
            records += [
                {
                    "basis": "modelled", "what": "arm", "group": core, "shape": raw["shape"], "bits": bits, "contestant": name,
                    "kind": "int8" if name in raw["peers"] else "ulp", "kernel": name, "median_ns": cycles * macs / ghz,
                    "gmacs": ghz / cycles, "cpu": raw["cores"][core]["model"], "isa": isas,
                    "compiler": raw["environment"]["compiler"], **_commit(raw["environment"]),
                }
                for bits, cycles in (cells.items() if isinstance(cells, dict) else [(None, cells)])
                if cycles
            ]  # fmt: skip
    return records


def everything(directory: Path = DIRECTORY) -> Iterator[dict[str, Any]]:
    """The records of all result files of a directory."""
    for result in load_all(directory).values():
        yield from of(result)
    path = directory / modelled.PRODUCTS.name
    if path.exists():
        yield from of_modelled(json.loads(path.read_text(encoding="utf-8")))
