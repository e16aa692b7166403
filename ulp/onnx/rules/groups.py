"""Products with weights in groups, of MatMulNBits and of DequantizeLinear with a block_size: what the rules of layers.py share."""

from __future__ import annotations

import math

import numpy as np

from ulp.grouped import MAX_GROUP, GroupedMatrix
from ulp.nn import graph as ir
from ulp.onnx import views
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger, QuantizedConstant
from ulp.packed import pack

from .operands import floats_of

# accuracy_level of a MatMulNBits whose activations are to be integers of 8 bits (ContribOperators.md).
_INT8 = 4


def has_groups(weights: QuantizedConstant) -> bool:
    """Whether scales or zero points of integers (O, features) differ within an output."""
    return weights.integers.ndim == 2 and max(weights.scale.shape[1], weights.zero.shape[1]) > 1


def in_groups(scope: Scope, node: Node, x: Value, weights: QuantizedConstant, bias: QuantizedConstant | Array | None) -> Value:
    """The product of codes, or of floats that are quantized in the call, with such integers."""
    shape = weights.integers.shape
    scale, zero = (np.broadcast_to(each, shape) for each in (weights.scale, weights.zero))
    group = _group_of(scale, zero)
    low, high = int(weights.integers.min(initial=0)), int(weights.integers.max(initial=0))
    bits = max((high - low).bit_length(), 1)
    if bits > 8:
        raise NotInteger("its weights do not fit 8 bits")
    codes = (weights.integers.astype(np.int16) - low).T.astype(np.uint8)
    return product(scope, node, x, matrix_of(codes, bits, scale[:, ::group], zero[:, ::group] - low, group), bias)


def _group_of(*parameters: Array) -> int:
    """The longest groups of features that have one scale and zero point each."""
    changes = np.zeros(parameters[0].shape[1], bool)
    for array in parameters:
        changes[1:] |= (array[:, 1:] != array[:, :-1]).any(axis=0)
    return math.gcd(*np.flatnonzero(changes).tolist(), 0) or len(changes)


def matrix_of(codes: Array, bits: int, scale: Array, zero: Array, group: int) -> GroupedMatrix:
    """From codes (K, N); scale and zero (N, groups)."""
    if group > MAX_GROUP:
        raise NotInteger(f"its groups of {group} weights are longer than {MAX_GROUP}")
    with np.errstate(over="ignore"):
        scales = np.ascontiguousarray(scale.T, np.float32)
    points = np.ascontiguousarray(zero.T, np.float32)
    if not (np.isfinite(scales).all() and np.isfinite(points).all() and (np.abs(points) <= 2**16).all()):
        raise NotInteger("a scale or a zero point of its weights is out of range")
    first = points.reshape(-1)[0]
    one = (points == first).all() and float(first).is_integer() and 0 <= first < 2**bits
    return pack(np.ascontiguousarray(codes), bits, scales=scales, zero_points=int(first) if one else points, group_size=group)


def _bias(bias: QuantizedConstant | Array | None, outputs: int) -> Array | None:
    """float32 (O,), or None."""
    if bias is None:
        return None
    values = bias.values() if isinstance(bias, QuantizedConstant) else bias
    if values.size not in (1, outputs) or not np.isfinite(values).all():
        raise NotInteger(f"its bias has {values.size} values for {outputs} outputs, or one that is not finite")
    return np.array(np.broadcast_to(values.astype(np.float32).reshape(-1), (outputs,)))


def product(scope: Scope, node: Node, x: Value, matrix: GroupedMatrix, given: QuantizedConstant | Array | None) -> Value:
    """Of a vector, or of each pixel of what has its features last; a bias per output may be given."""
    shape = views.shape_of(x)
    features, outputs = matrix.shape
    if not shape or shape[-1] != features:
        raise OnnxError(f"{node}: weights of {features} features do not fit an input of shape [N, {', '.join(map(str, shape))}]")
    op = ir.GroupedLinear(matrix, _bias(given, outputs), x.grid is None, x.grid)
    if len(shape) == 1:
        x = views.image(x)
        return Value(x.part, scope.add(node, op, [x.node], x.part, (outputs,)))
    x = views.tokens(x)
    made = scope.add(node, op, [x.node], x.part, (outputs, *x.node.shape[1:]))
    places = views.ordered(outputs, math.prod(made.shape[1:])).T.reshape(*shape[:-1], outputs)
    return Value(x.part, made, view=places)


def source(scope: Scope, node: Node) -> Value:
    """What is multiplied: codes, whose integers the file gives, or floats where it says that they are to be integers of 8 bits."""
    name = node.inputs[0]
    inside = name in scope.values or name in scope.grids
    if inside:
        x = floats_of(scope, name, viewed=True)
        if x.grid is not None:
            return x
    if int(node.attributes.get("accuracy_level", 0)) != _INT8:
        raise NotInteger("its activations are floats, and its accuracy_level does not ask for integers of 8 bits, which is 4")
    if inside:
        if x.function is not None:
            raise NotInteger("its input is a function of codes")
        return x
    part = scope.part(name)
    return Value(part, part.input(name), view=views.root_view(part.input(name)))
