"""Joules per call by the counters that Intel's and AMD's RAPL give Linux. They count the whole package, not one core.

Linux shows them in /sys/class/powercap to root, where the machine is not virtual.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def _packages(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*rapl:*") if path.name.count(":") == 1)


def _read(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def why_unavailable(root: Path = POWERCAP) -> str | None:
    """None where the energy can be read, else the reason."""
    packages = _packages(root)
    if not packages:
        return f"no RAPL counters in {root}: a virtual machine, another kernel, or not an x86 CPU"
    try:
        for path in packages:
            _read(path / "energy_uj")
    except (OSError, ValueError):
        return f"{packages[0] / 'energy_uj'} cannot be read: run as root"
    return None


def per_call(run: Callable[[], object], seconds: float = 0.5, root: Path = POWERCAP) -> float:
    """Joules that the packages spent per call, on average over at least `seconds`; the idle machine's power is in it."""
    packages = _packages(root)
    before = [_read(path / "energy_uj") for path in packages]
    begin, calls = time.monotonic(), 0
    while calls == 0 or time.monotonic() - begin < seconds:
        run()
        calls += 1
    spent = 0
    for path, start in zip(packages, before, strict=True):
        difference = _read(path / "energy_uj") - start
        spent += difference if difference >= 0 else difference + _read(path / "max_energy_range_uj")  # it wraps
    return spent * 1e-6 / calls
