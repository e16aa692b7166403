"""What `bits="auto"` says of its choice: the table of layers and the points of the front; where nothing keeps the budget, the nearest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ulp import _core
from ulp.nn.profile import counts_cpu_time

from . import latency
from .budget import Budget
from .network import FloatNetwork
from .pareto import Choice, LayerChoice, Point
from .program import Option
from .request import Assignment, Bits
from .trial import Judge, Trial


class Outcome:
    """Of one search. limit: the milliseconds that the budget allows, None for any; set once they are known."""

    def __init__(
        self,
        network: FloatNetwork,
        budget: Budget,
        judge: Judge,
        target: str | None,
        options: Mapping[str, Mapping[Bits, Option]],
        error: Callable[[Assignment], float],
    ) -> None:
        self.network, self.budget, self.judge, self.target, self.options, self.error = network, budget, judge, target, options, error
        self.limit: float | None = None

    def choice(self, best: Trial, final: Sequence[Trial], others: Sequence[Trial]) -> Choice:
        """What was chosen, with all that was tried. final: the trials that it was chosen from."""
        names = [layer.name for layer in self.network.layers]
        times: Mapping[str, float] = {}
        if not self.target:
            times = latency.times_of(best.network.profile(**self.judge.example, runs=9), names)
        rows = [
            LayerChoice(
                layer.name,
                layer.op_type,
                bits,
                times[layer.name] if times else self.options[layer.name][bits].ms,
                self.options[layer.name][bits].error,
            )
            for layer in self.network.layers
            if (bits := best.assignment[layer.name]) is not None
        ]
        clock = (
            f"modelled for {self.target}"
            if self.target
            else "CPU time of one thread"
            if counts_cpu_time()
            else f"{_core.num_threads()} threads"
        )
        points = [self._point(trial) for trial in final] + [self._point(trial, final=False) for trial in others]
        judge = self.judge
        return Choice(rows, self._point(best), points, judge.float_accuracy, judge.name, self._asked(), clock)

    def miss(self, trial: Trial) -> float:
        """By which share the budget is missed."""
        budget = self.budget
        drop = 0.0 if budget.max_drop is None else max(0.0, self.judge.float_accuracy - budget.max_drop - trial.accuracy) / 100
        ms = 0.0 if self.limit is None else max(0.0, trial.ms / self.limit - 1)
        size = 0.0 if budget.max_bytes is None else max(0.0, trial.network.nbytes / budget.max_bytes - 1)
        return drop + ms + size

    def nearest(self, tried: Sequence[Trial]) -> str:
        """What the error says: the network that misses the budget by the smallest share."""
        budget = self.budget
        near = min(tried, key=self.miss)
        widths: dict[str, int] = {}
        for bits in near.assignment.values():
            widths[str(bits)] = widths.get(str(bits), 0) + 1
        mix = ", ".join(f"{count} x {bits}" for bits, count in sorted(widths.items(), key=lambda item: -item[1]))
        asked = ", ".join(f"{name}={value:g}" for name, value in self._asked().items())
        if isinstance(budget.max_ms, str):
            asked += f" ({budget.max_ms})"
        return (
            f"{asked} cannot be kept: the nearest choice takes {near.ms:.4g} ms and {near.network.nbytes} bytes, with {self.judge.name} "
            f"{near.accuracy:.2f} (float {self.judge.float_accuracy:.2f}); layers: {mix}"
        )

    def _asked(self) -> dict[str, float]:
        values = {"max_ms": self.limit, "max_drop": self.budget.max_drop, "max_bytes": self.budget.max_bytes}
        return {name: value for name, value in values.items() if value is not None}

    def _point(self, trial: Trial, final: bool = True) -> Point:
        return Point(trial.label, trial.assignment, trial.ms, trial.accuracy, self.error(trial.assignment), trial.network.nbytes, final)
