"""Pooling of codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ulp.nn import graph as ir
from ulp.nn.shapes import areas
from ulp.onnx import views
from ulp.onnx.model import Node
from ulp.onnx.operators.windows import Geometry
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger

from .operands import as_image, as_sequence, kept, quantized_of, window_geometry, windowed


def _edges(g: Geometry, axis: int, side: int) -> ir.Indices:
    """int32 (windows, 2): begin and end of each window, within the image and on its steps of the dilation."""
    start = np.arange(g.out[axis]) * g.stride[axis] - g.before[axis]
    outside = np.maximum(0, -start)
    begin = start + -(-outside // g.dilation[axis]) * g.dilation[axis]
    end = np.minimum(start + g.dilation[axis] * (g.kernel[axis] - 1) + 1, side)
    if (begin >= end).any():
        raise NotInteger("one of its windows lies wholly in the padding")
    return np.stack([begin, end], axis=1).astype(np.int32)


_ROW = np.array([[0, 1]], np.int32)


def _windows(scope: Scope, node: Node, image: tuple[int, ...]) -> tuple[Geometry, ir.Indices, ir.Indices]:
    """The windows over (C, H, W), or (C, L)."""
    kernel = tuple(int(side) for side in node.attributes.get("kernel_shape", ()))
    g = window_geometry(scope, node, image, kernel, bool(node.attributes.get("ceil_mode", 0)))
    edges = [_edges(g, i, side) for i, side in enumerate(image[1:])]
    return (g, *edges) if len(edges) == 2 else (g, _ROW, *edges)  # type: ignore[return-value]


def max_pool(scope: Scope, node: Node) -> Value:
    """MaxPool. Of integers, too: it commutes with their zero point."""
    x, image = windowed(scope.viewed(node.inputs[0]))
    g, rows, columns = _windows(scope, node, image)
    op = ir.MaxPool(rows, columns, as_image(g.dilation, 1))
    made = scope.add(node, op, [x.node], x.part, (image[0], len(rows), len(columns)))
    return as_sequence(kept(scope, node, x, made), len(image))


def global_max_pool(scope: Scope, node: Node) -> Value:
    """The largest value of each channel."""
    x, image = windowed(scope.viewed(node.inputs[0]))
    channels, height, width = x.node.shape
    op = ir.MaxPool(np.array([[0, height]], np.int32), np.array([[0, width]], np.int32), (1, 1))
    return as_sequence(kept(scope, node, x, scope.add(node, op, [x.node], x.part, (channels, 1, 1))), len(image))


def average_pool(scope: Scope, node: Node) -> Value:
    """AveragePool: a sum of codes, divided."""
    x, image = windowed(quantized_of(scope, node.inputs[0], viewed=True))
    g, rows, columns = _windows(scope, node, image)
    if set(g.dilation) != {1}:
        raise NotInteger("its windows are dilated")
    divisor = areas(rows, columns)
    if node.attributes.get("count_include_pad", 0):
        sides = []
        for i, side in enumerate(image[1:]):
            start = np.arange(g.out[i]) * g.stride[i] - g.before[i]
            sides.append(np.minimum(start + g.kernel[i], side + g.after[i]) - start)
        divisor = np.outer(*sides).astype(np.float32) if len(sides) == 2 else sides[0].astype(np.float32)[None]
    return _mean(scope, node, x, rows, columns, divisor, len(image))


def _mean(scope: Scope, node: Node, x: Value, rows: ir.Indices, columns: ir.Indices, divisor: Any, sides: int = 3) -> Value:
    assert x.grid is not None
    op = ir.WindowMean(rows, columns, divisor, x.grid)
    return as_sequence(Value(x.part, scope.add(node, op, [x.node], x.part, (x.node.shape[0], *divisor.shape))), sides)


def global_average_pool(scope: Scope, node: Node) -> Value:
    """The mean of each channel."""
    x, image = windowed(quantized_of(scope, node.inputs[0], viewed=True))
    _, height, width = x.node.shape
    edges = np.array([[0, height]], np.int32), np.array([[0, width]], np.int32)
    return _mean(scope, node, x, *edges, np.full((1, 1), height * width, np.float32), len(image))


def reduce_mean(scope: Scope, node: Node) -> Value:
    """ReduceMean over all but the channels: its axes are an attribute, or from opset 18 an input."""
    x = quantized_of(scope, node.inputs[0], viewed=True)
    sides = len(views.shape_of(x))
    axes = node.attributes.get("axes")
    if node.input(1):
        array = scope.constant(node.input(1)) if scope.is_constant(node.input(1)) else None
        axes = None if array is None else tuple(int(axis) for axis in array.reshape(-1))
    kept_axes = set() if axes is None else set(range(1, 1 + sides)) - {axis % (1 + sides) for axis in axes}
    if sides < 2 or axes is None or kept_axes not in ({1}, {sides}):
        raise NotInteger("it takes the mean over something else than the image")
    channels = kept_axes.pop() - 1
    if views.channel_axis(x) != channels:
        x = views.tokens(x) if channels else views.line(x) if sides == 2 else views.image(x)
    count, height, width = x.node.shape
    edges = np.array([[0, height]], np.int32), np.array([[0, width]], np.int32)
    value = _mean(scope, node, replace(x, view=None), *edges, np.full((1, 1), height * width, np.float32))
    if not node.attributes.get("keepdims", 1):
        return replace(value, node=scope.add(node, ir.Flatten(), [value.node], value.part, (count,)))
    return views.moved(value, np.arange(count).reshape(tuple(count if i == channels else 1 for i in range(sides))))
