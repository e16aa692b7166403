"""What follows layers: batch normalisation, arithmetic with constants, shortcuts, ReLU and Clip."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ulp.nn import graph as ir
from ulp.nn.quantizer import Quantizer
from ulp.onnx import views
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.parts import Value, comes_from_sums, takes_sum, without_floats
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger

from . import quantizers
from .operands import alike, floats_of, known, on_grid, per_channel
from .sequences import masked, together
from .steps import curved


def affine(scope: Scope, node: Node, x: Value, scale: Array, shift: Array) -> Value:
    """x * scale[c] + shift[c], which becomes part of the layer in front.

    A max pooling in between stays behind it. Where scale[c] < 0, the pooling then takes the minimum of the channel. So does a ReLU where
    all scales are positive and nothing is added. Behind a Clip or an activation, positive scales become part of thresholds.
    """
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise NotInteger("its constants are not finite")
    factors = (x, scale) if x.grid is not None and (scale > 0).all() and not shift.any() else None
    behind_function = x.grid is None and isinstance(x.node.op, (ir.Clamp, ir.Curve)) and comes_from_sums(x.node) and (scale > 0).all()
    try:
        return Value(x.part, _affine(scope, node, x, x.node, scale, shift), scaled=factors, view=x.view)
    except NotInteger:
        if not behind_function or ir.layout(x.node)[2] != len(scale):
            raise
    return curved(scope, node, lambda sums: sums * scale[:, None] + shift[:, None], x)


def _affine(scope: Scope, node: Node, x: Value, source: ir.Node, scale: Array, shift: Array) -> ir.Node:
    op = ir.BatchNorm(scale, shift)
    if x.grid is not None:
        if ir.layout(source)[2] != len(scale):
            raise NotInteger("it scales a flattened image")
        return scope.add(node, op, [on_grid(scope, node, x)], x.part, source.shape)
    passed: list[tuple[ir.MaxPool | ir.Clamp, ir.Shape]] = []
    keeps_signs = bool((scale > 0).all()) and not shift.any()
    while isinstance(source.op, ir.MaxPool) or (isinstance(source.op, ir.Clamp) and keeps_signs and _is_relu(source.op)):
        passed.append((source.op, source.shape))
        source = source.inputs[0]
    by_one_factor = isinstance(source.op, ir.Product) and bool((scale == scale[0]).all()) and not shift.any()
    adds = isinstance(source.op, ir.DynamicLinear) and not source.op.weights.bias.any() and bool((scale == 1).all())
    if not isinstance(source.op, (ir.Conv, ir.Linear, ir.BatchNorm)) and not by_one_factor and not adds:
        raise NotInteger("no layer whose weights it could become part of comes right before it")
    made = scope.add(node, op, [source], x.part, source.shape)
    for before, shape in reversed(passed):
        made = scope.add(node, _turned(before, scale) if isinstance(before, ir.MaxPool) else before, [made], x.part, shape)
    return made


def _turned(pool: ir.MaxPool, scale: Array) -> ir.MaxPool:
    """The pooling behind a multiplication by scale (C,)."""
    falls = (scale < 0) ^ (False if pool.falls is None else pool.falls)
    return replace(pool, falls=falls if falls.any() else None)


def _is_relu(op: ir.Clamp) -> bool:
    return op.low in (0, -math.inf) and op.high == math.inf


def batch_normalization(scope: Scope, node: Node) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias."""
    x = floats_of(scope, node.inputs[0], viewed=True)
    if views.channel_axis(x) != 0:
        x = floats_of(scope, node.inputs[0])
    if node.attributes.get("training_mode", 0):
        raise NotInteger("it is in training mode")
    parameters = []
    for name, what in zip(node.inputs[1:5], ("scale", "bias", "mean", "variance"), strict=True):
        known(scope, name, what)
        array = scope.constant(name)
        assert array is not None
        if array.shape != (x.node.shape[0],):
            raise OnnxError(f"{node}: its {what} has shape {list(array.shape)}, expected [{x.node.shape[0]}]")
        parameters.append(array.astype(np.float64))
    gamma, beta, mean, variance = parameters
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    return affine(scope, node, x, scale, beta - mean * scale)


def _operands(scope: Scope, node: Node) -> tuple[Value, Array, bool]:
    """(value, constant (C,), whether the constant comes first)"""
    first = scope.is_constant(node.inputs[0])
    if not first and not scope.is_constant(node.inputs[1]):
        raise NotInteger("both of its operands are computed")
    x = floats_of(scope, node.inputs[1 if first else 0], viewed=True)
    array = scope.constant(node.inputs[0 if first else 1])
    assert array is not None
    return x, per_channel(array, x), first


