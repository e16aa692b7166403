"""Codes that thresholds on sums decide: roundings other than rint, MultiThreshold, and activation functions that rise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ulp.nn import graph as ir
from ulp.nn.curves import Function, through
from ulp.nn.quantizer import Quantizer, Steps
from ulp.onnx import views
from ulp.onnx.model import Array, Node
from ulp.onnx.operators.qonnx import rounding
from ulp.onnx.parts import Value, comes_from_sums
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger

from .operands import floats_of, on_grid, per_channel

# Of each rounding: what it rounds to n or more, for n > 0 and for n <= 0: numbers from n + offset on, and whether that one is among them.
_ROUNDINGS: dict[str, tuple[tuple[float, bool | None], tuple[float, bool | None]]] = {
    "ROUND": ((-0.5, None), (-0.5, None)),  # None: where n is even
    "HALF_EVEN": ((-0.5, None), (-0.5, None)),
    "CEIL": ((-1, False), (-1, False)),
    "FLOOR": ((0, True), (0, True)),
    "UP": ((-1, False), (0, True)),
    "DOWN": ((0, True), (-1, False)),
    "ROUND_TO_ZERO": ((0, True), (-1, False)),
    "HALF_UP": ((-0.5, True), (-0.5, False)),
    "HALF_DOWN": ((-0.5, False), (-0.5, True)),
    "DPU": ((-0.5, None), (-0.5, True)),
}

RINT = ("ROUND", "HALF_EVEN")


def rounding_of(node: Node, default: str) -> str:
    """The node's rounding. NotInteger where nobody knows it."""
    mode = str(node.attributes.get("rounding_mode", default)).upper()
    if mode not in _ROUNDINGS:
        raise NotInteger(f"it rounds by {mode}, which is unknown")
    return mode


def interval_of(node: Node, bits: float, narrow: int = 0, mode: str = "ROUND") -> tuple[int, int]:
    """The integers of QONNX's Quant and Trunc. A fractional width ends between two of them, before it is rounded."""
    if not 1 <= bits <= 16:
        raise NotInteger(f"its bit width is {bits:g}, and integers have 1 to 8")
    signed, narrow = node.attributes.get("signed", 1), bool(node.attributes.get("narrow", narrow))
    ends = (narrow - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1 - narrow)
    low, high = (int(rounding(mode)(np.float64(end))) for end in ends)
    if high - low > 255:
        raise NotInteger(f"its bit width is {bits:g}, and integers have 1 to 8")
    return low, high


def _quotients(levels: int, low: int, high: int, mode: str) -> tuple[Array, Array]:
    """From where on numbers are rounded to low + 1 .. low + levels or more, infinity past high, and whether that bound is among them."""
    n = np.arange(low + 1, low + levels + 1)
    (above, above_equal), (below, below_equal) = _ROUNDINGS[mode]
    even = n % 2 == 0
    inclusive = np.where(n > 0, even if above_equal is None else above_equal, even if below_equal is None else below_equal)
    return np.where(n <= high, n + np.where(n > 0, above, below), np.inf), inclusive.astype(np.bool_)


def by_rounding(quantizer: Quantizer, low: int, high: int, mode: str) -> Quantizer:
    """The quantizer of the integers low..high, code 0 being low, that rounds x / scale + zero by `mode`, all in float32 as QONNX does."""
    bounds, inclusive = _quotients(quantizer.levels, low, high, mode)
    of_quotients = Quantizer(quantizer.bits, 1.0, quantizer.zero, steps=Steps(bounds[None], inclusive[None]))
    scale, zero = np.float32(quantizer.scale), np.float32(quantizer.zero + low)
    made = through(of_quotients, lambda x: x.astype(np.float32) / scale + zero, -math.inf, math.inf)
    return replace(quantizer, steps=made.steps)


