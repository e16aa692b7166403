"""The names of the kernels that a call starts, by torch's profiler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .device import Call, torch

MARKER = "spin_kernel"  # what torch.cuda._sleep starts
MARKER_CYCLES = 1000


def split(names: Iterable[str], marker: str = MARKER) -> list[list[str]]:
    """Names between markers, each group once and in order; what comes before the first marker is left out."""
    groups: list[list[str]] = []
    for name in names:
        if marker in name:
            groups.append([])
        elif groups and name not in groups[-1]:
            groups[-1].append(name)
    return groups


def of_calls(calls: Sequence[Call]) -> dict[str, list[str]]:
    """Each call's kernels by its name; {} where the profiler sees none."""
    t = torch()
    profiler: Any = t.profiler
    for call in calls:
        call.run(0)
    t.cuda.synchronize()
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
        for call in calls:
            t.cuda._sleep(MARKER_CYCLES)
            call.run(0)
            t.cuda.synchronize()
    events = [e for e in profile.events() if str(e.device_type).endswith("CUDA")]
    events.sort(key=lambda e: e.time_range.start)
    groups = split(e.name for e in events)
    return {call.name: kernels for call, kernels in zip(calls, groups, strict=True)} if len(groups) == len(calls) else {}
