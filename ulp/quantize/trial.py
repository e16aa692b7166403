"""A network that `bits="auto"` tries: how long a call takes, and what its results are worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ulp.nn.profile import clock_ns
from ulp.onnx.model import Array

from . import latency
from .network import FloatNetwork
from .options import check_metric
from .request import Assignment
from .result import Quantized

_SAMPLE_NS = 1_000_000
# Rounds, and how many nanoseconds of them are enough.
_ROUNDS, _LEAST_ROUNDS, _ENOUGH_NS = 15, 5, 1_500_000_000


@dataclass
class Trial:
    """ms and accuracy: NaN until they are known."""

    label: str
    assignment: Assignment
    quantized: Quantized
    network: Any = field(repr=False)
    ms: float = math.nan
    accuracy: float = math.nan


def timed(networks: Sequence[Any], example: Mapping[str, Array], more: int = 1) -> list[float]:
    """Milliseconds of a call of each: the minimum over rounds through all of them, by the clock that profiles use. more: times as many."""
    now = clock_ns()

    def sample(network: Any, calls: int) -> float:
        begin = now()
        for _ in range(calls):
            network(**example)
        return (now() - begin) / calls

    calls, round_ns = [], 0.0
    for network in networks:
        sample(network, 2)
        once = max(sample(network, 1), 1e3)
        calls.append(max(1, round(_SAMPLE_NS / once)))
        round_ns += calls[-1] * once
    best = [math.inf] * len(networks)
    for _ in range(more * max(_LEAST_ROUNDS, min(_ROUNDS, round(_ENOUGH_NS / max(round_ns, 1.0))))):
        for i, network in enumerate(networks):
            best[i] = min(best[i], sample(network, calls[i]))
    return [nanoseconds * 1e-6 for nanoseconds in best]


class Judge:
    """What a network is worth.

    name: of the metric. float_accuracy: of the float model. example: what is timed, by input.
    """

    def __init__(self, network: FloatNetwork, metric: Callable[[Any], float] | None, example: Any) -> None:
        self.network = network
        self.metric = metric
        self.example = _example(network, example)
        if metric is None:
            first = network.outputs()[0][0]
            self.axis = _class_axis(first)
            self.name = "closeness to float, %" if self.axis is None else "agreement with float, %"
            self.float_accuracy = 100.0
            return
        check_metric(metric)
        self.name = "metric"
        self.float_accuracy = self._by_metric(float_model(network))

    def accuracy(self, candidate: Any) -> float:
        """More is better."""
        return self._agreement(candidate) if self.metric is None else self._by_metric(candidate)

    def _by_metric(self, candidate: Any) -> float:
        assert self.metric is not None
        given: Any = self.metric(candidate)
        try:
            value = math.nan if isinstance(given, bool) else float(given)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"metric gave {given!r}: expected a finite number, of which more is better")
        return value

    def _agreement(self, candidate: Any) -> float:
        names = [port.name for port in candidate.outputs]
        equal = count = 0
        noise = signal = 0.0
        for batch, floats in zip(self.network.batches, self.network.outputs(), strict=True):
            made = candidate(**batch)
            given = [made[name] for name in names] if isinstance(made, dict) else [made]
            if self.axis is not None:
                same = given[0].argmax(axis=self.axis) == floats[0].argmax(axis=self.axis)
                equal += int(same.sum())
                count += same.size
                continue
            for y, exact in zip(given, floats, strict=True):
                noise += float(np.square(y - exact, dtype=np.float64).sum())
                signal += float(np.square(exact, dtype=np.float64).sum())
        return 100 * equal / count if count else 100 * max(0.0, 1 - math.sqrt(noise / signal)) if signal else 100.0

    def signatures(self) -> dict[str, str]:
        """Of each layer, what its time depends on besides bits."""
        from .running import Piece

        prepared = self.network._prepared
        inputs = {port.name for port in prepared.inputs}
        read = list(dict.fromkeys(layer.x for layer in prepared.layers if layer.x not in inputs))
        shapes = {name: array.shape for name, array in self.example.items()}
        if read:
            made = Piece(prepared.proto, prepared.proto.graph.node, read, set())(dict(self.example))
            shapes |= {name: array.shape for name, array in made.items()}
        found = {}
        for layer in prepared.layers:
            attributes = {a.name: list(a.ints) or a.i or a.f or a.s.decode() for a in prepared.proto.graph.node[layer.index].attribute}
            found[layer.name] = latency.signature(layer.op_type, shapes[layer.x], layer.shape, attributes)
        return found


def float_model(network: FloatNetwork) -> Any:
    """The float model as something to call like a quantized one."""
    from ulp.onnx import load

    from .batches import open_shapes

    prepared = network._prepared
    return load(prepared.proto, shapes=open_shapes(prepared.inputs, network.batches) or None, tune=False, progress=False)


def _class_axis(output: Array) -> int | None:
    """Along which classes lie: the second side of (N, classes), or of probabilities, which sum to 1, the side that they lie along."""
    if output.dtype.kind != "f":
        return None
    if output.ndim == 2:
        return 1 if output.shape[1] > 1 else None
    sides = (1, output.ndim - 1) if output.ndim > 2 and output.min() >= 0 else ()
    return next((i for i in sides if output.shape[i] > 1 and np.allclose(output.sum(axis=i), 1, atol=1e-3)), None)


def _example(network: FloatNetwork, example: Any) -> dict[str, Array]:
    ports = network._prepared.inputs
    if example is None:
        first = network.batches[0]
        fixed = any(port.shape is None or isinstance(port.shape[0] if port.shape else 1, int) for port in ports)
        return dict(first) if fixed else {name: array[:1] for name, array in first.items()}
    from .batches import batches_of

    return batches_of(example, ports)[0] if not isinstance(example, Mapping) else batches_of([example], ports)[0]
