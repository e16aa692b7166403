"""Equalizing channels: factors moved from a tensor into the weights that multiply it, and out of what makes it.

A layer reads all channels of a tensor with one scale, which the widest channel decides. With x / s and W s in place of x and W nothing
changes in floats, and narrow channels get more of the codes. Between two layers it is cross-layer equalization (Nagel et al., ICCV 2019,
section 4.1), behind a normalization it smooths outliers into the weights (SmoothQuant, Xiao et al., ICML 2023, equation 4):

    s_c = max |x_c|^a / max |W_c|^(1 - a)

In front of depthwise layers, whose weights have a scale per channel anyway, a = 1 gives each channel a range of its own. Weights have a
scale per output, so that dividing those of the layer in front costs nothing there. Which tensors get factors, and a, is decided by the
error of the results of the layers that read them, on calibration data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp.nn.observer import Observer
from ulp.onnx.model import Array

from .batches import Batch, spread_rows
from .moments import products
from .places import OF_ROWS, tables
from .prepare import Layer, Prepared, prepared_of
from .ranges import quantizer_of
from .running import Piece
from .weights import rounded, rows_of, scales_by_error

Doubles = npt.NDArray[np.float64]

_ALPHAS = (0.25, 0.5, 0.75, 1.0)
# Widths at which the error must not grow, and the share of it that must go: where that is little, as little is known from some inputs.
_WIDTHS, _GAIN = (8, 4), 0.9
# That behind a table of codes, which with factors per channel becomes a step of its own, as slow as a layer.
_TABLE_GAIN = 0.3
# Inputs that are looked at, results of a layer, multiplications of one trial, and values of which a range is found.
_INPUTS, _RESULTS, _OPERATIONS, _COUNTED = 16, 512, 1e8, 2**14
# How far a channel's factor may lie from the mean of all: beyond, float32 would lose what is small.
_LARGEST = 1024.0
# Operators through which a positive factor of a channel passes.
_HOMOGENEOUS = (
    *("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout"),
    *("MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool"),
)


@dataclass
class _Route:
    """How x / s is made instead of x.

    divided: constants (node index, input index) that are divided by s, with the axis of s. behind: an operator has to do it, since what
    makes x is a table of codes, which then has a row per channel.
    """

    x: str
    readers: list[Layer]
    channels: int
    divided: list[tuple[int, int, int]] = field(default_factory=list)
    multiplied: list[tuple[int, int, int]] = field(default_factory=list)
    behind: bool = False


def equalized(prepared: Prepared, batches: Sequence[Batch], *, of_rows: bool = False) -> Prepared:
    """The same function with equalized channels; the same object where nothing is gained.

    of_rows: linear layers quantize rows in the call, so that activations in front of them are no tables.
    """
    routes = [route for route in _Routes(prepared).found() if not (of_rows and route.behind and route.readers[0].op_type in OF_ROWS)]
    if not routes:
        return prepared
    some = spread_rows(batches, _INPUTS, prepared.inputs)
    piece = Piece(prepared.proto, prepared.proto.graph.node, [route.x for route in routes])
    values = [piece(batch) for batch in some]
    factors = {route.x: _factors(prepared, route, [made[route.x] for made in values]) for route in routes}
    return _applied(prepared, [(route, s) for route in routes if (s := factors[route.x]) is not None])


class _Routes:
    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.nodes = prepared.proto.graph.node
        self.uses = prepared.readers()
        self.makers = {name: index for index, node in enumerate(self.nodes) for name in node.output}
        self.layers = {layer.index: layer for layer in prepared.layers}
        self.tables = tables(prepared)

    def found(self) -> list[_Route]:
        """Of every tensor that only layers read and that can be made with factors."""
        readers: dict[str, list[Layer]] = {}
        for layer in self.prepared.layers:
            readers.setdefault(layer.x, []).append(layer)
        routes = []
        for x, layers in readers.items():
            if len(layers) != self.uses[x] or any(layer.op_type == "ConvTranspose" or self.uses[layer.weight] > 1 for layer in layers):
                continue
            of_images = {layer.op_type == "Conv" for layer in layers}
            ranks = {len(layer.shape) for layer in layers} if True in of_images else {0}
            if len(of_images) > 1 or len(ranks) > 1 or len({_channels(layer) for layer in layers}) > 1:
                continue
            # Axes count from the end: how many sides a product's input has is nothing to it.
            route = _Route(x, layers, _channels(layers[0]))
            axis = -1 if of_images == {False} else 1 - ranks.pop()
            if self._made(x, axis, route):
                routes.append(route)
        return routes

    def _made(self, name: str, axis: int, route: _Route) -> bool:
        """Whether what makes the tensor can give it divided by s along an axis; the route says how then."""
        while name in self.makers:
            index = self.makers[name]
            node = self.nodes[index]
            computed = [i for i, given in enumerate(node.input) if given and given not in self.prepared.constants]
            if index in self.layers:
                return self._layer(index, axis, route)
            if name in self.tables:
                route.behind = name == route.x
                return route.behind
            if len(computed) != 1:
                return False
            if node.op_type in ("LayerNormalization", "BatchNormalization"):
                # Sides count from the end: of vectors and images it is known which one a BatchNormalization scales.
                if route.readers[0].op_type == ("MatMul" if node.op_type == "BatchNormalization" else "Conv"):
                    return False
                return self._constants(index, [i for i in (1, 2) if i < len(node.input) and node.input[i]], -1, route.divided)
            if node.op_type in ("Mul", "Div", "Add", "Sub"):
                (own,) = computed
                given = [i for i in range(2) if i != own]
                if node.op_type == "Div":
                    return own == 0 and self._constants(index, given, axis, route.multiplied)
                if not self._constants(index, given, axis, route.divided):
                    return False
                if node.op_type == "Mul":
                    return True
                name = node.input[own]
            elif node.op_type in _HOMOGENEOUS:
                name = node.input[computed[0]]
            else:
                return False
            if self.uses[name] > 1:
                return False
        return False

    def _constants(self, index: int, inputs: Sequence[int], axis: int, scaled: list[tuple[int, int, int]]) -> bool:
        node = self.nodes[index]
        if not all(node.input[i] in self.prepared.constants for i in inputs):
            return False
        scaled += [(index, i, axis) for i in inputs]
        return True

    def _layer(self, index: int, axis: int, route: _Route) -> bool:
        layer, node = self.layers[index], self.nodes[index]
        if self.uses[layer.weight] > 1 or (layer.op_type == "ConvTranspose" and layer.groups > 1):
            return False
        if layer.shape[layer.axis] != route.channels or axis != (1 - len(layer.shape) if layer.op_type.startswith("Conv") else -1):
            return False
        route.divided.append((index, 1, layer.axis - len(layer.shape)))
        return self._constants(index, [i for i in (2,) if len(node.input) > i and node.input[i]], -1, route.divided)


def _channels(layer: Layer) -> int:
    """How many channels it reads."""
    return layer.shape[1] * layer.groups if layer.op_type == "Conv" else layer.shape[1 - layer.axis]


def _factors(prepared: Prepared, route: _Route, values: Sequence[Array]) -> Doubles | None:
    """s (C,), of a mean of 1; None where nothing is gained."""
    axis = 1 if route.readers[0].op_type == "Conv" else values[0].ndim - 1
    others = tuple(i for i in range(values[0].ndim) if i != axis)
    reach = np.max([np.abs(x).max(axis=others) for x in values], axis=0).astype(np.float64)
    if not np.isfinite(reach).all() or not (reach > 0).any():
        return None
    trials = [_Trial.of(prepared, layer, values) for layer in route.readers]
    heaviest = np.max([trial.heaviest() for trial in trials], axis=0)
    depthwise = all(layer.groups > 1 and layer.shape[1] == 1 for layer in route.readers)
    before = {bits: _noise(trials, np.ones_like(reach), bits) for bits in _WIDTHS}
    best, least = None, math.log(_TABLE_GAIN if route.behind else _GAIN)
    for alpha in _ALPHAS[-1:] if depthwise else _ALPHAS:
        s = _scaled(reach, heaviest, alpha)
        gains = [math.log((_noise(trials, s, bits) + 1e-30) / (noise + 1e-30)) for bits, noise in before.items()]
        if max(gains) <= 0 and (gain := sum(gains) / len(gains)) < least:
            best, least = s, gain
    return best


def _scaled(reach: Doubles, heaviest: Doubles, alpha: float) -> Doubles:
    """Factors whose geometric mean is 1; of channels that hold nothing, or that nothing reads, 1."""
    used = (reach > 0) & (heaviest > 0)
    s = np.ones_like(reach)
    s[used] = reach[used] ** alpha / heaviest[used] ** (1 - alpha)
    if used.any():
        s[used] /= np.exp(np.log(s[used]).mean())
    return np.clip(s, 1 / _LARGEST, _LARGEST)


@dataclass
class _Trial:
    """A layer with what it multiplies: x float32 (g, rows, K), weights (g, R, K), and the channel of each column (g, K)."""

    x: Array
    weights: Array
    channels: npt.NDArray[np.intp]
    exact: Array

    @classmethod
    def of(cls, prepared: Prepared, layer: Layer, values: Sequence[Array]) -> _Trial:
        node = prepared.proto.graph.node[layer.index]
        opset = next(o.version for o in prepared.proto.opset_import if o.domain in ("", "ai.onnx"))
        k = math.prod(layer.shape) // layer.shape[layer.axis]
        rows = int(min(_RESULTS, max(32, _OPERATIONS // math.prod(layer.shape)))) // len(values) or 1
        rng = np.random.default_rng(0)
        x = np.concatenate([products(layer, node, (value,), opset, rows, rng)[0] for value in values], axis=1)
        weights = rows_of(prepared.constants[layer.weight], layer.axis).reshape(layer.groups, -1, k)
        taps = math.prod(layer.shape[2:]) if layer.op_type == "Conv" else 1
        channels = np.arange(layer.groups * k).reshape(layer.groups, k) // taps
        return cls(x, weights, channels, x @ np.swapaxes(weights, 1, 2))

    def heaviest(self) -> Doubles:
        """max |W_c| (C,)."""
        found = np.zeros(self.channels.max() + 1)
        np.maximum.at(found, self.channels, np.abs(self.weights).max(axis=1))
        return found

    def noise(self, s: Doubles, bits: int) -> tuple[float, float]:
        """The squared error of the results with x / s and W s of so many bits, and their power."""
        columns = s[self.channels][:, None]
        x = (self.x / columns).astype(np.float32)
        observer = Observer()
        observer.add(np.array([x.min(), x.max()], np.float32))
        observer.add(x.reshape(-1)[:: x.size // _COUNTED | 1])  # an odd step meets all channels
        codes = quantizer_of(observer, bits, "mse", 100).round_trip(x)
        rows = (self.weights * columns).reshape(-1, columns.shape[-1])
        scale = scales_by_error(rows, bits)
        low = (rounded(rows, scale, bits) * scale).reshape(self.weights.shape).astype(np.float32)
        error = np.square(codes @ np.swapaxes(low, 1, 2) - self.exact, dtype=np.float64).sum()
        return float(error), float(np.square(self.exact, dtype=np.float64).sum())


def _noise(trials: Sequence[_Trial], s: Doubles, bits: int) -> float:
    """The relative squared errors of all readers' results, summed."""
    return sum(error / power for error, power in (trial.noise(s, bits) for trial in trials) if power)


