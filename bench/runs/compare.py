"""Which cells of two result files differ by more than noise, and by how much: `python -m bench compare A.json B.json`.

The times of two runs differ because the machine does: its clock, its neighbours, where memory came to lie. Three things are taken off:

1. Within a round every time is divided by the geometric mean of the round's peers and bare loops, so that a machine that is slower for
   all is no difference. (A group with fewer than two of them: by that of all cells, so that a change of all alike is not seen there.)
2. The spread within each run: a cell moves only if its medians differ by more than 4 standard errors, by the spread of the rounds
   (p90 - p10 is 2.56 deviations, a median of n rounds has an error of 1.25 deviations over the root of n).
3. The spread between the runs: the peers and bare loops are the same code in both, so what they seem to move is noise. A cell moves only
   if it does so by 4 times the root mean square of theirs over the file, by more than any of them in its group, and by more than 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import results
from .results import WHATS, Cell, Group, Result

FloatArray = npt.NDArray[np.float64]
OWN = ("ulp", "ulp requantized", "technique")  # kinds that a commit can change
ERRORS = 4.0
FLOOR = 0.05
FEW_CONTROLS = 4  # below so many in the whole file the noise between the runs is not known: UNKNOWN is assumed
UNKNOWN = 0.15


class CompareError(ValueError):
    """The two files cannot be compared; the message says why."""


@dataclass(frozen=True)
class Shift:
    """A cell in two runs. times: how long a call takes in the second run over the first, both in units of their round; noise: what it must
    pass to count, as a ratio above 1."""

    group: str
    name: str
    kind: str
    times: float
    noise: float
    ns: tuple[float, float]

    @property
    def moved(self) -> bool:
        """Whether the difference is more than noise."""
        return self.kind in OWN and abs(math.log(self.times)) > math.log(self.noise)

    def words(self) -> str:
        """As in "1.25x faster"."""
        return f"{1 / self.times:.2f}x faster" if self.times < 1 else f"{self.times:.2f}x slower"


@dataclass(frozen=True)
class Comparison:
    """All cells that both files have, those that only one has, and the noise between the runs by the peers (a ratio above 1)."""

    what: str
    shifts: list[Shift]
    only: list[str]
    noise: float
    notes: list[str]

    @property
    def moved(self) -> list[Shift]:
        """Largest first."""
        return sorted((s for s in self.shifts if s.moved), key=lambda s: -abs(math.log(s.times)))


def _controls(cells: Sequence[Cell], names: set[str]) -> list[Cell]:
    found = [c for c in cells if c.name in names and c.kind not in OWN]
    return found if len(found) > 1 else [c for c in cells if c.name in names]


def _relative(group: Group, names: set[str]) -> dict[str, FloatArray]:
    """The logarithm of each cell's time in each round over the geometric mean of the round's controls."""
    logs = {c.name: np.log(np.asarray(c.ns)) for c in group.cells if c.name in names}
    base = np.mean([logs[c.name] for c in _controls(group.cells, names)], axis=0)
    return {name: own - base for name, own in logs.items()}


def _moves(a: Group, b: Group, names: set[str]) -> dict[str, tuple[float, float]]:
    """Of each cell the shift of the median and what the spread of the rounds makes of it, in logarithms."""
    first, second = _relative(a, names), _relative(b, names)
    moves = {}
    for name in sorted(names):
        shift = float(np.median(second[name]) - np.median(first[name]))
        moves[name] = shift, ERRORS * math.hypot(_error(first[name]), _error(second[name]))
    return moves


def _error(logs: FloatArray) -> float:
    """The standard error of the median of these rounds."""
    low, high = np.percentile(logs, [10, 90])
    return float(high - low) / 2.56 * 1.25 / math.sqrt(len(logs))


def compare(a: Result, b: Result) -> Comparison:
    """b beside a. CompareError unless both are of one benchmark and have cells in common."""
    if a.what != b.what:
        raise CompareError(f"one file is of {a.what}, the other of {b.what}")
    notes = []
    if a.environment["machine"] != b.environment["machine"]:
        notes.append("the two machines differ: what follows is not the work of a commit")
    changed = {n for n, peer in a.peers.items() if n in b.peers and peer.get("version") != b.peers[n].get("version")}
    if changed:
        notes.append(f"other versions of {', '.join(sorted(changed))}: not used as a measure of noise")
    only, both = [], []
    for name in dict.fromkeys(g.name for side in (a, b) for g in side.groups):
        ga, gb = a.find(name), b.find(name)
        if ga is None or gb is None:
            only.append(f"{name} (in the {'second' if ga is None else 'first'} file only)")
            continue
        common = {c.name for c in ga.cells} & {c.name for c in gb.cells}
        only += [f"{name}: {c.name}" for side in (ga, gb) for c in side.cells if c.name not in common]
        if common:
            both.append((ga, gb, _moves(ga, gb, common)))
    if not both:
        raise CompareError("the two files have no cell in common")
    control = [
        [abs(shift) for cell in ga.cells if cell.name in moves and cell.kind not in OWN and cell.name not in changed
         for shift, _ in (moves[cell.name],)]
        for ga, _, moves in both
    ]  # fmt: skip
    pooled = [s for of_group in control for s in of_group]
    overall = ERRORS * math.sqrt(float(np.mean(np.square(pooled)))) if len(pooled) >= FEW_CONTROLS else UNKNOWN
    shifts = []
    for (ga, gb, moves), of_group in zip(both, control, strict=True):
        between = max([overall, math.log1p(FLOOR), *of_group])
        for cell in ga.cells:
            if cell.name in moves:
                shift, spread = moves[cell.name]
                noise = max(between, spread)
                other = gb.find(cell.name)
                assert other is not None
                medians = (cell.time.median, other.time.median)
                shifts.append(Shift(ga.name, cell.name, cell.kind, math.exp(shift), math.exp(noise), medians))
    return Comparison(a.what, shifts, only, math.exp(max(overall, math.log1p(FLOOR))), notes)


def files(before: Path, after: Path) -> list[tuple[Result, Result]]:
    """The two files, or of two directories the files that both have. CompareError where there is none."""
    if before.is_dir() != after.is_dir():
        raise CompareError(f"{before} and {after}: compare two files or two directories")
    if not before.is_dir():
        for path in (before, after):
            if not path.exists():
                raise CompareError(f"no file {path}")
        return [(results.load(before), results.load(after))]
    both = [f"{what}.json" for what in WHATS if (before / f"{what}.json").exists() and (after / f"{what}.json").exists()]
    if not both:
        raise CompareError(f"{before} and {after} have no result file in common")
    return [(results.load(before / name), results.load(after / name)) for name in both]
