"""Is this machine fit to measure? `python -m bench doctor` looks at what makes two runs differ, for as long as it is told to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.peers import ceiling

from . import energy, timing

CPU = Path("/sys/devices/system/cpu")
BUSY = 0.03  # share of a core that others may use
STEAL = 0.01  # share of the time that the hypervisor may take
SPREAD = 1.10  # of a bare loop, p90 over p10


@dataclass(frozen=True)
class Finding:
    """One line. fit None: told for information, or not to be seen here."""

    fit: bool | None
    words: str


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _ticks() -> dict[str, list[int]]:
    """Of each core, and of "cpu" for all, the clock ticks of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
    text = _read(Path("/proc/stat")) or ""
    return {line.split()[0]: [int(n) for n in line.split()[1:9]] for line in text.splitlines() if line.startswith("cpu")}


def _processes() -> Iterator[tuple[int, str, int]]:
    """Id, command and CPU ticks of every other process."""
    for folder in Path("/proc").glob("[0-9]*"):
        stat = _read(folder / "stat")
        if stat is None or int(folder.name) == os.getpid():
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        fields = rest.split()
        yield int(folder.name), name, int(fields[11]) + int(fields[12])


def governor(root: Path = CPU) -> Finding:
    """The clock's governor of every core."""
    found = {text for path in root.glob("cpu[0-9]*/cpufreq/scaling_governor") if (text := _read(path))}
    if not found:
        return Finding(None, "governor: not shown by this kernel, as in most virtual machines")
    return Finding(found == {"performance"}, f"governor: {', '.join(sorted(found))}; cpupower frequency-set -g performance")


def turbo(root: Path = CPU) -> Finding:
    """Whether the clock may rise above its base, which it does until the chip is warm."""
    no_turbo, boost = _read(root / "intel_pstate/no_turbo"), _read(root / "cpufreq/boost")
    if no_turbo is None and boost is None:
        return Finding(None, "turbo: not shown by this kernel, as in most virtual machines")
    on = no_turbo == "0" or boost == "1"
    return Finding(None, f"turbo: {'on, so figures of a cold chip are higher than of a warm one' if on else 'off'}")


def _watched(core: int | None, seconds: float) -> Iterator[Finding]:
    """What others do while nothing is done here."""
    before, processes = _ticks(), {pid: ticks for pid, _, ticks in _processes()}
    begin = time.monotonic()
    time.sleep(seconds)
    passed = (time.monotonic() - begin) * os.sysconf("SC_CLK_TCK")
    after = _ticks()
    if not before:
        yield Finding(None, "load, steal: not shown by this system")
        return
    spent = {name: np.subtract(after[name], ticks) for name, ticks in before.items() if name in after}
    steal = float(spent["cpu"][7] / max(1, spent["cpu"].sum()))
    yield Finding(steal <= STEAL, f"steal: the hypervisor took {steal:.1%} of the time")
    for name, ticks in spent.items():
        if name != "cpu":
            busy = 1 - float((ticks[3] + ticks[4]) / max(1, ticks.sum()))
            measured = core is not None and name == f"cpu{core}"
            words = f"core {name[3:]}: {busy:.0%} busy with other work" + (", and it is the one to measure on (--core)" if measured else "")
            yield Finding(busy <= BUSY if measured else None, words)
    others = [(pid, name, (ticks - processes.get(pid, ticks)) / passed) for pid, name, ticks in _processes()]
    busy_ones = sorted((one for one in others if one[2] > BUSY), key=lambda one: -one[2])
    shown = ", ".join(f"{name} ({pid}) {share:.0%}" for pid, name, share in busy_ones[:5])
    yield Finding(not busy_ones, f"other processes at work: {shown}" if busy_ones else "other processes at work: none")
    pythons = [str(pid) for pid, name, _ in others if name.startswith(("python", "pytest"))]
    told = f"{len(pythons)} ({' '.join(pythons[:8])})" if pythons else "none"
    yield Finding(None, f"other Python processes: {told}")


def _loop(core: int | None) -> Finding:
    """How evenly a bare loop of this core runs."""
    if reason := ceiling.why_unavailable():
        return Finding(None, f"bare loop: {reason}")
    made = ceiling.Ceiling()
    run, macs = made.loop("mul8", 100)
    with timing.pinned(core):
        loop = timing.Contestant("loop", "ceiling", run, macs)
        ns = timing.measure([loop], rounds=25)["loop"].ns
        ghz = made.cycles_per_ns()
    spread = timing.summarise(ns).p90 / timing.summarise(ns).p10
    return Finding(spread <= SPREAD, f"a bare loop of 2 ms: p90 over p10 {spread:.2f} ({SPREAD:.2f} is fit), clock {ghz:.2f} GHz")


def examine(core: int | None, seconds: float) -> list[Finding]:
    """Everything, on this core (None: the last one that this process may use) over this time. ValueError for a core that is not there."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    with timing.pinned(core) as chosen:
        pass
    findings = [Finding(None, f"cores of this process: {', '.join(map(str, allowed)) or 'not known'}; measured on core {chosen}")]
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
        findings.append(Finding(load < 0.5, f"load of the last minute: {load:.2f} (below 0.5 is fit)"))
    findings += [*_watched(chosen, seconds), governor(), turbo()]
    isolated = _read(CPU / "isolated")
    findings.append(Finding(None, f"isolated cores: {isolated or 'none'}"))
    reason = energy.why_unavailable()
    findings.append(Finding(None, f"energy: {reason or 'RAPL can be read'}"))
    return [*findings, _loop(chosen)]