def _applied(prepared: Prepared, chosen: Sequence[tuple[_Route, Doubles]]) -> Prepared:
    """The model with these factors."""
    from onnx import ModelProto, helper, numpy_helper

    if not chosen:
        return prepared
    proto = ModelProto()
    proto.CopyFrom(prepared.proto)
    nodes = list(proto.graph.node)
    made: dict[tuple[int, int], Doubles] = {}
    behind: dict[str, Any] = {}

    def scale(index: int, i: int, factors: Doubles) -> None:
        value = made.get((index, i))
        if value is None:
            value = prepared.constants[nodes[index].input[i]].astype(np.float64)
        made[index, i] = value * factors

    for route, s in chosen:
        for index, i, axis in route.divided:
            scale(index, i, along(1 / s, axis))
        for index, i, axis in route.multiplied:
            scale(index, i, along(s, axis))
        for layer in route.readers:
            scale(layer.index, 1, _of_weights(layer, s))
        if route.behind:
            name = f"{route.x}/equalized"
            sides = s.size, *[1] * (len(route.readers[0].shape) - 2 if route.readers[0].op_type == "Conv" else 0)
            proto.graph.initializer.append(numpy_helper.from_array((1 / s).reshape(sides).astype(np.float32), f"{name}/factors"))
            behind[route.x] = helper.make_node("Mul", [route.x, f"{name}/factors"], [name], name=name)
            for layer in route.readers:
                nodes[layer.index].input[0] = name
    for (index, i), value in made.items():
        name = f"{nodes[index].input[i]}/equalized{index}"
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        nodes[index].input[i] = name
    ordered = [node for one in nodes for node in (one, *(behind[name] for name in one.output if name in behind))]
    copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
    used = {name for node in copies for name in node.input} | set(prepared.outputs)
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(copies)
    proto.graph.initializer.extend(type(tensor).FromString(tensor.SerializeToString()) for tensor in kept)
    return prepared_of(proto, prepared.inputs, prepared.outputs, {layer.name: layer.first for layer in prepared.layers})


def along(s: Doubles, axis: int) -> Doubles:
    """(C,) as it broadcasts along an axis that is counted from the end."""
    return s.reshape(-1, *[1] * (-axis - 1))


def _of_weights(layer: Layer, s: Doubles) -> Doubles:
    """The factors of what a layer reads, as its weights are multiplied by them."""
    if layer.op_type != "Conv":
        return along(s, -2 if layer.axis == 1 else -1)  # (K, O), or (O, K) of a Gemm that transposes them
    # (O, C / g, ...): which channel a weight reads depends on the group of its output.
    factors = np.repeat(s.reshape(layer.groups, -1), layer.shape[0] // layer.groups, axis=0)
    return factors.reshape(*factors.shape, *[1] * (len(layer.shape) - 2))