def exactly_by_rounding(quantizer: Quantizer, low: int, mode: str) -> Quantizer:
    """As `by_rounding`, of all integers of the quantizer, but for real numbers x: nothing is rounded before."""
    bounds, inclusive = _quotients(quantizer.levels, low, low + quantizer.levels, mode)
    return replace(quantizer, steps=Steps((bounds - (quantizer.zero + low))[None] * quantizer.scale, inclusive[None]))


def sums_of(scope: Scope, node: Node, value: Value) -> ir.Node:
    """What the value's codes come from, if thresholds can decide them; codes become sums of one product each. NotInteger else."""
    if comes_from_sums(value.node):
        return value.node
    if isinstance(value.node.op, ir.WindowMean):
        return scope.add(node, _averages(value.node.op, value.node.inputs[0].shape), value.node.inputs, value.part, value.node.shape)
    if value.grid is None or ir.layout(value.node)[2] != value.node.shape[0]:
        raise NotInteger("its thresholds are of what is no result of a convolution or linear layer, and not quantized")
    ones = np.ones(value.node.shape[0])
    return scope.add(node, ir.BatchNorm(ones, np.zeros_like(ones)), [on_grid(scope, node, value)], value.part, value.node.shape)


def _averages(op: ir.WindowMean, image: ir.Shape) -> ir.Conv:
    """An average over an image (C, H, W) as a depthwise convolution of ones. NotInteger where windows differ."""
    kernel, strides, channels = [], [], image[0]
    for edges, side in zip((op.rows, op.columns), image[1:], strict=True):
        sizes, starts = edges[:, 1] - edges[:, 0], np.diff(edges[:, 0])
        if (sizes != sizes[0]).any() or (starts != starts[:1]).any() or edges[0, 0] or (starts < 1).any():
            raise NotInteger("its thresholds are of averages over windows of different sizes")
        kernel.append(int(sizes[0]))
        strides.append(int(starts[0]) if len(starts) else side)
        if (side - kernel[-1]) // strides[-1] + 1 != len(edges):
            raise NotInteger("its thresholds are of averages over a part of the image")
    if (op.divisor != op.divisor.flat[0]).any():
        raise NotInteger("its thresholds are of averages over windows of different sizes")
    scale = np.full(channels, 1 / np.float64(op.divisor.flat[0]))
    ones = ir.Weights(np.ones((channels, 1, kernel[0], kernel[1]), np.int8), 2, scale, np.zeros(channels))
    return ir.Conv(ones, op.quantizer, (strides[0], strides[1]), (0, 0, 0, 0), (1, 1), channels)


def codes_by_steps(scope: Scope, node: Node, quantizer: Quantizer, value: Value | None = None) -> Value:
    """The value, else the node's first input, as codes of a quantizer with steps, or of signs."""
    value = value or floats_of(scope, node.inputs[0])
    source = sums_of(scope, node, value)
    rows = 1 if quantizer.steps is None else len(quantizer.steps.bounds)
    if rows not in (1, ir.layout(source)[2]):
        raise NotInteger(f"it has thresholds for {rows} channels, and its input has {ir.layout(source)[2]}")
    return Value(value.part, scope.add(node, ir.Quantize(quantizer), [source], value.part, source.shape), quantizer)


# Trunc.


