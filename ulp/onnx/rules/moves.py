"""What moves elements and changes none: reshapes, concatenation, padding."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ulp.nn import graph as ir
from ulp.onnx import views
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger, QuantizedConstant

from .operands import image_of, kept, quantized_of


def _moved(scope: Scope, node: Node) -> list[Value]:
    """The node's results as views of its first input. The operator itself moves indices, of a batch of two where it takes any."""
    x = scope.viewed(node.inputs[0])
    places = views.places_of(x)
    size = math.prod(x.node.shape)
    fixed = node.op_type in ("Reshape", "Flatten")  # their shapes may have the file's batch
    batch = scope.sample(node.inputs[0]).shape[0] if fixed else 2
    index = places + size * np.arange(batch).reshape(-1, *(1,) * places.ndim)
    try:
        results = scope.run(node, [index, *(small_input(scope, name) if name else None for name in node.inputs[1:])])
    except OnnxError as error:
        raise NotInteger(f"it moves more than the elements of each image: {error}") from error
    made = []
    for result in results:
        first = result[0] if result.ndim and result.shape[0] == batch else None
        if first is None or first.ndim == 0 or any((result[i] != first + i * size).any() for i in range(1, batch)):
            raise NotInteger(f"it makes {list(result.shape)} of {list(index.shape)}: it does not keep the images apart")
        try:
            scope.limits.check_tensor(first.shape, 8)
        except OnnxError as error:
            raise OnnxError(f"{node}: {error}") from error
        scope.count(node, first.nbytes)
        made.append(views.moved(x, first))
    scope.layers[node.name] = (ir.Identity(), views.shape_of(made[0]))
    return made


def move(scope: Scope, node: Node) -> Value:
    """What puts the elements of its first input into another order or shape, or takes some of them."""
    return _moved(scope, node)[0]


def split(scope: Scope, node: Node) -> list[Value]:
    """Split: each result takes some of the elements."""
    return _moved(scope, node)


def small_input(scope: Scope, name: str) -> Array:
    """A constant, or what was computed from shapes. NotInteger where only a call has it."""
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
    return scope.viewed(node.inputs[0])


def concat(scope: Scope, node: Node) -> Value:
    """The channels of several images, sequences or vectors of features."""
    values = alike_but(node, [scope.viewed(name) for name in node.inputs])
    integers = {(value.integers and (value.integers.dtype, value.integers.low), value.integers and value.grid) for value in values}
    if len(integers) > 1:
        raise NotInteger("it joins integers of different quantizers")
    shapes = [views.shape_of(value) for value in values]
    axis = int(node.attributes.get("axis", 0))
    axis = axis - 1 if axis > 0 else axis + len(shapes[0])
    if any(len(shape) != len(shapes[0]) for shape in shapes) or not 0 <= axis < len(shapes[0]):
        raise NotInteger("it joins along another side than the channels")
    if any(views.channel_axis(value) != axis for value in values):
        raise NotInteger("it joins along another side than the channels")
    if any(shape[:axis] + shape[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :] for shape in shapes):
        raise OnnxError(f"{node}: images of different sizes")
    if any(value.node.shape[1:] != values[0].node.shape[1:] for value in values):
        raise NotInteger("it joins images of different sizes")
    if len(shapes[0]) == 1 and any(ir.layout(value.node)[:2] != (1, 1) for value in values):
        raise NotInteger("it joins flattened images")
    nodes, part = [value.node for value in values], scope.join(values)
    made = scope.add(node, ir.Concat(), nodes, part, (sum(n.shape[0] for n in nodes), *nodes[0].shape[1:]))
    grids = {value.grid for value in values}
    view = values[0].view
    if view is not None:
        places = views.ordered(made.shape[0], math.prod(made.shape[1:]))
        view = places if axis == 0 else places.T.reshape(*shapes[0][:-1], -1)
    joined = values[0].integers and replace(values[0].integers, origin=None)
    return Value(part, made, grids.pop() if len(grids) == 1 else None, joined, view=view)


def alike_but(node: Node, values: list[Value]) -> list[Value]:
    """The values with the side along which they are joined as channels of their images."""
    shape = views.shape_of(values[0])
    if len(shape) not in (2, 3) or all(value.view is None for value in values):
        return [views.image(value) for value in values]
    last = int(node.attributes.get("axis", 0)) in (-1, len(shape))
    if last:
        return [views.tokens(value) for value in values]
    return [views.line(value) if len(views.shape_of(value)) == 2 else views.image(value) for value in values]


def gathered(scope: Scope, node: Node, x: Value, index: Array) -> Value:
    """Pixels by their indices: int (height', width') of row * width + column, -1 for 0.0."""
    channels, _, width = image_of(x)
    if index.size == 0:
        raise NotInteger("its result is empty")
    rows = np.where((index < 0).all(axis=1), -1, index.max(axis=1) // width)
    columns = np.where((index < 0).all(axis=0), -1, index.max(axis=0) % width)
    expected = np.where((rows[:, None] < 0) | (columns < 0), -1, rows[:, None] * width + columns)
    if (expected != index).any():
        raise NotInteger("it does not take whole rows and columns of pixels")
    op = ir.Gather(rows.astype(np.int32), columns.astype(np.int32))
    return kept(scope, node, x, scope.add(node, op, [x.node], x.part, (channels, len(rows), len(columns))))


def indices(x: Value) -> Array:
    """float32 (1, 1, H, W): what each pixel's index is, so that moving them tells where pixels come from."""
    _, height, width = image_of(x)
    if height * width >= 2**24:
        raise NotInteger("its input has too many pixels")
    return np.arange(height * width, dtype=np.float32).reshape(1, 1, height, width)


def pad(scope: Scope, node: Node) -> Value:
    """Pad of the image: zeros, or pixels of its own."""
    x = quantized_of(scope, node.inputs[0])
    arrays = [small_input(scope, name) if name else None for name in node.inputs[1:]]
    value = arrays[1] if len(arrays) > 1 and arrays[1] is not None else np.float32(node.attributes.get("value", 0))
    if np.any(value):
        raise NotInteger("it pads with something else than 0")
    result = scope.run(node, [indices(x) + 1, *arrays])[0]  # what is padded is 0
    if result.shape[:2] != (1, 1):
        raise NotInteger("it pads more than the image")
    return gathered(scope, node, x, result[0, 0].astype(np.int64) - 1)


_MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def moved_constant(scope: Scope, node: Node) -> QuantizedConstant | None:
    """A quantized constant that is transposed or reshaped; None where it is not, or its scales do not lie along a side any more."""
    if node.op_type not in _MOVERS or node.inputs[0] not in scope.quantized:
        return None
    rest = [scope.constant(name) for name in node.inputs[1:]]
    return scope.quantized[node.inputs[0]].moved(lambda array: scope.run(node, [array, *rest])[0])
