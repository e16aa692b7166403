"""What each layer's widths cost in accuracy: how far the outputs move if only its weights, or only what it reads, are rounded.

The relative squared error of the outputs, sum (y' - y)^2 / sum y^2 over calibration data, of channels of like units. Rounding errors of
different layers are nearly independent, so that the errors of a choice add up; for small errors they are the quadratic form of the
second-order expansion, measured rather than calculated. Only the nodes that depend on the layer run again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ulp._progress import progress_bar
from ulp.nn.quantizer import Quantizer
from ulp.onnx.model import Array
from ulp.onnx.session import Session

from .batches import Batch, some_rows
from .network import FloatNetwork
from .outliers import of_layers, restored
from .prepare import Layer
from .ranges import quantizer_of
from .request import Bits
from .running import Piece
from .weights import Settled, quantized_weight

# Multiply-accumulates that all runs may take together: half a minute to a minute at what onnxruntime makes of floats on two cores.
_WORK = 6e11
_MIN_ROWS, _MAX_ROWS = 4, 64
# Where even the smallest number of inputs would take longer, outputs are looked at for this width only, and others follow by their error in
# the layer's own result.
_ANCHOR = 4


@dataclass(frozen=True)
class Sensitivities:
    """The relative squared error of the outputs by layer and width, of weights and of activations."""

    weights: Mapping[tuple[str, int], float]
    activations: Mapping[tuple[str, int], float]

    def error(self, layer: str, bits: Bits) -> float:
        """Both together."""
        return self.weights[layer, bits.weight] + self.activations[layer, bits.activation]


def sensitivities(
    network: FloatNetwork, pairs: Sequence[Bits], rounded: Mapping[tuple[str, int], Settled] | None = None, *, progress: bool = False
) -> Sensitivities:
    """Of every layer, at all widths that the pairs have.

    rounded: the weights, and biases, by layer and width; those that it does not name are rounded to the nearest.
    """
    widths = sorted({pair.weight for pair in pairs}), sorted({pair.activation for pair in pairs})
    total = max(1, sum(layer.macs for layer in network.layers))
    rows = int(_WORK / (total * max(1, len(network.layers)) * (len(widths[0]) + len(widths[1]))))
    some = some_rows(network.batches, min(max(rows, _MIN_ROWS), _MAX_ROWS), network._prepared.inputs)
    probe = _Probe(network, some, rounded or {}, all_widths=rows >= _MIN_ROWS)
    weights: dict[tuple[str, int], float] = {}
    activations: dict[tuple[str, int], float] = {}
    for layer in progress_bar(network.layers, progress, "sensitivity", "layer"):
        of_weights, of_activations = probe.of(layer, *widths)
        weights |= {(layer.name, width): error for width, error in of_weights.items()}
        activations |= {(layer.name, width): error for width, error in of_activations.items()}
    return Sensitivities(weights, activations)


class _Probe:
    """Runs the model behind one layer again, with another result of that layer."""

    def __init__(
        self, network: FloatNetwork, batches: Sequence[Batch], rounded: Mapping[tuple[str, int], Settled], *, all_widths: bool
    ) -> None:
        self.network = network
        self.rounded = rounded
        self.all_widths = all_widths
        prepared = network._prepared
        self.outliers = of_layers(network.layers, network._outliers)
        self.proto = prepared.proto
        self.outputs = [name for name in prepared.outputs if name not in prepared.constants]
        kept = dict.fromkeys([*self.outputs, *(layer.x for layer in network.layers), *(layer.y for layer in network.layers)])
        kept = {name: None for name in kept if name not in {port.name for port in prepared.inputs}}
        whole = Piece(self.proto, self.proto.graph.node, list(kept), set())
        self.tensors: list[dict[str, Array]] = [{**batch, **whole(batch)} for batch in batches]
        self.units = [_Units([tensors[name] for tensors in self.tensors]) for name in self.outputs]
        self.readers: dict[str, list[Any]] = {}
        for node in self.proto.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def of(self, layer: Layer, weight_widths: Sequence[int], act_widths: Sequence[int]) -> tuple[dict[int, float], dict[int, float]]:
        """Errors by width, of rounded weights and of rounded activations."""
        weight = self.network._prepared.constants[layer.weight]
        alone = _alone(self.proto, layer)
        tail = self._behind(layer)

        def rounded_weights(width: int) -> list[Array]:
            settled = self.rounded.get((layer.name, width))
            made = settled.weight if settled else quantized_weight(layer, weight, width)
            bias = settled.bias if settled and not layer.added else None
            values = made.values()
            if settled and layer.name in self.outliers:
                values = restored(values, weight, layer, self.outliers[layer.name])
            return [self._result(alone, layer, tensors[layer.x], values, bias) for tensors in self.tensors]

        def rounded_inputs(width: int) -> list[Array]:
            quantizer = self._quantizer(layer, width)
            return [self._result(alone, layer, quantizer.round_trip(tensors[layer.x]), weight) for tensors in self.tensors]

        return self._errors(layer, tail, weight_widths, rounded_weights), self._errors(layer, tail, act_widths, rounded_inputs)

    def _errors(self, layer: Layer, tail: Piece | None, widths: Sequence[int], results: Any) -> dict[int, float]:
        if self.all_widths:
            return {width: self._error(layer, tail, results(width)) for width in widths}
        anchor = min(widths, key=lambda width: abs(width - _ANCHOR))
        local: dict[int, float] = {}
        at_anchor = 0.0
        for width in widths:
            made = results(width)
            local[width] = sum(_power(y - tensors[layer.y]) for y, tensors in zip(made, self.tensors, strict=True))
            if width == anchor:
                at_anchor = self._error(layer, tail, made)
        unit = local[anchor] or math.inf
        return {width: at_anchor * value / unit for width, value in local.items()}

    def _quantizer(self, layer: Layer, width: int) -> Quantizer:
        self.network._observe([layer.x])
        return quantizer_of(self.network._observers[layer.x], width, "mse", 100)

    def _behind(self, layer: Layer) -> Piece | None:
        """What follows the layer, as a function of its result; None if that is the output."""
        moved, todo = {layer.y}, [layer.y]
        while todo:
            for node in self.readers.get(todo.pop(), ()):
                todo += [name for name in node.output if name not in moved]
                moved.update(node.output)
        wanted = [name for name in self.outputs if name in moved and name != layer.y]
        given = {name for name in self.tensors[0] if name not in moved} | {layer.y}
        return Piece(self.proto, self.proto.graph.node, wanted, given) if wanted else None

    def _result(self, alone: Session, layer: Layer, x: Array, weight: Array, bias: Array | None = None) -> Array:
        if not layer.bias:
            y = np.asarray(alone([x, weight])[0])
            return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2 if layer.op_type == "Conv" else 0))
        own = self.network._prepared.constants[layer.bias]
        return np.asarray(alone([x, weight, own if bias is None else bias.reshape(own.shape)])[0])

    def _error(self, layer: Layer, tail: Piece | None, results: Sequence[Array]) -> float:
        moved = [{layer.y: y, **(tail({**tensors, layer.y: y}) if tail else {})} for y, tensors in zip(results, self.tensors, strict=True)]
        found = 0.0
        for name, units in zip(self.outputs, self.units, strict=True):
            if name in moved[0]:
                found += units.error([one[name] - tensors[name] for one, tensors in zip(moved, self.tensors, strict=True)])
        # Outputs count alike, whatever their units.
        return found / max(1, len(self.outputs))


class _Units:
    """The relative squared error of one output, whose channels may have different units, as boxes in pixels beside probabilities.

    Channels are the shorter of the axes 1 and -1. They are put in groups by their largest value, all up to 1 together; a group ends
    where the next channel's is over ten times larger. Groups count alike.
    """

    def __init__(self, exact: Sequence[Array]) -> None:
        self.groups: list[Any] = [slice(None)]
        self.axis = 0
        if exact[0].ndim > 1 and exact[0].dtype.kind == "f":
            axis = min((1, exact[0].ndim - 1), key=lambda i: exact[0].shape[i])
            if len({y.shape[axis] for y in exact}) == 1:
                self.axis = axis
                self.groups = _like(np.max([np.abs(y).max(axis=self._others(y), initial=0) for y in exact], axis=0))
        self.power = self._squares(exact)

    def error(self, differences: Sequence[Array]) -> float:
        shares = [square / power for square, power in zip(self._squares(differences), self.power, strict=True) if power]
        return sum(shares) / max(1, len(self.groups))

    def _others(self, y: Array) -> tuple[int, ...]:
        return tuple(i for i in range(y.ndim) if i != self.axis)

    def _squares(self, tensors: Sequence[Array]) -> list[float]:
        if len(self.groups) == 1:
            return [sum(map(_power, tensors))]
        by_channel = np.sum([np.square(y, dtype=np.float64).sum(axis=self._others(y)) for y in tensors], axis=0)
        return [float(by_channel[group].sum()) for group in self.groups]


def _like(largest: Array) -> list[Array]:
    """Indices of channels by group."""
    order = np.argsort(largest, kind="stable")
    sizes = np.maximum(largest[order], 1)
    return np.split(order, np.flatnonzero(sizes[1:] > 10 * sizes[:-1]) + 1)


def _power(x: Array) -> float:
    return float(np.square(x, dtype=np.float64).sum()) if x.dtype.kind == "f" else 0.0


def _alone(proto: Any, layer: Layer) -> Session:
    """The layer's node with its weights as an input."""
    from onnx import ModelProto, helper

    node = type(proto.graph.node[layer.index])()
    node.CopyFrom(proto.graph.node[layer.index])
    del node.input[:]
    node.input.extend(["x", "w", *(["b"] if layer.bias else [])])
    del node.output[:]
    node.output.append("y")
    inputs = [helper.make_tensor_value_info(name, 1, None) for name in node.input]
    graph = helper.make_graph([node], "layer", inputs, [helper.make_tensor_value_info("y", 1, None)])
    model = ModelProto()
    model.CopyFrom(helper.make_model(graph, opset_imports=list(proto.opset_import), ir_version=proto.ir_version or 10))
    return Session(model.SerializeToString(), layer.name)
