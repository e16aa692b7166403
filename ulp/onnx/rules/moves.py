"""What moves elements and changes none: reshapes, concatenation, nearest resizing, padding."""

from __future__ import annotations

import math

import numpy as np

from ulp.nn import graph as ir
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger, QuantizedConstant

from .operands import floats_of, image_of, kept, quantized_of


def reshape(scope: Scope, node: Node) -> Value:
    """Reshape, Flatten, Squeeze and Unsqueeze of what stays an image, or becomes a vector of features."""
    x = scope.value(node.inputs[0])
    arrays = [scope.sample(node.inputs[0])] + [_small_input(scope, name) for name in node.inputs[1:]]
    shape = scope.run(node, arrays)[0].shape
    batch = arrays[0].shape[0]
    if shape == (batch, *x.node.shape):
        return x
    if shape == (batch, math.prod(x.node.shape)):
        return kept(scope, node, x, scope.add(node, ir.Flatten(), [x.node], x.part, shape[1:]))
    raise NotInteger(f"it makes {list(shape)} of an image {list(arrays[0].shape)}, and integer parts can only flatten")


def _small_input(scope: Scope, name: str) -> Array:
    if scope.is_constant(name):
        array = scope.constant(name)
        assert array is not None
        return array
    if name in scope.values:
        raise NotInteger("its shape is computed from an image")
    return scope.true_sample(name)


def identity(scope: Scope, node: Node) -> Value:
    """Identity, and Dropout, which does nothing in inference."""
    if node.op_type == "Dropout" and node.input(2) and scope.scalar(node.input(2), "training mode"):
        raise NotInteger("it is in training mode")
    return scope.value(node.inputs[0])


def concat(scope: Scope, node: Node) -> Value:
    """The channels of several images, or several vectors of features."""
    values = [floats_of(scope, name) for name in node.inputs]
    part = values[0].part
    if any(value.part is not part for value in values):
        raise NotInteger("its inputs come from different integer parts")
    shapes = [value.node.shape for value in values]
    if node.attributes.get("axis") not in (1, -len(shapes[0])) or any(len(shape) != len(shapes[0]) for shape in shapes):
        raise NotInteger("it joins along another side than the channels")
    if any(shape[1:] != shapes[0][1:] for shape in shapes):
        raise OnnxError(f"{node}: images of different sizes")
    if len(shapes[0]) == 1 and any(ir.layout(value.node)[:2] != (1, 1) for value in values):
        raise NotInteger("it joins flattened images")
    made = scope.add(node, ir.Concat(), [value.node for value in values], part, (sum(shape[0] for shape in shapes), *shapes[0][1:]))
    grids = {value.grid for value in values}
    return Value(part, made, grids.pop() if len(grids) == 1 else None)


def _gathered(scope: Scope, node: Node, x: Value, index: Array) -> Value:
    """Pixels by their indices: int (height', width') of row * width + column, -1 for 0.0."""
    channels, _, width = image_of(x)
    rows = np.where((index < 0).all(axis=1), -1, index.max(axis=1) // width)
    columns = np.where((index < 0).all(axis=0), -1, index.max(axis=0) % width)
    expected = np.where((rows[:, None] < 0) | (columns < 0), -1, rows[:, None] * width + columns)
    if (expected != index).any():
        raise NotInteger("it does not take whole rows and columns of pixels")
    op = ir.Gather(rows.astype(np.int32), columns.astype(np.int32))
    return kept(scope, node, x, scope.add(node, op, [x.node], x.part, (channels, len(rows), len(columns))))


def _indices(x: Value) -> Array:
    """float32 (1, 1, H, W): what each pixel's index is, so that moving them tells where pixels come from."""
    _, height, width = image_of(x)
    if height * width >= 2**24:
        raise NotInteger("its input has too many pixels")
    return np.arange(height * width, dtype=np.float32).reshape(1, 1, height, width)


def resize(scope: Scope, node: Node) -> Value:
    """Resize and Upsample to the nearest pixel."""
    x = quantized_of(scope, node.inputs[0])
    if node.attributes.get("mode", "nearest") != "nearest":
        raise NotInteger("it interpolates")
    index = _indices(x)
    arrays = [_small_input(scope, name) if name else None for name in node.inputs[1:]]
    if len(arrays) > 2 and arrays[2] is not None and arrays[2].size:  # the sizes of the whole image, batch and channels among them
        if node.attributes.get("axes") is not None:
            raise NotInteger("it resizes by axes")
        arrays[2] = np.concatenate([np.ones(2, arrays[2].dtype), arrays[2][2:]])
    result = scope.run(node, [index, *arrays])[0]
    if result.shape[:2] != (1, 1):
        raise NotInteger("it resizes more than the image")
    return _gathered(scope, node, x, result[0, 0].astype(np.int64))


def pad(scope: Scope, node: Node) -> Value:
    """Pad of the image: zeros, or pixels of its own."""
    x = quantized_of(scope, node.inputs[0])
    arrays = [_small_input(scope, name) if name else None for name in node.inputs[1:]]
    value = arrays[1] if len(arrays) > 1 and arrays[1] is not None else np.float32(node.attributes.get("value", 0))
    if np.any(value):
        raise NotInteger("it pads with something else than 0")
    result = scope.run(node, [_indices(x) + 1, *arrays])[0]  # what is padded is 0
    if result.shape[:2] != (1, 1):
        raise NotInteger("it pads more than the image")
    return _gathered(scope, node, x, result[0, 0].astype(np.int64) - 1)


_MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def moved_constant(scope: Scope, node: Node) -> QuantizedConstant | None:
    """A quantized constant that is transposed or reshaped; None where it is not, or its scales do not lie along a side any more."""
    if node.op_type not in _MOVERS or node.inputs[0] not in scope.quantized:
        return None
    rest = [scope.constant(name) for name in node.inputs[1:]]
    return scope.quantized[node.inputs[0]].moved(lambda array: scope.run(node, [array, *rest])[0])
