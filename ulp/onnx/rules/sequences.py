"""What lies between the products of transformers: normalizations, softmax, GELU, and products of two computed tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ulp.nn import graph as ir
from ulp.onnx import views
from ulp.onnx.chains import DynamicProduct
from ulp.onnx.model import Array, Node
from ulp.onnx.parts import Value, without_floats
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger


def together(scope: Scope, names: list[str]) -> list[Value]:
    """Tensors of parts that may be joined, as floats; some of them may be what a part reads. NotInteger where there is no such part."""
    found = []
    for name in names:
        part = scope.parts.get(name)
        if part is not None and name not in scope.values and name not in scope.grids:
            found.append(Value(part, part.input(name), view=views.root_view(part.input(name))))
            continue
        value = scope.viewed(name)
        if value.integers is not None:
            raise NotInteger("it computes with integers that nothing dequantizes")
        found.append(value)
    return found


def _floats(scope: Scope, name: str) -> Value:
    (value,) = together(scope, [name])
    if value.grid is None and without_floats(value.node) is not None:
        raise NotInteger("its input is neither floats nor quantized")
    return value


def _rows_of(scope: Scope, name: str) -> Value:
    """A tensor whose last side is the image's channels."""
    value = _floats(scope, name)
    return views.image(value) if len(views.shape_of(value)) == 1 else views.tokens(value)


def _parameter(scope: Scope, name: str, what: str, channels: int) -> Array | None:
    """float32 (channels,); None where it is left out."""
    if not name:
        return None
    array = scope.array(name, what)
    if array.dtype != np.float32 or array.size not in (1, channels) or array.size != max(array.shape, default=1):
        raise NotInteger(f"its {what} has shape {list(array.shape)}, expected [{channels}]")
    if not np.isfinite(array).all():
        raise NotInteger(f"its {what} is not finite")
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (channels,)))


def _normalization(scope: Scope, node: Node, function: str) -> Value:
    sides = len(views.shape_of(_floats(scope, node.inputs[0])))
    if int(node.attributes.get("axis", -1)) not in (-1, sides):
        raise NotInteger("it normalizes over more than the last side")
    x = _rows_of(scope, node.inputs[0])
    channels = x.node.shape[0]
    gamma = _parameter(scope, node.inputs[1], "scale", channels)
    beta = _parameter(scope, node.input(2), "bias", channels)
    default = 1e-5 if node.op_type != "SimplifiedLayerNormalization" else 1e-6
    op = ir.Rows(function, (x.grid,), 1, gamma, beta, float(node.attributes.get("epsilon", default)))
    return Value(x.part, scope.add(node, op, [x.node], x.part, x.node.shape), view=x.view)


