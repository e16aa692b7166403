"""What rules share: the values and constants that a node reads, and the windows that it lays over an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ulp.nn import graph as ir
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.operators import OPERATORS
from ulp.onnx.operators.registry import Call
from ulp.onnx.operators.windows import Geometry, geometry
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger, QuantizedConstant


def floats_of(scope: Scope, name: str) -> Value:
    """A value that is floats."""
    value = scope.value(name)
    if value.integers is not None:
        raise NotInteger("it computes with integers that nothing dequantizes")
    return value


def quantized_of(scope: Scope, name: str) -> Value:
    """A value that holds codes of a known quantizer."""
    value = floats_of(scope, name)
    if value.grid is None:
        raise NotInteger("its input is not quantized")
    return value


def image_of(value: Value) -> tuple[int, int, int]:
    """(channels, height, width). NotInteger where the value is no image."""
    if len(value.node.shape) != 3:
        raise NotInteger(f"its input has shape [N, {', '.join(map(str, value.node.shape))}], expected (N, C, H, W)")
    channels, height, width = value.node.shape
    return channels, height, width


def known(scope: Scope, name: str, what: str) -> QuantizedConstant | Array:
    """A constant, as integers if it has them. NotInteger where it is computed."""
    if name in scope.quantized:
        return scope.quantized[name]
    if name in scope.constants:
        return scope.constants[name]
    raise NotInteger(f"its {what} is computed, not constant")


def per_channel(array: Array, x: Value) -> Array:
    """A constant operand of the value as float64 (C,). NotInteger where it differs by pixel."""
    shape = x.node.shape
    sides = (1,) * (1 + len(shape) - array.ndim) + array.shape
    if len(sides) != 1 + len(shape) or any(side != 1 for i, side in enumerate(sides) if i != 1) or sides[1] not in (1, shape[0]):
        raise NotInteger(f"its constant of shape {list(array.shape)} has not one value per channel")
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (shape[0],))


def quantized_weights(scope: Scope, name: str) -> QuantizedConstant:
    """The integers of a constant. NotInteger where it has none."""
    weights = known(scope, name, "weight")
    if isinstance(weights, QuantizedConstant):
        return weights
    # Floats that are integers: FINN leaves the scales to what follows the layer.
    if weights.dtype.kind == "f" and (np.abs(weights) <= 255).all() and (np.rint(weights) == weights).all():
        ones = (1,) * weights.ndim
        return QuantizedConstant(weights.astype(np.int16), np.ones(ones), np.zeros(ones, np.int64))
    raise NotInteger("its weights are not quantized")


def on_grid(scope: Scope, node: Node, value: Value) -> ir.Node:
    """The value's node as a Quantize, which changes nothing: a sum, a normalisation or a float result can begin there."""
    if isinstance(value.node.op, ir.Quantize) or value.grid is None:
        return value.node
    return scope.add(node, ir.Quantize(value.grid), [value.node], value.part, value.node.shape)


def kept(scope: Scope, node: Node, value: Value, made: ir.Node) -> Value:
    """What an operation that only moves codes gives: codes of the same quantizer, if the value holds some."""
    moved = replace(value, node=made, integers=value.integers and replace(value.integers, origin=None))
    return replace(moved, node=on_grid(scope, node, moved))


def window_geometry(scope: Scope, node: Node, image: tuple[int, ...], kernel: tuple[int, ...], ceil: bool = False) -> Geometry:
    """How the node's windows lie over an image (C, H, W), which may get a frame of its padding."""
    try:
        attributes = OPERATORS[node.op_type].row(scope.opset).check_attributes(node.attributes)
        g = geometry(Call(attributes, scope.opset, 1, scope.limits), image[1:], kernel, ceil)
        scope.limits.check_tensor([image[0], *map(sum, zip(image[1:], g.before, g.after, strict=True))], 1)
        return g
    except OnnxError as error:
        raise OnnxError(f"{node}: {error}") from error
