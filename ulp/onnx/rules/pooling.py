"""Pooling of codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ulp.nn import graph as ir
from ulp.nn.shapes import areas
from ulp.onnx.model import Node
from ulp.onnx.operators.windows import Geometry
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger

from .operands import image_of, kept, quantized_of, window_geometry


def _edges(g: Geometry, axis: int, side: int) -> ir.Indices:
    """int32 (windows, 2): begin and end of each window, within the image and on its steps of the dilation."""
    start = np.arange(g.out[axis]) * g.stride[axis] - g.before[axis]
    outside = np.maximum(0, -start)
    begin = start + -(-outside // g.dilation[axis]) * g.dilation[axis]
    end = np.minimum(start + g.dilation[axis] * (g.kernel[axis] - 1) + 1, side)
    if (begin >= end).any():
        raise NotInteger("one of its windows lies wholly in the padding")
    return np.stack([begin, end], axis=1).astype(np.int32)


def _windows(scope: Scope, node: Node, x: Value) -> tuple[Geometry, ir.Indices, ir.Indices]:
    _, height, width = image = image_of(x)
    kernel = tuple(int(side) for side in node.attributes.get("kernel_shape", ()))
    g = window_geometry(scope, node, image, kernel, bool(node.attributes.get("ceil_mode", 0)))
    return g, _edges(g, 0, height), _edges(g, 1, width)


def max_pool(scope: Scope, node: Node) -> Value:
    """MaxPool. Of integers, too: it commutes with their zero point."""
    x = scope.value(node.inputs[0])
    g, rows, columns = _windows(scope, node, x)
    op = ir.MaxPool(rows, columns, (g.dilation[0], g.dilation[1]))
    made = scope.add(node, op, [x.node], x.part, (x.node.shape[0], len(rows), len(columns)))
    return kept(scope, node, x, made)


def global_max_pool(scope: Scope, node: Node) -> Value:
    """The largest value of each channel."""
    x = scope.value(node.inputs[0])
    channels, height, width = image_of(x)
    op = ir.MaxPool(np.array([[0, height]], np.int32), np.array([[0, width]], np.int32), (1, 1))
    return kept(scope, node, x, scope.add(node, op, [x.node], x.part, (channels, 1, 1)))


def average_pool(scope: Scope, node: Node) -> Value:
    """AveragePool: a sum of codes, divided."""
    x = quantized_of(scope, node.inputs[0])
    g, rows, columns = _windows(scope, node, x)
    if g.dilation != (1, 1):
        raise NotInteger("its windows are dilated")
    divisor = areas(rows, columns)
    if node.attributes.get("count_include_pad", 0):
        sides = []
        for i, side in enumerate(x.node.shape[1:]):
            start = np.arange(g.out[i]) * g.stride[i] - g.before[i]
            sides.append(np.minimum(start + g.kernel[i], side + g.after[i]) - start)
        divisor = np.outer(*sides).astype(np.float32)
    return _mean(scope, node, x, rows, columns, divisor)


def _mean(scope: Scope, node: Node, x: Value, rows: ir.Indices, columns: ir.Indices, divisor: Any) -> Value:
    assert x.grid is not None
    op = ir.WindowMean(rows, columns, divisor, x.grid)
    return Value(x.part, scope.add(node, op, [x.node], x.part, (x.node.shape[0], *divisor.shape)))


def global_average_pool(scope: Scope, node: Node) -> Value:
    """The mean of each channel."""
    x = quantized_of(scope, node.inputs[0])
    _, height, width = image_of(x)
    edges = np.array([[0, height]], np.int32), np.array([[0, width]], np.int32)
    return _mean(scope, node, x, *edges, np.full((1, 1), height * width, np.float32))


def reduce_mean(scope: Scope, node: Node) -> Value:
    """ReduceMean over the image: its axes are an attribute, or from opset 18 an input."""
    axes = node.attributes.get("axes")
    if node.input(1):
        array = scope.constant(node.input(1)) if scope.is_constant(node.input(1)) else None
        axes = None if array is None else tuple(int(axis) for axis in array.reshape(-1))
    if axes is None or {axis % 4 for axis in axes} != {2, 3}:
        raise NotInteger("it takes the mean over something else than the image")
    value = global_average_pool(scope, node)
    if not node.attributes.get("keepdims", 1):
        value = replace(value, node=scope.add(node, ir.Flatten(), [value.node], value.part, value.node.shape[:1]))
    return value