def layer_normalization(scope: Scope, node: Node) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, over the last side."""
    return _normalization(scope, node, "layer_norm")


def rms_normalization(scope: Scope, node: Node) -> Value:
    """x / sqrt(mean of squares + epsilon) * scale, over the last side."""
    return _normalization(scope, node, "rms_norm")


def activation(scope: Scope, nodes: Sequence[Node], source: str, function: str) -> Value:
    """A function of floats that the nodes make together. NotInteger of codes, whose functions are tables."""
    x = _floats(scope, source)
    if x.grid is not None or x.function is not None:
        raise NotInteger("it is a function of codes")
    made = scope.add(nodes[-1], ir.Rows(function, (None,)), [x.node], x.part, x.node.shape)
    for node in nodes:
        scope.layers[node.name] = (made.op, made.shape)
    return Value(x.part, made, view=x.view)


def gelu(scope: Scope, node: Node) -> Value:
    """x P(X <= x), X normal, or its approximation by tanh."""
    approximate = node.attributes.get("approximate", "none") in ("tanh", b"tanh")
    return activation(scope, [node], node.inputs[0], "gelu_tanh" if approximate else "gelu")


def dynamic_product(scope: Scope, chain: DynamicProduct) -> Value:
    """A product of each row of a sequence with integers, quantized in the call; it may begin a part."""
    x = floats_or_root(scope, chain.source)
    shape = views.shape_of(x)
    if len(shape) != 2:
        raise NotInteger("it multiplies no sequence of floats")
    integers, scale = scope.array(chain.weights, "weight"), scope.array(chain.scale, "scale")
    zero = scope.array(chain.zero, "zero point") if chain.zero else np.zeros((), np.int8)
    if integers.ndim != 2 or len(integers) != shape[1] or integers.dtype.itemsize != 1:
        raise NotInteger(f"its weights of shape {list(integers.shape)} do not fit {shape[1]} features")
    outputs = integers.shape[1]
    if scale.size not in (1, outputs) or scale.size != max(scale.shape, default=1) or not (np.isfinite(scale) & (scale > 0)).all():
        raise NotInteger("the scale of its weights is not one per column, or one")
    if zero.size == 0 or (zero != zero.reshape(-1)[0]).any():
        raise NotInteger("its columns have zero points of their own")
    less = int(zero.reshape(-1)[0])
    first = 128 if integers.dtype == np.uint8 else 0  # integers of weights are int8
    weights = ir.Weights(
        np.ascontiguousarray((integers.T.astype(np.int16) - first).astype(np.int8)),
        8,
        np.broadcast_to(scale.astype(np.float64).reshape(-1), (outputs,)),
        np.zeros(outputs),
        less - first,
    )
    node = chain.nodes[-1]
    made = of_rows(scope, node, x, ir.DynamicLinear(weights, False))
    for each in chain.nodes:
        scope.layers[each.name] = (made.node.op, made.node.shape)
    return made


def floats_or_root(scope: Scope, name: str) -> Value:
    """A tensor of floats that a part has, or of which one begins."""
    x = _floats(scope, name) if name in scope.values or name in scope.grids else _root(scope, name)
    if x.grid is not None:
        raise NotInteger("it quantizes what is quantized already")
    return x


def of_rows(scope: Scope, node: Node, x: Value, op: ir.DynamicLinear) -> Value:
    """A product of each row of the last side."""
    shape, outputs = views.shape_of(x), len(op.weights.integers)
    if len(shape) == 1:
        x = views.image(x)
        if ir.layout(x.node) != (1, 1, shape[0]):
            raise NotInteger("it multiplies a flattened image")
        return Value(x.part, scope.add(node, op, [x.node], x.part, (outputs,)))
    x = views.tokens(x)
    made = scope.add(node, op, [x.node], x.part, (outputs, *x.node.shape[1:]))
    places = views.ordered(outputs, math.prod(shape[:-1])).T.reshape(*shape[:-1], outputs)
    return Value(x.part, made, view=np.ascontiguousarray(places))


def masked(scope: Scope, node: Node) -> Value | None:
    """The sum of scores (H, M, N), whose rows lie side by side, and a mask (1, M or 1, N) of the call; None of anything else."""
    for name, mask in (node.inputs[:2], node.inputs[1::-1]):
        scores = scope.values.get(name)
        if scores is None or scores.view is None or scores.grid is not None or not isinstance(scores.node.op, (ir.Product, ir.BatchNorm)):
            continue
        shape = views.shape_of(scores)
        known = mask in scope.values or mask in scope.grids or mask in scope.parts
        sides = views.shape_of(together(scope, [mask])[0]) if known else scope.sample(mask).shape[1:]
        *leading, rows, columns = (1,) * (len(shape) - len(sides)) + tuple(sides)
        if len(shape) < 3 or set(leading) - {1} or rows not in (1, shape[-2]) or columns != shape[-1] or not _rows_beside(scores):
            continue
        found = _floats(scope, mask) if known else _root(scope, mask)
        found = views.tokens(found) if len(sides) > 1 else found
        if views.shape_of(found)[-1] != found.node.shape[0] or (rows > 1 and found.node.shape[1:] != scores.node.shape[1:]):
            continue
        part = scope.join([scores, found])
        op = ir.Rows("identity", (None, found.grid), scores.node.shape[0] // columns)
        return Value(part, scope.add(node, op, [scores.node, found.node], part, scores.node.shape), view=scores.view)
    return None


def _root(scope: Scope, name: str) -> Value:
    """A float tensor outside of all parts, of which a part begins."""
    part = scope.part(name)
    return Value(part, part.input(name), view=views.root_view(part.input(name)))


def _rows_beside(x: Value) -> bool:
    """Whether the rows of the tensor's last side lie one behind the other in the image's channels, and are all of it."""
    y, column, channel = _coordinates(x)
    length = views.shape_of(x)[-1]
    beside = (channel == channel[..., :1] + np.arange(length)).all() and not (channel[..., 0] % length).any()
    return bool(views.is_whole(x) and beside and (y == y[..., :1]).all() and (column == column[..., :1]).all())


def softmax(scope: Scope, node: Node) -> Value:
    """Softmax over the last side of a tensor of two sides or more, whose rows lie side by side in the image's channels."""
    x = _floats(scope, node.inputs[0])
    shape = views.shape_of(x)
    axis = int(node.attributes.get("axis", -1 if scope.opset >= 13 else 1))
    if axis not in (-1, len(shape)):
        raise NotInteger("it is over another side than the last")
    if len(shape) < 2:
        raise NotInteger("it is over the features of a vector, at the end of a network")
    if not _rows_beside(x):
        raise NotInteger("the elements of its rows do not lie side by side")
    op = ir.Rows("softmax", (x.grid,), x.node.shape[0] // shape[-1])
    return Value(x.part, scope.add(node, op, [x.node], x.part, x.node.shape), view=x.view)


def _coordinates(value: Value) -> tuple[Array, Array, Array]:
    """Where each element of a tensor lies: row, column and channel of the image."""
    places = views.places_of(value)
    height, width, _ = ir.layout(value.node)
    return places // width % height, places % width, places // (height * width)


def product(scope: Scope, node: Node) -> Value:
    """MatMul of two computed tensors (..., M, K) and (..., K, N)."""
    a, b = together(scope, list(node.inputs[:2]))
    for value in (a, b):
        if value.grid is None and without_floats(value.node) is not None:
            raise NotInteger("one of its operands is neither floats nor quantized")
    one, other = views.shape_of(a), views.shape_of(b)
    if len(one) < 2 or len(one) != len(other) or one[:-2] != other[:-2] or one[-1] != other[-2]:
        raise NotInteger(f"its operands have shapes [N, {', '.join(map(str, one))}] and [N, {', '.join(map(str, other))}]")
    batch, rows, depth, columns = math.prod(one[:-2]), one[-2], one[-1], other[-1]
    (of_a, channel_a), (of_b, channel_b) = _affine_places(a), _affine_places(b)
    of_result = [[0, 0, columns], [0, 1, 0], [0, 0, 1]]
    steps = np.array([*of_a, *of_b, *of_result], np.int32)
    op = ir.Product((batch, rows, depth, columns), steps, (channel_a, channel_b), (a.grid, b.grid))
    part = scope.join([a, b])
    made = scope.add(node, op, [a.node, b.node], part, (batch * columns, 1, rows))
    # (batch, columns, rows) is the image; the tensor is (batch, rows, columns).
    view = views.ordered(batch * columns, rows).reshape(batch, columns, rows).transpose(0, 2, 1).reshape(*one[:-1], columns)
    return Value(part, made, view=np.ascontiguousarray(view))


def _affine_places(value: Value) -> tuple[list[list[int]], int]:
    """The step (y, x, c) of each index of (batch, i, j), and the channel of the first element. NotInteger where steps differ."""
    shape = views.shape_of(value)
    where = np.stack(_coordinates(value), axis=-1).reshape(-1, *shape[-2:], 3)
    first = where[0, 0, 0]
    if first[:2].any():
        raise NotInteger("it multiplies a part of an image")
    expected = np.broadcast_to(first, where.shape)
    steps = []
    for axis in range(3):
        step = where.take(1, axis)[(0,) * 2] - first if where.shape[axis] > 1 else np.zeros(3, np.int64)
        if (step < 0).any():
            raise NotInteger("it multiplies elements in reverse order")
        steps.append([int(n) for n in step])
        sides = [1, 1, 1, 1]
        sides[axis] = -1
        expected = expected + step * np.arange(where.shape[axis]).reshape(sides)
    if (where != expected).any():
        raise NotInteger("the elements of its operands do not lie in equal steps")
    return steps, int(first[2])
