"""The result files: one JSON per benchmark, with the raw times of every round, so that every statistic can be calculated again.

    {"schema": 1, "what": "gemm", "environment": {...}, "settings": {...}, "clock_ghz": ..., "peers": {...},
     "groups": [{"name": "512x512x512", "shape": [m, n, k], "cells": [
         {"name": ..., "kind": ..., "bits": [a, w] | null, "macs": ..., "nbytes": ..., "repeats": ..., "ns": [one per round],
          "info": {...}}]}]}

Cells of one group alternated: only their rounds may be compared one by one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import ROOT

from .timing import Contestant, Samples, Summary, gmacs, speedup, summarise

SCHEMA = 1
DIRECTORY = ROOT / "bench" / "results"
WHATS = (
    "gemm", "pairs", "gemv", "small", "threads", "kernels", "conv", "networks", "batches", "layers", "ablation", "paper", "onnx",
    "quantize", "sentences", "keyword", "stages", "grouped", "cuda", "cuda_kernels", "cuda_conv", "cuda_network",
)  # fmt: skip


class SchemaError(ValueError):
    """A result file has another form than this version writes; the message names the place."""


@dataclass(frozen=True)
class Cell:
    """One contestant's raw times in a group."""

    name: str
    kind: str
    bits: tuple[int, int] | None
    macs: int
    nbytes: int
    repeats: int
    ns: list[float]
    info: dict[str, Any]

    @property
    def time(self) -> Summary:
        """Time of one call in ns."""
        return summarise(self.ns)

    @property
    def rate(self) -> Summary:
        """GMAC/s."""
        return gmacs(self.macs, self.ns)

    def over(self, other: Cell) -> Summary:
        """How many times faster than `other` of the same group."""
        return speedup(self.ns, other.ns)

    @property
    def label(self) -> str:
        """W3A3 for a cell with bits, else its name."""
        return f"W{self.bits[1]}A{self.bits[0]}" if self.bits else self.name


@dataclass(frozen=True)
class Group:
    """Cells that alternated in one measurement, all of one (m, n, k)."""

    name: str
    shape: tuple[int, int, int]
    cells: list[Cell]

    def of_kind(self, *kinds: str) -> list[Cell]:
        """The cells of these kinds, in order."""
        return [c for c in self.cells if c.kind in kinds]

    def find(self, name: str) -> Cell | None:
        """The cell of that name, or None."""
        return next((c for c in self.cells if c.name == name), None)

    def fastest(self, *kinds: str, only: Sequence[str] | None = None) -> Cell | None:
        """The cell with the smallest median among these kinds (and names, if given); None when there is none."""
        cells = [c for c in self.of_kind(*kinds) if only is None or c.name in only]
        return min(cells, key=lambda c: c.time.median, default=None)


def group(name: str, shape: tuple[int, int, int], contestants: Sequence[Contestant], samples: dict[str, Samples]) -> Group:
    """What `timing.measure` returned, as a group."""
    cells = [
        Cell(c.name, c.kind, c.bits, c.macs, c.nbytes, samples[c.name].repeats, [round(t, 2) for t in samples[c.name].ns], dict(c.info))
        for c in contestants
    ]
    return Group(name, shape, cells)


@dataclass(frozen=True)
class Result:
    """The content of one file."""

    what: str
    environment: dict[str, Any]
    settings: dict[str, Any]
    clock_ghz: float | None
    peers: dict[str, dict[str, Any]]
    groups: list[Group]

    def exact_peers(self) -> list[str]:
        """Peers measured to be exact over the full range of activations."""
        return [name for name, peer in self.peers.items() if peer.get("full_range", {}).get("exact")]

    def find(self, name: str) -> Group | None:
        """The group of that name, or None."""
        return next((g for g in self.groups if g.name == name), None)


def to_json(result: Result) -> dict[str, Any]:
    """The file's content as plain values."""
    return {"schema": SCHEMA, **asdict(result)}


def _need(mapping: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(mapping, dict) or key not in mapping:
        raise SchemaError(f"{where} lacks {key!r}")
    value = mapping[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise SchemaError(f"{where}: {key!r} is {type(value).__name__}")
    return value


def _cell(raw: Any, where: str) -> Cell:
    name = _need(raw, "name", str, where)
    where = f"{where} cell {name!r}"
    bits = _need(raw, "bits", (list, tuple, type(None)), where)
    if bits is not None and (len(bits) != 2 or not all(isinstance(b, int) and 1 <= b <= 8 for b in bits)):
        raise SchemaError(f"{where}: 'bits' is {bits}, not two widths of 1 to 8")
    ns = _need(raw, "ns", list, where)
    if not ns or not all(isinstance(t, (int, float)) and t > 0 for t in ns):
        raise SchemaError(f"{where}: 'ns' must hold positive times, one per round")
    return Cell(
        name,
        _need(raw, "kind", str, where),
        None if bits is None else (bits[0], bits[1]),
        _need(raw, "macs", int, where),
        _need(raw, "nbytes", int, where),
        _need(raw, "repeats", int, where),
        [float(t) for t in ns],
        _need(raw, "info", dict, where),
    )


def from_json(raw: Any) -> Result:
    """Parse and check; SchemaError names the first thing that is wrong."""
    schema = _need(raw, "schema", int, "file")
    if schema != SCHEMA:
        raise SchemaError(f"schema {schema}; this version reads {SCHEMA}: run the benchmark again")
    what = _need(raw, "what", str, "file")
    if what not in WHATS:
        raise SchemaError(f"'what' is {what!r}, not one of {', '.join(WHATS)}")
    environment = _need(raw, "environment", dict, "file")
    for key in ("date", "command", "machine", "os", "ulp", "packages"):
        if key not in environment:
            raise SchemaError(f"environment lacks {key!r}")
    groups = []
    for item in _need(raw, "groups", list, "file"):
        name = _need(item, "name", str, "group")
        where = f"group {name!r}"
        m, n, k = _need(item, "shape", (list, tuple), where)
        cells = [_cell(c, where) for c in _need(item, "cells", list, where)]
        if len({len(c.ns) for c in cells}) > 1:
            raise SchemaError(f"{where}: the cells have different numbers of rounds")
        groups.append(Group(name, (m, n, k), cells))
    clock = _need(raw, "clock_ghz", (int, float, type(None)), "file")
    return Result(what, environment, _need(raw, "settings", dict, "file"), clock, _need(raw, "peers", dict, "file"), groups)


def save(result: Result, directory: Path = DIRECTORY) -> Path:
    """Write <directory>/<what>.json, lists of numbers on one line each, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.what}.json"
    raw = to_json(result)
    groups = raw.pop("groups")
    head = json.dumps(raw, indent=1)[:-2]
    lines = []
    for item in groups:
        cells = ",\n".join("    " + json.dumps(cell) for cell in item["cells"])
        lines.append(f'  {{"name": {json.dumps(item["name"])}, "shape": {json.dumps(item["shape"])}, "cells": [\n{cells}\n  ]}}')
    path.write_text(f'{head},\n "groups": [\n' + ",\n".join(lines) + "\n ]\n}\n", encoding="utf-8")
    return path


def load(path: Path) -> Result:
    """Read one file. SchemaError names the file and what is wrong with it."""
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (SchemaError, json.JSONDecodeError) as error:
        raise SchemaError(f"{path.name}: {error}") from error


def load_all(directory: Path = DIRECTORY) -> dict[str, Result]:
    """Every result file that exists in `directory`, by what it measured."""
    return {what: load(path) for what in WHATS if (path := directory / f"{what}.json").exists()}