def truncated(scope: Scope, node: Node, reach: tuple[float, float] | None = None) -> Quantizer:
    """The quantizer that a Trunc is. reach: between which its input lies, if known. NotInteger where its results do not fit 8 bits."""
    mode = rounding_of(node, "FLOOR")
    parameters = [scope.scalar(name, what) for name, what in zip(node.inputs[1:], _TRUNC_INPUTS, strict=False)]
    scale, zero, in_bits, fifth = parameters[:4]
    with np.errstate(all="ignore"):
        shift = np.log2(np.float32(fifth) / np.float32(scale)) if len(parameters) > 4 else np.float32(in_bits - fifth)
    if not (scale > 0 and 1 <= in_bits <= 32 and fifth > 0 and abs(shift) <= 64):
        raise NotInteger(f"its scales {scale:g} and {fifth:g} or its bit width {in_bits:g} are out of range")
    if len(parameters) > 4:
        steps = 2.0 ** round(float(shift))
        low, high = interval_of(node, parameters[4], 0, mode)
        out_scale, out_zero = fifth, zero / steps
    else:
        steps = 2.0 ** (in_bits - fifth)
        # Nothing is clamped, and whether the input is signed, only the input says.
        ends = (-(2 ** (in_bits - 1)), 2**in_bits - 1) if reach is None else tuple(np.rint(end / scale + zero) for end in reach)
        if not all(map(math.isfinite, ends)):
            raise NotInteger(f"its scale {scale:g} is out of range")
        low, high = (int(rounding(mode)(np.float64(end / steps))) for end in ends)
        out_scale, out_zero = scale, zero
    if high - low > 255 or not low <= 0 <= high:
        raise NotInteger(f"its integers from {low} to {high} do not fit 8 bits")
    if out_zero % 1 or not low <= out_zero <= high:
        raise NotInteger(f"its zero point {zero:g} is none of its results' integers from {low} to {high}")
    try:
        plain = Quantizer(max(1, (high - low).bit_length()), 1.0, -low)
        by_mode = by_rounding(plain, low, high, mode)
        divisor, offset, factor = np.float32(scale), np.float32(zero), np.float32(steps)
        made = through(by_mode, lambda x: np.rint(x.astype(np.float32) / divisor + offset) / factor, -math.inf, math.inf)
        return replace(made, scale=out_scale, zero=int(out_zero) - low)
    except ValueError as error:
        raise NotInteger(str(error)) from error


_TRUNC_INPUTS = ("scale", "zero point", "bit width", "output scale or bit width", "bit width")


def trunc(scope: Scope, node: Node) -> Value:
    """QONNX Trunc: the low bits of what x / scale counts are dropped."""
    value = floats_of(scope, node.inputs[0])
    grid = value.node.op.quantizer if isinstance(value.node.op, ir.WindowMean) else value.grid
    reach = None if grid is None else (-grid.zero * grid.scale, (grid.levels - grid.zero) * grid.scale)
    return codes_by_steps(scope, node, truncated(scope, node, reach))


# MultiThreshold.


def _grid_of_thresholds(scope: Scope, node: Node) -> Quantizer:
    """The quantizer of a MultiThreshold's results. NotInteger where they are no multiples of one scale, of 8 bits."""
    given = scope.array(node.inputs[1], "thresholds")
    if given.ndim == 0:
        raise NotInteger("its thresholds are a scalar")
    thresholds = np.sort(given.astype(np.float64), axis=-1)
    scale, bias = float(node.attributes.get("out_scale", 1.0)), float(node.attributes.get("out_bias", 0.0))
    if thresholds.ndim != 2 or np.isnan(thresholds).any():
        raise NotInteger("its thresholds are not numbers of shape [channels, steps]")
    if not scale > 0:
        raise NotInteger(f"its out_scale is {scale:g}")
    repeat = next((r for r in (1, 2, 4) if float(-bias / scale * r).is_integer()), 0)
    zero = int(-bias / scale * repeat) if repeat else 0
    below = max(0, -zero)
    levels = below + thresholds.shape[1] * repeat
    if not repeat or max(levels, zero) > 255:
        raise NotInteger(f"its results from {bias:g} on in steps of {scale:g} do not fit 8 bits")
    bits = max(1, max(levels, zero).bit_length())
    bounds = np.full((len(thresholds), 2**bits - 1), np.inf)
    bounds[:, :below] = -np.inf
    bounds[:, below:levels] = np.repeat(thresholds, repeat, axis=1)
    try:
        return Quantizer(bits, scale / repeat, max(0, zero), steps=Steps(bounds, np.ones(bounds.shape, np.bool_)))
    except ValueError as error:
        raise NotInteger(str(error)) from error


