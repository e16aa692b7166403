"""What is being timed, and how long the rest will take: a bar by tqdm on a terminal, one line per group elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import results


def duration(seconds: float) -> str:
    """As in "45 s" or "12 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextlib.contextmanager
def bar(description: str, total: int, unit: str = "round") -> Iterator[Callable[[], object]]:
    """A bar on a terminal where tqdm is installed, else silence."""
    module: Any = None
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            module = importlib.import_module("tqdm")
    if module is None:
        yield lambda: None
        return
    module.tqdm.monitor_interval = 0  # its monitor thread would spend CPU time of this process
    with module.tqdm(total=total, desc=description, unit=unit, leave=False) as shown:
        yield shown.update


def earlier_seconds(what: str, *directories: Path) -> dict[str, float]:
    """How long each group took, by the first of these directories that has a result file that says so."""
    for directory in directories:
        path = directory / f"{what}.json"
        if path.exists():
            with contextlib.suppress(results.SchemaError):
                found: dict[str, float] = results.load(path).settings.get("seconds", {})
                if found:
                    return dict(found)
    return {}


@dataclass
class Progress:
    """The groups of one benchmark, in order. expected: seconds of each in an earlier run, as far as known; spent: in this one."""

    what: str
    groups: Sequence[str]
    expected: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    left: list[str] = field(init=False)
    _begin: float = 0.0

    def __post_init__(self) -> None:
        self.left = list(self.groups)

    def begin(self, name: str) -> None:
        """From here the time counts for this group."""
        self._begin = time.monotonic()
        if not sys.stderr.isatty():
            print(f"{self.title(name)} ...", file=sys.stderr, flush=True)

    def end(self, name: str) -> None:
        """The group is measured."""
        self.spent[name] = round(time.monotonic() - self._begin, 2)
        self.skip(name)

    def skip(self, name: str) -> None:
        """The group is not to be measured."""
        if name in self.left:
            self.left.remove(name)

    def seconds_left(self) -> float | None:
        """Of the groups left: as before, times how much slower this run is than that one; else as the mean of this run. None: unknown."""
        known = [name for name in self.spent if self.expected.get(name)]
        slower = sum(self.spent[n] for n in known) / sum(self.expected[n] for n in known) if known else 1.0
        mean = sum(self.spent.values()) / len(self.spent) if self.spent else None
        times = [self.expected[n] * slower if n in self.expected else mean for n in self.left]
        return None if None in times else float(sum(t for t in times if t is not None))

    def title(self, name: str) -> str:
        """As in "gemm 4/6 512x512x512, 40 s left"."""
        seconds = self.seconds_left()
        place = f"{len(self.groups) - len(self.left) + 1}/{len(self.groups)} " if name in self.groups else ""
        return f"{self.what} {place}{name}" + ("" if seconds is None else f", about {duration(seconds)} left")
