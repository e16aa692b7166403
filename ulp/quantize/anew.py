"""The end of a search for bits: the best trials, whose layers were rounded each for itself, are rounded anew as without a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from ulp._progress import progress_bar

from .network import FloatNetwork
from .result import Quantized
from .trial import Judge, Trial

# So many trials are rounded anew whatever it takes.
_LEAST = 2


@dataclass
class Anew:
    """Rounds trials anew and judges them.

    how: options of `FloatNetwork.quantized`. seconds: what all of it may take, once two are there. keeps: whether a trial keeps the budget.
    found: what was rounded. known: what was rounded before, by assignment and options, and what is rounded now.
    """

    network: FloatNetwork
    judge: Judge
    how: Mapping[str, Any]
    seconds: float
    keeps: Callable[[Trial], bool]
    progress: bool
    known: dict[tuple[Any, ...], Quantized]
    found: list[Trial] = field(default_factory=list)
    _begin: float = field(default_factory=time.perf_counter)

    def from_best(self, ranked: Sequence[Trial]) -> list[Trial]:
        """As many of the first ones as there is time for."""
        for trial in progress_bar(ranked, self.progress, "round", "network"):
            if self.time_is_up():
                break
            self.round(trial)
        return self.found

    def from_fastest(self, by_time: Sequence[Trial]) -> list[Trial]:
        """About the fastest one that keeps the budget, of trials by their milliseconds.

        Rounded anew most are better than as trials: if that one still keeps the budget, those that are faster still are rounded, the most
        accurate first; else the next one, and then the most accurate ones, until one does.
        """
        enough = [i for i, trial in enumerate(by_time) if self.keeps(trial)]
        start = enough[0] if enough else max(range(len(by_time)), key=lambda i: by_time[i].accuracy)
        slower = list(by_time[start + 1 :])
        slower[1:] = sorted(slower[1:], key=lambda trial: -trial.accuracy)
        if not self.round(by_time[start]):
            any(self.round(trial) for trial in slower)
            return self.found
        faster = list(by_time[:start])
        while faster and not self.time_is_up():
            trial = max(faster, key=lambda trial: trial.accuracy)
            keeps = self.round(trial)
            faster = [one for one in faster if one is not trial and not (keeps and one.ms >= trial.ms)]
        return self.found

    def round(self, trial: Trial) -> bool:
        """Whether it keeps the budget then."""
        key = (*trial.assignment.items(), *self.how.items())
        if key not in self.known:
            self.known[key] = self.network.quantized(trial.assignment, **self.how)
        quantized = copy(self.known[key])  # whose choice is that of this search
        made = replace(trial, quantized=quantized, network=quantized.load(progress=False))
        made.accuracy = self.judge.accuracy(made.network)
        self.found.append(made)
        return self.keeps(made)

    def time_is_up(self) -> bool:
        """Whether one more would take longer than all may."""
        spent = time.perf_counter() - self._begin
        return len(self.found) >= _LEAST and spent + spent / len(self.found) > self.seconds