def _combined(scope: Scope, node: Node, operands: list[Value], multiply: bool) -> Value:
    """The sum or product of what several nodes computed, by a step of its own. Codes where there are some, else floats."""
    quantizers = tuple(value.grid for value in operands)
    for value in operands:
        if value.grid is None and without_floats(value.node) is not None:
            raise NotInteger("one of its operands is neither floats nor quantized")
    op, part, first = ir.Combine(multiply, quantizers), scope.join(operands), operands[0]
    return Value(part, scope.add(node, op, [value.node for value in operands], part, first.node.shape), view=first.view)


def _product(scope: Scope, node: Node) -> Value:
    """x * y, both computed; one may be a pixel that counts for all, as in squeeze and excitation."""
    one, other = alike([floats_of(scope, name, viewed=True) for name in node.inputs])
    if one.node.shape[1:] == (1, 1):
        one, other = other, one
    if one.node.shape != other.node.shape and (len(one.node.shape) != 3 or other.node.shape != (one.node.shape[0], 1, 1)):
        raise NotInteger("its operands have different shapes")
    if ir.layout(one.node) != ir.layout(other.node) and ir.layout(other.node)[:2] != (1, 1):
        raise NotInteger("it multiplies a flattened image by what never was one")
    return _combined(scope, node, [one, other], True)


def multiply(scope: Scope, node: Node) -> Value:
    """x * constant, or x * y."""
    if not any(scope.is_constant(name) for name in node.inputs):
        return _product(scope, node)
    x, constant, _ = _operands(scope, node)
    return affine(scope, node, x, constant, np.zeros_like(constant))


def divide(scope: Scope, node: Node) -> Value:
    """x / constant."""
    x, constant, first = _operands(scope, node)
    if first:
        raise NotInteger("it divides by what is computed")
    with np.errstate(all="ignore"):
        return affine(scope, node, x, 1 / constant, np.zeros_like(constant))


def subtract(scope: Scope, node: Node) -> Value:
    """x - constant, or constant - x."""
    x, constant, first = _operands(scope, node)
    one = np.ones_like(constant)
    return affine(scope, node, x, -one, constant) if first else affine(scope, node, x, one, -constant)


def add(scope: Scope, node: Node) -> Value:
    """A shortcut, or x + constant."""
    if any(scope.is_constant(name) for name in node.inputs):
        x, constant, _ = _operands(scope, node)
        return affine(scope, node, x, np.ones_like(constant), constant)
    if (sum_of_scores := masked(scope, node)) is not None:
        return sum_of_scores
    one, other = alike(together(scope, list(node.inputs)))
    if one.node.shape != other.node.shape:
        raise NotInteger("its operands have different shapes")
    if other.grid is None:
        one, other = other, one
    if ir.layout(one.node) != ir.layout(other.node):
        raise NotInteger("it adds a flattened image to what never was one")
    if one.grid is not None or other.grid is None or not takes_sum(one.node):
        return _combined(scope, node, [one, other], False)
    part = scope.join([one, other])
    return Value(part, scope.add(node, ir.Add(other.grid), [one.node, other.node], part, one.node.shape), view=one.view)


def total(scope: Scope, node: Node) -> Value:
    """Sum of two tensors."""
    if len(node.inputs) != 2:
        raise NotInteger(f"it adds {len(node.inputs)} tensors, and integer parts add two")
    return add(scope, node)


def relu(scope: Scope, node: Node) -> Value:
    """max(x, 0)."""
    x = floats_of(scope, node.inputs[0])
    return _clamped(scope, node, x, 0.0, math.inf)


def clip(scope: Scope, node: Node) -> Value:
    """Bounds for floats; or, between QuantizeLinear and DequantizeLinear, fewer bits."""
    bounds = [-math.inf, math.inf]
    for i, key in enumerate(("min", "max")):
        if node.input(i + 1):
            bounds[i] = scope.scalar(node.input(i + 1), key)
        elif key in node.attributes:
            bounds[i] = float(node.attributes[key])
    x = scope.value(node.inputs[0])
    if not bounds[0] <= bounds[1]:
        raise NotInteger(f"its bounds {bounds[0]:g} and {bounds[1]:g} leave nothing")
    if x.integers is not None:
        return quantizers.clip_integers(scope, node, x, bounds[0], bounds[1])
    return _clamped(scope, node, x, bounds[0], bounds[1])


def _clamped(scope: Scope, node: Node, x: Value, low: float, high: float) -> Value:
    """Codes where the bounds are codes. Thresholds that made them say nothing about the clamped values: of -1 and +1, a ReLU makes 0."""
    made = scope.add(node, ir.Clamp(low, high), [x.node], x.part, x.node.shape)
    grid = x.grid.by_rint() if x.grid is not None and x.grid.of_sums else x.grid
    on_grid = grid is not None and all(_is_code(grid, bound) for bound in (low, high))
    return Value(x.part, made, grid if on_grid else None)


def _is_code(grid: Quantizer, bound: float) -> bool:
    return math.isinf(bound) or float(grid.round_trip(np.array([bound], np.float32))[0]) == np.float32(bound)
