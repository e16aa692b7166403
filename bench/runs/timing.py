"""Alternating measurement of many contestants on one core, and the statistics of its samples.

Medians of one cell move by 1.2x between runs on a shared machine, so a figure from one run and a figure from another say little about
each other. Here every round gives every contestant one short sample, in an order that rotates, and a ratio is taken within the round:
what the machine does to one contestant it also does to its neighbour. The spread (p10 to p90 over rounds) is part of every result.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Clock = Literal["thread", "wall"]

# Work outside the calling thread that is tolerated: the interpreter's timers and the tail of a kernel thread.
FOREIGN_SHARE = 0.2
FOREIGN_NS = 5_000_000
# A call longer than this brings its operands back into the caches itself; shorter ones get an untimed sample ahead of each timed one.
WARM_UP_BELOW_NS = 20_000_000


class ForeignThreadError(RuntimeError):
    """A contestant worked in a thread other than the caller's, so that the caller's CPU time is not its cost."""


@dataclass(frozen=True)
class Contestant:
    """One thing to time.

    name: unique within a group. kind: "ulp", "int8", "fp32", "info", "numpy" or "ceiling". run: only the timed work. macs: the
    multiply-accumulates of one call. nbytes: bytes that one call must read (0: not stated). bits: (a_bits, b_bits) or None. before: untimed
    work ahead of each sample. cold: a sample is one single call straight after `before`; otherwise an untimed sample comes first, which
    brings back the caches that the other contestants have used. info: what the result file should keep beside the samples.
    """

    name: str
    kind: str
    run: Callable[[], object]
    macs: int
    nbytes: int = 0
    bits: tuple[int, int] | None = None
    before: Callable[[], object] | None = None
    cold: bool = False
    info: dict[str, Any] = field(default_factory=dict)

    def of_kind(self, kind: str) -> Contestant:
        """The same as another kind."""
        return replace(self, kind=kind)


@dataclass(frozen=True)
class Samples:
    """ns[i] is the time of one call in round i, the mean over `repeats` calls timed together."""

    repeats: int
    ns: list[float]


@dataclass(frozen=True)
class Summary:
    """Median, best decile, p10 and p90 of one series; for times the best decile is p10, for ratios and rates p90."""

    median: float
    p10: float
    p90: float


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[int | None]:
    """Keep this thread and those that it starts on `core` (None: the last one allowed); yields the core, or None where the OS cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    chosen = max(before) if core is None else core
    if chosen not in before:
        raise ValueError(f"core {chosen} is not among the cores this process may use: {sorted(before)}")
    os.sched_setaffinity(0, {chosen})
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _timed(run: Callable[[], object], repeats: int, clock: Callable[[], int]) -> int:
    times = range(repeats)
    begin = clock()
    for _ in times:
        run()
    return clock() - begin


def _calibrate(run: Callable[[], object], clock: Callable[[], int], min_sample_ns: int) -> int:
    """Calls that fill `min_sample_ns`, after a warm-up that has filled half of it."""
    repeats = 1
    while True:
        elapsed = _timed(run, repeats, clock)
        if elapsed >= min_sample_ns // 2:
            return max(1, math.ceil(repeats * min_sample_ns / elapsed))
        repeats *= 2


def measure(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    min_sample_ns: int = 2_000_000,
    clock: Clock = "thread",
    tick: Callable[[], object] | None = None,
) -> dict[str, Samples]:
    """Time every contestant once a round, each sample about `min_sample_ns` long or one call, in an order that rotates by one each round.

    clock "thread" is the CPU time of the calling thread: other processes do not count, and neither would a contestant's worker threads, so
    that ForeignThreadError is raised when the process spent clearly more than the thread did. clock "wall" is for several threads.
    `tick` is called once after each round.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1 is needed")
    if len({c.name for c in contestants}) != len(contestants):
        raise ValueError(f"names must be unique: {[c.name for c in contestants]}")
    read = time.thread_time_ns if clock == "thread" else time.perf_counter_ns
    repeats: dict[str, int] = {}
    with _no_collector():
        for c in contestants:
            if c.before:
                c.before()
            repeats[c.name] = 1 if c.cold else _calibrate(c.run, read, min_sample_ns)
        warm_up = {c.name: not c.cold for c in contestants}
        ns: dict[str, list[float]] = {c.name: [] for c in contestants}
        process: dict[str, int] = dict.fromkeys(ns, 0)
        for turn in range(rounds):
            shift = turn % len(contestants) if contestants else 0
            for c in (*contestants[shift:], *contestants[:shift]):
                if c.before:
                    c.before()
                if warm_up[c.name]:
                    _timed(c.run, repeats[c.name], read)
                process_begin = time.process_time_ns()
                elapsed = _timed(c.run, repeats[c.name], read)
                warm_up[c.name] = not c.cold and elapsed < WARM_UP_BELOW_NS * repeats[c.name]
                process[c.name] += time.process_time_ns() - process_begin
                ns[c.name].append(elapsed / repeats[c.name])
            if tick:
                tick()
    if clock == "thread":
        for name, series in ns.items():
            own = sum(series) * repeats[name]
            foreign = process[name] - own
            if foreign > FOREIGN_NS and foreign > FOREIGN_SHARE * own:
                raise ForeignThreadError(
                    f"{name} spent {foreign / 1e6:.1f} ms in other threads, {own / 1e6:.1f} ms in the calling one: limit it to one thread"
                )
    return {name: Samples(repeats[name], series) for name, series in ns.items()}


def summarise(values: Sequence[float]) -> Summary:
    """Median, p10 and p90 with linear interpolation between samples. ValueError for an empty series."""
    if not values:
        raise ValueError("no samples")
    p10, median, p90 = np.percentile(np.asarray(values, dtype=np.float64), [10, 50, 90])
    return Summary(float(median), float(p10), float(p90))


def speedup(ns: Sequence[float], other_ns: Sequence[float]) -> Summary:
    """How many times faster the first series is: the statistics of the per-round ratio other/own. ValueError unless the rounds match."""
    if len(ns) != len(other_ns):
        raise ValueError(f"{len(ns)} rounds beside {len(other_ns)}: only rounds of one run can be compared")
    return summarise([theirs / ours for ours, theirs in zip(ns, other_ns, strict=True)])


def gmacs(macs: int, ns: Sequence[float]) -> Summary:
    """Rate in GMAC/s (MACs per ns) of one series of times per call."""
    return summarise([macs / t for t in ns])
