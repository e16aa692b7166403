"""`bits="auto"`: the bits of every layer by what they cost in accuracy and in milliseconds on this CPU, within a budget.

1. Sensitivities from calibration data, latencies measured (or modelled for a named target).
2. An integer program picks one pair per layer.
3. What it picks is built, timed and judged by the metric, beside the networks that have one pair throughout; where the prediction misses
   the budget, the next choice is tried. So the result is never worse than any of those that were tried within the budget.
4. Trials share layers that were rounded each for itself, once per width; the best trials are rounded anew, layer by layer, and judged
   again. Their times are taken once more, too, by more rounds: what is chosen keeps the budget by those.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ulp._progress import progress_bar

from . import costs
from .anew import Anew
from .budget import Budget
from .network import FloatNetwork
from .outcome import Outcome
from .program import Chosen, LayerOptions, Option, Quantity, dominated, solve
from .request import Assignment, Bits, assignment_of
from .result import Quantized
from .sensitivity import Sensitivities, sensitivities
from .trial import Judge, Trial, timed

PAIRS = tuple(
    Bits(*pair)
    for pair in (
        (8, 8), (6, 8), (4, 8), (6, 6), (5, 5), (3, 6), (4, 5), (4, 4), (3, 4), (3, 3), (2, 4), (2, 3), (2, 2), (1, 4), (1, 3), (1, 2),
    )
)  # fmt: skip
"""Widths that layers get: those at which kernels change (Winograd's method is exact up to W4A5 and W3A6, lookups begin at W2A4, and at
1-bit weights take half the time of W4A4 in large products, also where VNNI makes all wider pairs alike)."""

# Two timings of one network differ by this share: a network this far beyond the budget keeps it. Of those that are timed by more rounds at
# the end, one that is beyond it by less comes first.
_NOISE, _SURE = 0.02, 0.005
# How many times as many rounds.
_MORE_ROUNDS = 3
_ATTEMPTS = 5
_FRONT = 24
# Rounding the best trials anew may take this share of the time that the search has taken, and at most this many seconds.
_FINAL_SHARE, _FINAL_SECONDS = 0.6, 40.0
# Uniform networks that are tried beside the program's: those with the least predicted error within the budget.
_UNIFORM = 6


def auto(
    network: FloatNetwork,
    budget: Budget,
    *,
    metric: Callable[[Any], float] | None = None,
    example: Any = None,
    pairs: Sequence[Bits] = PAIRS,
    target: str | None = None,
    progress: bool = True,
    **how: Any,
) -> Quantized:
    """The quantized network within the budget that is worth most (or, with max_drop, takes the least time); `.choice` says what was chosen.

    metric: a function of a network (called like `ulp.load`'s; also of the float model) that gives percent, or any number of which more
        is better. By default the share of calibration inputs whose prediction is the float model's, for outputs of shape (N, classes)
        and probabilities; for others 100 (1 - |y' - y| / |y|).
    example: the inputs whose call is timed, an array or a dict by name; by default the first row of the calibration data.
    pairs: widths that layers may have. target: an instruction set by the costs of whose kernels times are modelled; nothing is timed then.
    how: options of `FloatNetwork.quantized`.

    ValueError where nothing keeps the budget; it names the nearest choice. ImportError without SciPy.
    """
    if not network.layers:
        raise ValueError('bits="auto": the model has no layers with weights')
    reference = budget.reference()
    if reference and reference[1] not in pairs:
        raise ValueError(f"max_ms={budget.max_ms!r}: expected a pair that is tried, one of {', '.join(map(str, pairs))}")
    return _Search(network, budget, Judge(network, metric, example), tuple(pairs), target, progress, how).run()


@dataclass
class _Known:
    """Of a network that may be searched again, with another budget: sensitivities by pairs and options, what was rounded anew."""

    sensitivities: dict[tuple[Any, ...], Sensitivities] = field(default_factory=dict)
    anew: dict[tuple[Any, ...], Quantized] = field(default_factory=dict)


_known: WeakKeyDictionary[FloatNetwork, _Known] = WeakKeyDictionary()


class _Search:
    def __init__(
        self,
        network: FloatNetwork,
        budget: Budget,
        judge: Judge,
        pairs: tuple[Bits, ...],
        target: str | None,
        progress: bool,
        how: Mapping[str, Any],
    ) -> None:
        self.network, self.budget, self.judge, self.pairs, self.how = network, budget, judge, pairs, dict(how)
        self.target, self.progress = target, progress
        self.begin = time.perf_counter()
        solve([], "ms", {})  # without SciPy nothing is begun
        self.names = [layer.name for layer in network.layers]
        self.trials: dict[tuple[tuple[str, Bits | None], ...], Trial] = {}
        options = {key: self.how[key] for key in ("ranges", "rounding", "bias_correction") if key in self.how}
        plain = self.how.get("rounding") == "nearest" and not self.how.get("bias_correction", True)
        # Rounding takes long: trials share what layers have when each is rounded alone, and the best ones are rounded anew.
        self.alone = not plain
        self.known = _known.setdefault(network, _Known())
        known = self.known.sensitivities
        key = (pairs, *(options.items() if self.alone else ()))
        if key not in known:
            rounded = network.rounded_alone([pair.weight for pair in pairs], **options) if self.alone else {}
            known[key] = sensitivities(network, pairs, rounded, progress=progress)
        self.sensitivities = known[key]
        self.rest = 0.0
        self.first: tuple[Any, float] | None = None
        if target:
            self.latencies = costs.modelled(network, pairs, target)
        else:
            self.latencies, self.rest = costs.measured(network, judge, pairs, self._quick, progress=progress)
        widest = max(pairs, key=lambda pair: pair.weight * pair.activation)
        weights = {layer.name: math.prod(layer.shape) / 8 for layer in network.layers}
        # What the network holds besides weights: sums, scales, constants of float parts.
        self.other_bytes = self._built(dict.fromkeys(self.names, widest), str(widest)).network.nbytes - sum(
            weights[name] * widest.weight for name in self.names
        )
        self.layers = [
            LayerOptions(
                layer.name,
                layer.x,
                [
                    Option(
                        pair,
                        self.sensitivities.error(layer.name, pair),
                        self.latencies[layer.name, pair],
                        weights[layer.name] * pair.weight,
                    )
                    for pair in pairs
                ],
            )
            for layer in network.layers
        ]
        self.options = {layer.name: {option.bits: option for option in layer.options} for layer in self.layers}
        self.outcome = Outcome(network, budget, judge, target, self.options, self._error)
        self.useful = [replace(one, options=[o for o in one.options if o.bits not in dominated(one.options)]) for one in self.layers]

    # -- networks that are tried -----------------------------------------------------------------------------------------------------

    def _quick(self, assignment: Assignment) -> Quantized:
        return self.network.quantized(assignment, alone=self.alone, **self.how)

    def _built(self, assignment: Assignment, label: str) -> Trial:
        key = tuple(assignment.items())
        if key not in self.trials:
            quantized = self._quick(assignment)
            self.trials[key] = Trial(label, dict(assignment), quantized, quantized.load(progress=False))
        return self.trials[key]

    def _tried(self, assignment: Assignment, label: str) -> Trial:
        """Built, timed once and judged."""
        trial = self._built(assignment, label)
        if math.isnan(trial.accuracy):
            trial.accuracy = self.judge.accuracy(trial.network)
            trial.ms = self._predicted(assignment) if self.target else self._clocked(trial)
        return trial

    def _clocked(self, trial: Trial) -> float:
        """Milliseconds of a call, as if the CPU were as fast as when the first network was timed."""
        if self.first is None:
            self.first = trial.network, timed([trial.network], self.judge.example)[0]
            return self.first[1]
        network, before = self.first
        ms, now = timed([trial.network, network], self.judge.example)
        return ms * before / now

    def _predicted(self, assignment: Assignment) -> float:
        return self.rest + sum(self.options[name][bits].ms for name, bits in assignment.items() if bits in self.options[name])

    def _error(self, assignment: Assignment) -> float:
        found = 0.0
        for name, bits in assignment.items():
            if bits is not None:
                found += self.sensitivities.error(name, bits)
        return found

    def _solved(self, least: Quantity, ms: float | None = None) -> Assignment | None:
        """The program's choice, of at most so many predicted ms; the byte budget always counts."""
        limits: dict[Quantity, float] = {} if ms is None else {"ms": ms - self.rest}
        if self.budget.max_bytes is not None:
            limits["nbytes"] = self.budget.max_bytes - self.other_bytes
        chosen: Chosen | None = solve(self.useful, least, limits)
        return None if chosen is None else {name: option.bits for name, option in chosen.items()}

    def _uniform(self) -> list[tuple[str, Assignment]]:
        """One pair throughout, and the same with at least 8 bits in the first and the last layer."""
        found: list[tuple[str, Assignment]] = []
        for pair in self.pairs:
            same: Assignment = dict.fromkeys(self.names, pair)
            found.append((str(pair), same))
            ends = assignment_of(str(pair), self.names, 8)
            if ends != same and all(bits in self.pairs for bits in ends.values()):
                found.append((self._label(pair), ends))
        return found

    @staticmethod
    def _label(pair: Bits) -> str:
        return str(pair) if pair == Bits(8, 8) else f"{pair}, ends W8A8"

    # -- the search ------------------------------------------------------------------------------------------------------------------

    def run(self) -> Quantized:
        """The choice. ValueError where there is none."""
        if isinstance(self.budget.max_ms, (int, float)):
            self.outcome.limit = float(self.budget.max_ms)
        elif reference := self.budget.reference():
            share, pair = reference
            self.outcome.limit = share * self._tried(assignment_of(str(pair), self.names, 8), self._label(pair)).ms
        if self.budget.max_drop is not None:
            self._by_accuracy()
        else:
            self._by_error()
        tried = [trial for trial in self.trials.values() if not math.isnan(trial.accuracy)]
        self._time(tried)
        if not any(self._within(trial) for trial in tried):  # rounding anew changes neither milliseconds nor bytes
            raise ValueError(self.outcome.nearest(tried))
        final = self._finals(tried) if self.alone else tried
        best = self._best(final, tried)
        anew = [trial.assignment for trial in final]
        best.quantized.choice = self.outcome.choice(best, final, [trial for trial in tried if trial.assignment not in anew])
        return best.quantized

    def _time(self, tried: Sequence[Trial], more: int = 1) -> None:
        """Time all of them by the same rounds, and with them what the budget refers to. more: times as many rounds."""
        if self.target:
            return
        trials, share = list(tried), 1.0
        if reference := self.budget.reference():
            share, pair = reference
            named = assignment_of(str(pair), self.names, 8)
            of = next((trial for trial in trials if trial.assignment == named), None) or self._tried(named, self._label(pair))
            trials += [] if any(trial is of for trial in trials) else [of]
        for trial, ms in zip(trials, timed([trial.network for trial in trials], self.judge.example, more), strict=True):
            trial.ms = ms
        if reference:
            self.outcome.limit = share * of.ms

    def _best(self, final: list[Trial], tried: Sequence[Trial]) -> Trial:
        """The best of those that are final, which keeps the budget by more rounds than trials are timed by. ValueError where none does.

        The fastest of many trials is one that was lucky with the clock, and a network that is loaded again may get other kernels. So where
        none of the final ones keeps the budget, more trials are rounded anew.
        """
        if self.outcome.limit is not None:
            self._time(final, _MORE_ROUNDS)
        more = [trial for trial in self._ranked([trial for trial in tried if self._keeps(trial)]) if self.alone]
        for _ in range(_ATTEMPTS):
            for slack in (_SURE, _NOISE):
                if kept := [trial for trial in final if self._keeps(trial, slack)]:
                    return min(kept, key=self._rank)
            other = next((trial for trial in more if trial.assignment not in [one.assignment for one in final]), None)
            if other is None:
                break
            self.anew.round(other)  # into what is final
            self._time(final, _MORE_ROUNDS)
        raise ValueError(self.outcome.nearest(final))

    def _rank(self, trial: Trial) -> tuple[float, ...]:
        """The best is the smallest."""
        if self.budget.max_drop is not None:
            return trial.ms, -trial.accuracy
        return -trial.accuracy, self._error(trial.assignment), trial.ms

    def _finals(self, tried: list[Trial]) -> list[Trial]:
        """Round the best ones anew, each layer by what the quantized layers before it give: those are what is chosen from."""
        seconds = min(_FINAL_SECONDS, _FINAL_SHARE * (time.perf_counter() - self.begin))
        self.anew = anew = Anew(self.network, self.judge, self.how, seconds, self._keeps, self.progress, self.known.anew)
        nearest = sorted(tried, key=self.outcome.miss)[:1]
        if self.budget.max_drop is not None:
            anew.from_fastest(sorted(filter(self._within, tried), key=lambda trial: trial.ms) or nearest)
            self._between(anew)
            return anew.found
        return anew.from_best(self._ranked([trial for trial in tried if self._keeps(trial)]) or nearest)

    def _between(self, anew: Anew) -> None:
        """By halves from the fastest one that is accurate enough, rounded anew, towards the slowest that is faster and is not."""
        kept = min((trial for trial in anew.found if self._keeps(trial)), key=lambda trial: trial.ms, default=None)
        fastest = self._solved("ms")
        if kept is None or fastest is None:
            return
        high = self._predicted(kept.assignment)
        others = (self._predicted(trial.assignment) for trial in anew.found if not self._keeps(trial))
        low = max((ms for ms in others if ms < high), default=self._predicted(fastest))
        for _ in range(_ATTEMPTS):
            if high / low < 1 + _NOISE or anew.time_is_up():
                return
            middle = (low + high) / 2
            chosen = self._solved("error", middle)
            if chosen is None or any(trial.assignment == chosen for trial in anew.found):
                low = middle
            elif anew.round(self._tried(chosen, "auto")):
                high = self._predicted(chosen)
            else:
                low = middle

    def _ranked(self, kept: list[Trial]) -> list[Trial]:
        """From the best on, but the second is one that the choice must not be worse than: what the budget refers to, else a uniform one."""
        kept = sorted(kept, key=self._rank)
        reference = self.budget.reference()
        if reference and reference[0] == 1:
            rivals = [assignment_of(str(reference[1]), self.names, 8)]
        else:
            rivals = [assignment for _, assignment in self._uniform()]
        second = next((trial for trial in kept[1:] if trial.assignment in rivals), None)
        return kept if second is None else [kept[0], second, *(trial for trial in kept[1:] if trial is not second)]

    def _within(self, trial: Trial, slack: float = _NOISE) -> bool:
        """Whether it keeps the budgets of milliseconds and bytes."""
        limit, most = self.outcome.limit, self.budget.max_bytes
        return (limit is None or trial.ms <= limit * (1 + slack)) and (most is None or trial.network.nbytes <= most)

    def _keeps(self, trial: Trial, slack: float = _NOISE) -> bool:
        drop = self.budget.max_drop
        return self._within(trial, slack) and (drop is None or trial.accuracy >= self.judge.float_accuracy - drop)

    def _by_error(self) -> None:
        """Try the choice with the least error within the budget, corrected by what it takes in truth; and uniform ones."""
        limit = self.outcome.limit
        wanted = math.inf if limit is None else limit
        self._try_program(limit)
        self._others(1.1 * wanted)
        if not any(self._keeps(trial) for trial in self.trials.values()):
            # The fastest ones by prediction, whatever they are worth: one may keep the budget, and one is the nearest.
            for label, assignment in sorted(self._uniform(), key=lambda rival: self._predicted(rival[1]))[:_UNIFORM]:
                self._tried(assignment, label)

    def _try_program(self, limit: float | None) -> None:
        """The choices with the least predicted error, at predicted times that are corrected by what their networks take in truth."""
        fastest = self._solved("ms")
        if fastest is None:  # the bytes: as few as can be
            self._tried(self._smallest(), "auto")
            return
        if limit is None:
            self._tried(self._solved("error") or fastest, "auto")
            return
        low, high, aim = self._predicted(fastest), math.inf, limit
        for _ in progress_bar(range(_ATTEMPTS), self.progress, "choose", "network"):
            chosen = self._solved("error", aim) or fastest
            predicted, ms = self._predicted(chosen), self._tried(chosen, "auto").ms
            if abs(ms / limit - 1) <= _NOISE or (ms > limit and chosen == fastest):
                return
            if ms > limit:
                high = min(aim, predicted)
            else:
                low = max(low, aim)
            # What is predicted of the next one is off by as much; where that says nothing new, halfway.
            aim = limit * predicted / ms
            if not low < aim < high:
                if math.isinf(high):
                    return  # even the most accurate one is faster
                aim = (low + high) / 2

    def _smallest(self) -> Assignment:
        chosen = solve(self.useful, "nbytes", {})
        assert chosen is not None
        return {name: option.bits for name, option in chosen.items()}

    def _by_accuracy(self) -> None:
        """The fastest choice that is accurate enough: the predicted front, searched by halves, and the uniform ones that are faster."""
        front = self._front()
        low, high = 0, len(front) - 1  # ascending ms: the last one is the most accurate
        if not self._accurate(front[high], "auto"):
            self._others(math.inf)
            return
        while low < high:
            middle = (low + high) // 2
            if self._accurate(front[middle], "auto"):
                high = middle
            else:
                low = middle + 1
        found = self._tried(front[high], "auto")
        self._others(1.05 * found.ms)

    def _others(self, ms: float) -> None:
        """Try the uniform networks that should take less, those with the least predicted error."""
        rivals = sorted(
            ((self._error(a), label, a) for label, a in self._uniform() if self._predicted(a) <= ms), key=lambda rival: rival[0]
        )
        for _, label, assignment in progress_bar(rivals[:_UNIFORM], self.progress, "compare", "network"):
            self._tried(assignment, label)

    def _accurate(self, assignment: Assignment, label: str) -> bool:
        assert self.budget.max_drop is not None
        return self._tried(assignment, label).accuracy >= self.judge.float_accuracy - self.budget.max_drop

    def _front(self) -> list[Assignment]:
        """Choices from the fastest to the most accurate one, by prediction, each different."""
        fastest, best = self._solved("ms"), self._solved("error")
        if fastest is None or best is None:
            return [self._smallest()]
        low, high = self._predicted(fastest), self._predicted(best)
        found: dict[tuple[Any, ...], Assignment] = {}
        # Closer to each other at the fast end, where a little time decides much.
        for ms in progress_bar(low + (high - low) * np.linspace(0, 1, _FRONT) ** 2, self.progress, "choose", "program"):
            chosen = self._solved("error", float(ms) * (1 + 1e-6) + 1e-9)
            if chosen is not None:
                found[tuple(chosen.items())] = chosen
        found[tuple(best.items())] = best
        return sorted(found.values(), key=self._predicted)