def multi_threshold(scope: Scope, node: Node) -> Value:
    """FINN's MultiThreshold: how many thresholds of its channel x reaches, times out_scale, plus out_bias."""
    quantizer = _grid_of_thresholds(scope, node)
    x = floats_of(scope, node.inputs[0], viewed=True)
    layout, sides = node.attributes.get("data_layout", ""), len(views.shape_of(x))
    if sides == 2:  # QONNX takes them for rows unless told otherwise
        rows = layout in ("", "NWC")
        if not rows and layout not in ("NCW", "NCHW", "NC"):
            raise NotInteger(f"its data_layout is {layout}")
        image = replace(views.tokens(x) if rows else views.line(x), view=None)
        made = codes_by_steps(scope, node, quantizer, image)
        places = views.ordered(image.node.shape[0], math.prod(image.node.shape[1:]))
        return replace(made, view=places.T if rows else places)
    if layout not in ("", "NCHW", "NC") and sides != 1:
        raise NotInteger(f"its data_layout is {layout}")
    return codes_by_steps(scope, node, quantizer)


def grid_of_thresholds(scope: Scope, node: Node) -> Quantizer:
    """On which grid the results of a MultiThreshold lie that runs in floats."""
    return replace(_grid_of_thresholds(scope, node), steps=None)


# Activation functions.


def _leaky_relu(slope: Array | float) -> Function:
    return lambda x: np.where(x < 0, x * np.asarray(slope, np.float64), x)


def _elu(alpha: float, gamma: float = 1.0, unit: float = 1.0) -> Function:
    return lambda x: gamma * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0) / unit), x)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(x * 0.5))


_Make = Callable[[Mapping[str, Any]], Function]

_CURVES: dict[str, _Make] = {
    "LeakyRelu": lambda a: _leaky_relu(np.float32(a.get("alpha", 0.01))) if a.get("alpha", 0.01) >= 0 else _refuse(),
    "Elu": lambda a: _elu(a.get("alpha", 1.0)) if a.get("alpha", 1.0) >= 0 else _refuse(),
    "Celu": lambda a: _elu(a.get("alpha", 1.0), unit=a.get("alpha", 1.0)) if a.get("alpha", 1.0) > 0 else _refuse(),
    "Selu": lambda a: _elu(a.get("alpha", 1.67326319217681884765625), a.get("gamma", 1.05070102214813232421875)) if not a else _refuse(),
    "Sigmoid": lambda _: _sigmoid,
    "Tanh": lambda _: np.tanh,
    "Softplus": lambda _: lambda x: np.logaddexp(0, x),
    "Softsign": lambda _: lambda x: x / (1 + np.abs(x)),
    "HardSigmoid": lambda a: (
        (lambda x: np.clip(np.float32(a.get("alpha", 0.2)) * x + np.float32(a.get("beta", 0.5)), 0, 1))
        if a.get("alpha", 0.2) >= 0
        else _refuse()
    ),
}


def _refuse() -> Function:
    raise NotInteger("it falls somewhere, or its attributes are unusual")


def curve(scope: Scope, node: Node) -> Value:
    """An activation function that never falls: thresholds on the sums before it decide the codes behind it."""
    return curved(scope, node, _CURVES[node.op_type](node.attributes), floats_of(scope, node.inputs[0], viewed=True))


def prelu(scope: Scope, node: Node) -> Value:
    """PRelu with one slope per channel, or one for all, none of them negative."""
    x = floats_of(scope, node.inputs[0], viewed=True)
    slope = scope.array(node.inputs[1], "slope")
    if not (slope >= 0).all():
        raise NotInteger("its slope is negative somewhere")
    return curved(scope, node, _leaky_relu(per_channel(slope, x)[:, None] if slope.size > 1 else slope.reshape(-1, 1)), x)


def curved(scope: Scope, node: Node, function: Function, x: Value) -> Value:
    """A function that never falls, of numbers (C, n), between sums and the codes that thresholds on these decide."""
    source = sums_of(scope, node, x)
    return Value(x.part, scope.add(node, ir.Curve(function), [source], x.part, source.shape), view=x.view)


CURVES = {**dict.fromkeys(_CURVES, curve), "PRelu": prelu}
