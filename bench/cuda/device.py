"""Timing on a device through torch: CUDA graphs over rotating buffers, alternating contestants, clocks read while they run.

A contestant is one graph of many calls, each on the next of its buffers, so that no call finds its operands in the L2 cache. Every round
replays every contestant twice, in an order that rotates, and times the second by events; the first keeps the device busy while the host
gets ahead, so that no start of a graph is timed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.runs.timing import Contestant, Samples
from bench.subjects.interface import WrongResultError

from . import work

POISON = 99  # a value that every dtype of a result holds and that no result is full of
QUICK_REPLAYS = 3


@functools.cache
def torch() -> Any:
    """The module. RuntimeError where it sees no device."""
    module: Any = importlib.import_module("torch")
    if not module.cuda.is_available():
        raise RuntimeError(f"torch {module.__version__} sees no CUDA device")
    return module


@functools.cache
def _nvml() -> tuple[Any, Any]:
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    uuid = str(torch().cuda.get_device_properties(0).uuid)
    return nvml, nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def clocks() -> dict[str, float]:
    """The device's present clocks in MHz, temperature in degrees Celsius, power in W."""
    nvml, handle = _nvml()
    return {
        "sm_mhz": float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        "memory_mhz": float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        "celsius": float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        "watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
    }


def gpu() -> work.Gpu:
    """Device 0."""
    p = torch().cuda.get_device_properties(0)
    nvml, handle = _nvml()
    clock = float(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))
    return work.Gpu(p.name, 10 * p.major + p.minor, p.multi_processor_count, p.L2_cache_size, p.total_memory, clock)


def driver() -> str:
    """The driver's version."""
    version = _nvml()[0].nvmlSystemGetDriverVersion()
    return version.decode() if isinstance(version, bytes) else str(version)


@dataclass(frozen=True)
class Call:
    """Something to time, before it is captured.

    run(slot): starts one call on the current stream, on the buffers of that slot. outs: the result of each slot. right: whether a result is
    the exact product (None: it is not checked, because it computes something else). least_ns: a guess of the time of a call, from below.
    The others are as `timing.Contestant` has them.
    """

    name: str
    kind: str
    run: Callable[[int], object]
    outs: Sequence[Any]
    macs: int
    nbytes: int
    least_ns: float
    bits: tuple[int, int] | None = None
    right: Callable[[Any], bool] | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def checked(self) -> Call:
        """Itself, when one call on each slot has written the right result. WrongResultError."""
        self._expect(lambda: [self.run(slot) for slot in range(len(self.outs))], "when called")
        return self

    def _expect(self, work_on_all: Callable[[], object], when: str) -> None:
        for out in self.outs:
            out.fill_(POISON)
        work_on_all()
        torch().cuda.synchronize()
        if self.right is not None and not all(self.right(out) for out in self.outs):
            raise WrongResultError(f"{self.name} is wrong {when}")

    def captured(self, calls: int | None = None) -> Captured:
        """As one graph of at least one call per slot, which has run and written the right results. WrongResultError."""
        count = work.calls_in_graph(len(self.outs), self.least_ns) if calls is None else calls
        replay = _graph(lambda: [self.run(i % len(self.outs)) for i in range(count)], lambda: self.run(0))
        # Twice: what a kernel leaves in its workspace must not spoil the next run.
        self._expect(lambda: (replay(), replay()), "in a graph")
        return Captured(self.name, self.kind, replay, self.macs, self.nbytes, self.bits, info=self.info, calls=count)


@functools.cache
def _capturing() -> Any:
    """The stream on which graphs are captured."""
    return torch().cuda.Stream()


def _graph(start: Callable[[], object], warm_up: Callable[[], object]) -> Callable[[], object]:
    """What replays the work that `start` puts on the current stream. warm_up: what a library does first on a new stream.

    Without torch.cuda.graph, which collects garbage and empties the allocator's cache each time: there are thousands of graphs here.
    """
    graph = torch().cuda.CUDAGraph()
    torch().cuda.synchronize()
    with torch().cuda.stream(_capturing()):
        warm_up()
        torch().cuda.synchronize()
        graph.capture_begin()
        try:
            start()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # it may have been ended by what went wrong
                graph.capture_end()
            raise
        graph.capture_end()

    def replay() -> None:  # the closure keeps the graph, and with it the memory that it was captured on
        graph.replay()

    return replay


@dataclass(frozen=True)
class Captured(Contestant):
    """A contestant whose `run` replays a graph of `calls` calls."""

    calls: int = 1


def _timed(run: Callable[[], object]) -> tuple[Any, Any]:
    """Replays twice and returns the events around the second. Does not wait."""
    begin, end = (torch().cuda.Event(enable_timing=True) for _ in range(2))
    run()
    begin.record()
    run()
    end.record()
    return begin, end


def quick_ns(captured: Captured) -> float:
    """The time of one call, roughly: for choosing among variants."""
    events = [_timed(captured.run) for _ in range(QUICK_REPLAYS)]
    torch().cuda.synchronize()
    return min(float(begin.elapsed_time(end)) for begin, end in events) * 1e6 / captured.calls


def fastest(calls: Sequence[Call]) -> Call:
    """The one with the least `quick_ns`; variants that fail are left out. RuntimeError with the reasons where all fail."""
    times: list[tuple[float, int, Call]] = []
    reasons: list[str] = []
    for call in calls:
        try:
            times.append((quick_ns(call.checked().captured(len(call.outs))), len(times), call))
        except Exception as error:  # a library may raise what it likes; Triton's own errors have no common kind
            reasons.append(f"{call.name} {call.info.get('variant', '')}: {str(error).splitlines()[0]}")
    if not times:
        raise RuntimeError("; ".join(reasons) or "no variant")
    return min(times)[2]


def measure(contestants: Sequence[Captured], rounds: int) -> tuple[dict[str, Samples], dict[str, dict[str, float]]]:
    """Samples of every contestant, and the clocks before, during (the busy middle) and after."""
    ns: dict[str, list[float]] = {c.name: [] for c in contestants}
    seen = {"before": clocks()}
    for turn in range(rounds):
        shift = turn % len(contestants)
        events = {c.name: (_timed(c.run), c.calls) for c in (*contestants[shift:], *contestants[:shift])}
        if turn == rounds // 2:
            seen["during"] = clocks()
        torch().cuda.synchronize()
        for name, ((begin, end), calls) in events.items():
            ns[name].append(float(begin.elapsed_time(end)) * 1e6 / calls)
    seen["after"] = clocks()
    return {c.name: Samples(c.calls, ns[c.name]) for c in contestants}, seen
