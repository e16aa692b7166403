"""`Profile`: how long each step of a network took, and how that was measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ulp import _core
from ulp._table import Printed, Table


@dataclass(frozen=True)
class ProfileRow:
    """One step of a run. layer, type: the layer's name in the network and its class; step, kernel: what ran, and by which kernel."""

    layer: str
    type: str
    step: str
    kernel: str
    bits: tuple[int, int]
    """Of weights and of the activations that are read; 0: none, or floats"""
    shape: tuple[int, ...]
    """height, width, channels of the result; of a float operator whatever it gives"""
    macs: int
    """Multiply-accumulates by the definition of the layer; Winograd needs fewer"""
    ms: float
    share: float
    """Of the whole time, 0..1"""
    runs_in: str = "integers"
    """"integers" or "floats", as in the table of layers."""

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates per nanosecond: 10^9 per second."""
        return self.macs / (self.ms * 1e6) if self.ms else 0.0

    @property
    def kind(self) -> str:
        """`type`, by its former name."""
        return self.type

    @property
    def method(self) -> str:
        """`kernel`, by its former name."""
        return self.kernel


class Profile(Printed):
    """The steps of a network with their times; printed, a table. `rows`, and their sum `ms`; how they were measured: `clock`, `runs`."""

    def __init__(self, rows: Iterable[ProfileRow], clock: str = "", runs: int = 1) -> None:
        rows = list(rows)
        self.ms = sum(row.ms for row in rows)
        self.rows = [replace(row, share=row.ms / (self.ms or 1.0)) for row in rows]
        self.clock = clock
        self.runs = runs

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ProfileRow]:
        return iter(self.rows)

    def _table(self) -> Table:
        rows = [
            (
                row.layer,
                row.type,
                row.step,
                row.kernel,
                row.runs_in,
                bits_text(row.bits),
                size_text(row.shape),
                f"{row.ms:.3f}",
                f"{row.gmacs:.1f}" if row.macs else "",
                f"{100 * row.share:.1f} %",
            )
            for row in self.rows
        ]
        macs = sum(row.macs for row in self.rows)
        total = ("total", *[""] * 6, f"{self.ms:.3f}", f"{macs / (self.ms * 1e6):.1f}" if self.ms and macs else "", "100.0 %")
        heads = ("layer", "type", "step", "kernel", "runs in", "bits", "shape", "ms", "GMAC/s", "share")
        foot = f"{self.clock}; the minimum of each step over {self.runs} runs after a first one" if self.clock else ""
        return Table(heads, [*rows, total], right=3, foot=foot)

    __repr__ = Printed.__str__


def counts_cpu_time() -> bool:
    """Whether steps are timed by the CPU time of their one thread, which what else runs on the machine does not lengthen."""
    return _core.num_threads() == 1 and hasattr(time, "CLOCK_THREAD_CPUTIME_ID")


def clock_ns() -> Callable[[], int]:
    """The clock that steps are timed by."""
    return time.thread_time_ns if counts_cpu_time() else time.perf_counter_ns


def measured(run: Callable[[], Sequence[ProfileRow]], runs: int) -> Profile:
    """The profile of `runs` calls of `run` after a first one: of each step the minimum."""
    run()
    times = [run() for _ in range(runs)]
    threads = _core.num_threads()
    clock = "CPU time of one thread" if counts_cpu_time() else f"elapsed time, {threads} thread{'s' if threads > 1 else ''}"
    return Profile((min(same, key=lambda row: row.ms) for same in zip(*times, strict=True)), clock, runs)


def bits_text(bits: tuple[int, int]) -> str:
    """(3, 8) -> "W3A8"; 0 is left out."""
    weights, activations = bits
    return (f"W{weights}" if weights else "") + (f"A{activations}" if activations else "")


def size_text(shape: Iterable[int]) -> str:
    """(2, 3) -> "2x3"."""
    return "x".join(str(side) for side in shape)
