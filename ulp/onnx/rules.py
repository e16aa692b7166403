"""Which ONNX nodes are integer layers: a rule an operator, from the node to graph nodes of ulp.nn. NotInteger says why one is not.

A rule sees inputs that are values of a part or constants; `Builder` asks it for each node that is not known as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ulp.nn import graph as ir
from ulp.nn.shapes import areas

from . import quantizers
from .model import Array, Node, OnnxError
from .operators import OPERATORS
from .operators.registry import Call
from .operators.windows import Geometry, geometry
from .parts import Value, takes_sum
from .weights import NotInteger, QuantizedConstant, layer_weights

if TYPE_CHECKING:
    from .build import Builder

Rule = Callable[["Builder", Node], Value]


def floats_of(b: Builder, name: str) -> Value:
    """A value that is floats."""
    value = b.value(name)
    if value.integers is not None:
        raise NotInteger("it computes with integers that nothing dequantizes")
    return value


def quantized_of(b: Builder, name: str) -> Value:
    """A value that holds codes of a known quantizer."""
    value = floats_of(b, name)
    if value.grid is None:
        raise NotInteger("its input is not quantized")
    return value


def _image(value: Value) -> tuple[int, int, int]:
    if len(value.node.shape) != 3:
        raise NotInteger(f"its input has shape [N, {', '.join(map(str, value.node.shape))}], expected (N, C, H, W)")
    channels, height, width = value.node.shape
    return channels, height, width


def _known(b: Builder, name: str, what: str) -> QuantizedConstant | Array:
    if name in b.quantized:
        return b.quantized[name]
    if name in b.constants:
        return b.constants[name]
    raise NotInteger(f"its {what} is computed, not constant")


def _quantized_weights(b: Builder, name: str) -> QuantizedConstant:
    known = _known(b, name, "weight")
    if not isinstance(known, QuantizedConstant):
        raise NotInteger("its weights are not quantized")
    return known


def _on_grid(b: Builder, node: Node, value: Value) -> ir.Node:
    """The value's node as a Quantize, which changes nothing: a sum, a normalisation or a float result can begin there."""
    if isinstance(value.node.op, ir.Quantize) or value.grid is None:
        return value.node
    return b.add(node, ir.Quantize(value.grid), [value.node], value.part, value.node.shape)


def _kept(b: Builder, node: Node, value: Value, made: ir.Node) -> Value:
    """What an operation that only moves codes gives: codes of the same quantizer, if the value holds some."""
    moved = replace(value, node=made, integers=value.integers and replace(value.integers, origin=None))
    return replace(moved, node=_on_grid(b, node, moved))


# Layers with weights.


def _geometry(b: Builder, node: Node, image: tuple[int, ...], kernel: tuple[int, ...], ceil: bool = False) -> Geometry:
    """How the node's windows lie over an image (C, H, W), which may get a frame of its padding."""
    try:
        attributes = OPERATORS[node.op_type].row(b.model.opset).check_attributes(node.attributes)
        g = geometry(Call(attributes, b.model.opset, 1, b.limits), image[1:], kernel, ceil)
        b.limits.check_tensor([image[0], *map(sum, zip(image[1:], g.before, g.after, strict=True))], 1)
        return g
    except OnnxError as error:
        raise OnnxError(f"{node}: {error}") from error


def conv(b: Builder, node: Node) -> Value:
    """Conv of codes with integers."""
    x = quantized_of(b, node.inputs[0])
    assert x.grid is not None
    q = _quantized_weights(b, node.inputs[1])
    channels, *sides = _image(x)
    groups = int(node.attributes.get("group", 1))
    if q.integers.ndim != 4 or q.integers.shape[1] * groups != channels or len(q.integers) % groups:
        raise OnnxError(f"{node}: weights of shape {list(q.integers.shape)} in {groups} groups do not fit {channels} channels")
    g = _geometry(b, node, (channels, *sides), q.integers.shape[2:])
    bias = _known(b, node.input(2), "bias") if node.input(2) else None
    op = ir.Conv(
        layer_weights(q, x.grid, bias),
        x.grid,
        (g.stride[0], g.stride[1]),
        (g.before[0], g.before[1], g.after[0], g.after[1]),
        (g.dilation[0], g.dilation[1]),
        groups,
    )
    return Value(x.part, b.add(node, op, [x.node], x.part, (len(q.integers), *g.out)))


def _product(b: Builder, node: Node, weights: QuantizedConstant, bias: QuantizedConstant | Array | None) -> Value:
    """A linear layer with integers (O, features)."""
    x = quantized_of(b, node.inputs[0])
    assert x.grid is not None
    if len(x.node.shape) != 1:
        raise NotInteger("only matrices are multiplied in integers, not stacks of them")
    if weights.integers.ndim != 2 or weights.integers.shape[1] != x.node.shape[0]:
        raise OnnxError(f"{node}: weights of shape {list(weights.integers.shape)} do not fit {x.node.shape[0]} features")
    op = ir.Linear(layer_weights(weights, x.grid, bias), x.grid)
    return Value(x.part, b.add(node, op, [x.node], x.part, (len(weights.integers),)))


def _transposed(weights: QuantizedConstant) -> QuantizedConstant:
    return QuantizedConstant(weights.integers.T, weights.scale.T, weights.zero.T)


def gemm(b: Builder, node: Node) -> Value:
    """Gemm of codes with integers."""
    get = node.attributes.get
    if get("alpha", 1.0) != 1 or get("beta", 1.0) != 1 or get("transA", 0):
        raise NotInteger("its alpha or beta is not 1, or it transposes its input")
    weights = _quantized_weights(b, node.inputs[1])
    bias = _known(b, node.input(2), "bias") if node.input(2) else None
    shape = () if bias is None else bias.integers.shape if isinstance(bias, QuantizedConstant) else bias.shape
    if math.prod(shape) not in (1, shape[-1] if shape else 1):
        raise NotInteger("its bias differs by row")
    return _product(b, node, weights if get("transB", 0) else _transposed(weights), bias)


def matmul(b: Builder, node: Node) -> Value:
    """MatMul of codes with integers."""
    weights = _quantized_weights(b, node.inputs[1])
    if weights.integers.ndim != 2:
        raise NotInteger("only matrices are multiplied in integers, not stacks of them")
    return _product(b, node, _transposed(weights), None)


# What follows them.


def affine(b: Builder, node: Node, x: Value, scale: Array, shift: Array) -> Value:
    """x * scale[c] + shift[c], which layers take in. A pooling in between lets it pass; where it falls, the largest becomes the least."""
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise NotInteger("its constants are not finite")
    return Value(x.part, _affine(b, node, x, x.node, scale, shift))


def _affine(b: Builder, node: Node, x: Value, source: ir.Node, scale: Array, shift: Array) -> ir.Node:
    op = ir.BatchNorm(scale, shift)
    if x.grid is not None:
        if ir.layout(source)[2] != len(scale):
            raise NotInteger("it scales a flattened image")
        return b.add(node, op, [_on_grid(b, node, x)], x.part, source.shape)
    pools = []
    while isinstance(source.op, ir.MaxPool):
        pools.append((source.op, source.shape))
        source = source.inputs[0]
    if not isinstance(source.op, (ir.Conv, ir.Linear, ir.BatchNorm)):
        raise NotInteger("no layer whose weights it could become part of comes right before it")
    made = b.add(node, op, [source], x.part, source.shape)
    for pool, shape in reversed(pools):
        falls = (scale < 0) ^ (False if pool.falls is None else pool.falls)
        made = b.add(node, replace(pool, falls=falls if falls.any() else None), [made], x.part, shape)
    return made


def batch_normalization(b: Builder, node: Node) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias."""
    x = floats_of(b, node.inputs[0])
    if node.attributes.get("training_mode", 0):
        raise NotInteger("it is in training mode")
    parameters = []
    for name, what in zip(node.inputs[1:5], ("scale", "bias", "mean", "variance"), strict=True):
        _known(b, name, what)
        array = b.constant(name)
        assert array is not None
        if array.shape != (x.node.shape[0],):
            raise OnnxError(f"{node}: its {what} has shape {list(array.shape)}, expected [{x.node.shape[0]}]")
        parameters.append(array.astype(np.float64))
    gamma, beta, mean, variance = parameters
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    return affine(b, node, x, scale, beta - mean * scale)


def _per_channel(array: Array, shape: ir.Shape) -> Array:
    """A constant operand as float64 (C,). NotInteger where it differs by pixel."""
    sides = (1,) * (1 + len(shape) - array.ndim) + array.shape
    if len(sides) != 1 + len(shape) or any(side != 1 for i, side in enumerate(sides) if i != 1) or sides[1] not in (1, shape[0]):
        raise NotInteger(f"its constant of shape {list(array.shape)} is none of one value a channel")
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (shape[0],))


def _operands(b: Builder, node: Node) -> tuple[Value, Array, bool]:
    """(value, constant (C,), whether the constant comes first)"""
    first = b.is_constant(node.inputs[0])
    if not first and not b.is_constant(node.inputs[1]):
        raise NotInteger("both of its operands are computed")
    x = floats_of(b, node.inputs[1 if first else 0])
    array = b.constant(node.inputs[0 if first else 1])
    assert array is not None
    return x, _per_channel(array, x.node.shape), first


def multiply(b: Builder, node: Node) -> Value:
    """x * constant."""
    x, constant, _ = _operands(b, node)
    return affine(b, node, x, constant, np.zeros_like(constant))


def divide(b: Builder, node: Node) -> Value:
    """x / constant."""
    x, constant, first = _operands(b, node)
    if first:
        raise NotInteger("it divides by what is computed")
    with np.errstate(all="ignore"):
        return affine(b, node, x, 1 / constant, np.zeros_like(constant))


def subtract(b: Builder, node: Node) -> Value:
    """x - constant, or constant - x."""
    x, constant, first = _operands(b, node)
    one = np.ones_like(constant)
    return affine(b, node, x, -one, constant) if first else affine(b, node, x, one, -constant)


def add(b: Builder, node: Node) -> Value:
    """A shortcut, or x + constant."""
    if any(b.is_constant(name) for name in node.inputs):
        x, constant, _ = _operands(b, node)
        return affine(b, node, x, np.ones_like(constant), constant)
    one, other = (floats_of(b, name) for name in node.inputs)
    if one.part is not other.part:
        raise NotInteger("its operands come from different integer parts")
    if one.node.shape != other.node.shape:
        raise NotInteger("its operands have different shapes")
    if other.grid is None:
        one, other = other, one
    if other.grid is None:
        raise NotInteger("neither of its operands is quantized")
    first = _on_grid(b, node, one)
    if not takes_sum(first):
        raise NotInteger("neither operand is a layer's result to which the other, quantized one could be added")
    if ir.layout(first) != ir.layout(other.node):
        raise NotInteger("it adds a flattened image to what never was one")
    return Value(one.part, b.add(node, ir.Add(other.grid), [first, other.node], one.part, one.node.shape))


def relu(b: Builder, node: Node) -> Value:
    """max(x, 0)."""
    x = floats_of(b, node.inputs[0])
    return Value(x.part, b.add(node, ir.Clamp(0.0, math.inf), [x.node], x.part, x.node.shape), x.grid)


def clip(b: Builder, node: Node) -> Value:
    """Bounds for floats; or, between QuantizeLinear and DequantizeLinear, fewer bits."""
    bounds = [-math.inf, math.inf]
    for i, key in enumerate(("min", "max")):
        if node.input(i + 1):
            bounds[i] = quantizers.scalar(b, node.input(i + 1), key)
        elif key in node.attributes:
            bounds[i] = float(node.attributes[key])
    x = b.value(node.inputs[0])
    if not bounds[0] <= bounds[1]:
        raise NotInteger(f"its bounds {bounds[0]:g} and {bounds[1]:g} leave nothing")
    if x.integers is not None:
        return quantizers.clip_integers(b, node, x, bounds[0], bounds[1])
    made = b.add(node, ir.Clamp(bounds[0], bounds[1]), [x.node], x.part, x.node.shape)
    on_grid = x.grid is not None and all(_is_code(x.grid, bound) for bound in bounds)
    return Value(x.part, made, x.grid if on_grid else None)


def _is_code(grid: Any, bound: float) -> bool:
    return math.isinf(bound) or float(grid.round_trip(np.array([bound], np.float32))[0]) == np.float32(bound)


# Pooling, and what moves elements.


def _edges(g: Geometry, axis: int, side: int) -> ir.Indices:
    """int32 (windows, 2): begin and end of each window, within the image and on its steps of the dilation."""
    start = np.arange(g.out[axis]) * g.stride[axis] - g.before[axis]
    outside = np.maximum(0, -start)
    begin = start + -(-outside // g.dilation[axis]) * g.dilation[axis]
    end = np.minimum(start + g.dilation[axis] * (g.kernel[axis] - 1) + 1, side)
    if (begin >= end).any():
        raise NotInteger("one of its windows lies wholly in the padding")
    return np.stack([begin, end], axis=1).astype(np.int32)


def _windows(b: Builder, node: Node, x: Value) -> tuple[Geometry, ir.Indices, ir.Indices]:
    _, height, width = image = _image(x)
    kernel = tuple(int(side) for side in node.attributes.get("kernel_shape", ()))
    g = _geometry(b, node, image, kernel, bool(node.attributes.get("ceil_mode", 0)))
    return g, _edges(g, 0, height), _edges(g, 1, width)


def max_pool(b: Builder, node: Node) -> Value:
    """MaxPool. Of integers, too: it commutes with their zero point."""
    x = b.value(node.inputs[0])
    g, rows, columns = _windows(b, node, x)
    op = ir.MaxPool(rows, columns, (g.dilation[0], g.dilation[1]))
    made = b.add(node, op, [x.node], x.part, (x.node.shape[0], len(rows), len(columns)))
    return _kept(b, node, x, made)


def global_max_pool(b: Builder, node: Node) -> Value:
    """The largest value of each channel."""
    x = b.value(node.inputs[0])
    channels, height, width = _image(x)
    op = ir.MaxPool(np.array([[0, height]], np.int32), np.array([[0, width]], np.int32), (1, 1))
    return _kept(b, node, x, b.add(node, op, [x.node], x.part, (channels, 1, 1)))


def average_pool(b: Builder, node: Node) -> Value:
    """AveragePool: a sum of codes, divided."""
    x = quantized_of(b, node.inputs[0])
    g, rows, columns = _windows(b, node, x)
    if g.dilation != (1, 1):
        raise NotInteger("its windows are dilated")
    divisor = areas(rows, columns)
    if node.attributes.get("count_include_pad", 0):
        sides = []
        for i, side in enumerate(x.node.shape[1:]):
            start = np.arange(g.out[i]) * g.stride[i] - g.before[i]
            sides.append(np.minimum(start + g.kernel[i], side + g.after[i]) - start)
        divisor = np.outer(*sides).astype(np.float32)
    return _mean(b, node, x, rows, columns, divisor)


def _mean(b: Builder, node: Node, x: Value, rows: ir.Indices, columns: ir.Indices, divisor: Any) -> Value:
    assert x.grid is not None
    op = ir.WindowMean(rows, columns, divisor, x.grid)
    return Value(x.part, b.add(node, op, [x.node], x.part, (x.node.shape[0], *divisor.shape)))


def global_average_pool(b: Builder, node: Node) -> Value:
    """The mean of each channel."""
    x = quantized_of(b, node.inputs[0])
    _, height, width = _image(x)
    edges = np.array([[0, height]], np.int32), np.array([[0, width]], np.int32)
    return _mean(b, node, x, *edges, np.full((1, 1), height * width, np.float32))


def reduce_mean(b: Builder, node: Node) -> Value:
    """ReduceMean over the image: its axes are an attribute, or from opset 18 an input."""
    axes = node.attributes.get("axes")
    if node.input(1):
        array = b.constant(node.input(1)) if b.is_constant(node.input(1)) else None
        axes = None if array is None else tuple(int(axis) for axis in array.reshape(-1))
    if axes is None or {axis % 4 for axis in axes} != {2, 3}:
        raise NotInteger("it takes the mean over something else than the image")
    value = global_average_pool(b, node)
    if not node.attributes.get("keepdims", 1):
        value = replace(value, node=b.add(node, ir.Flatten(), [value.node], value.part, value.node.shape[:1]))
    return value


def reshape(b: Builder, node: Node) -> Value:
    """Reshape, Flatten, Squeeze and Unsqueeze of what stays an image, or becomes a vector of features."""
    x = b.value(node.inputs[0])
    arrays = [b.sample(node.inputs[0])] + [_small_input(b, name) for name in node.inputs[1:]]
    shape = b.run(node, arrays)[0].shape
    batch = arrays[0].shape[0]
    if shape == (batch, *x.node.shape):
        return x
    if shape == (batch, math.prod(x.node.shape)):
        return _kept(b, node, x, b.add(node, ir.Flatten(), [x.node], x.part, shape[1:]))
    raise NotInteger(f"it makes {list(shape)} of an image {list(arrays[0].shape)}, and integer parts can only flatten")


def _small_input(b: Builder, name: str) -> Array:
    if b.is_constant(name):
        array = b.constant(name)
        assert array is not None
        return array
    if name in b.values:
        raise NotInteger("its shape is computed from an image")
    return b.sample(name)


def identity(b: Builder, node: Node) -> Value:
    """Identity, and Dropout, which does nothing in inference."""
    if node.op_type == "Dropout" and node.input(2) and quantizers.scalar(b, node.input(2), "training mode"):
        raise NotInteger("it is in training mode")
    return b.value(node.inputs[0])


def concat(b: Builder, node: Node) -> Value:
    """The channels of several images, or several vectors of features."""
    values = [floats_of(b, name) for name in node.inputs]
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
    made = b.add(node, ir.Concat(), [value.node for value in values], part, (sum(shape[0] for shape in shapes), *shapes[0][1:]))
    grids = {value.grid for value in values}
    return Value(part, made, grids.pop() if len(grids) == 1 else None)


def _gathered(b: Builder, node: Node, x: Value, index: Array) -> Value:
    """Pixels by their indices: int (height', width') of row * width + column, -1 for 0.0."""
    channels, _, width = _image(x)
    rows = np.where((index < 0).all(axis=1), -1, index.max(axis=1) // width)
    columns = np.where((index < 0).all(axis=0), -1, index.max(axis=0) % width)
    expected = np.where((rows[:, None] < 0) | (columns < 0), -1, rows[:, None] * width + columns)
    if (expected != index).any():
        raise NotInteger("it does not take whole rows and columns of pixels")
    op = ir.Gather(rows.astype(np.int32), columns.astype(np.int32))
    return _kept(b, node, x, b.add(node, op, [x.node], x.part, (channels, len(rows), len(columns))))


def _indices(x: Value) -> Array:
    """float32 (1, 1, H, W): what each pixel's index is, so that moving them tells where pixels come from."""
    _, height, width = _image(x)
    if height * width >= 2**24:
        raise NotInteger("its input has too many pixels")
    return np.arange(height * width, dtype=np.float32).reshape(1, 1, height, width)


def resize(b: Builder, node: Node) -> Value:
    """Resize and Upsample to the nearest pixel."""
    x = quantized_of(b, node.inputs[0])
    if node.attributes.get("mode", "nearest") != "nearest":
        raise NotInteger("it interpolates")
    index = _indices(x)
    arrays = [_small_input(b, name) if name else None for name in node.inputs[1:]]
    if len(arrays) > 2 and arrays[2] is not None and arrays[2].size:  # the sizes of the whole image, batch and channels among them
        if node.attributes.get("axes") is not None:
            raise NotInteger("it resizes by axes")
        arrays[2] = np.concatenate([np.ones(2, arrays[2].dtype), arrays[2][2:]])
    result = b.run(node, [index, *arrays])[0]
    if result.shape[:2] != (1, 1):
        raise NotInteger("it resizes more than the image")
    return _gathered(b, node, x, result[0, 0].astype(np.int64))


def pad(b: Builder, node: Node) -> Value:
    """Pad of the image: zeros, or pixels of its own."""
    x = quantized_of(b, node.inputs[0])
    arrays = [_small_input(b, name) if name else None for name in node.inputs[1:]]
    value = arrays[1] if len(arrays) > 1 and arrays[1] is not None else np.float32(node.attributes.get("value", 0))
    if np.any(value):
        raise NotInteger("it pads with something else than 0")
    result = b.run(node, [_indices(x) + 1, *arrays])[0]  # what is padded is 0
    if result.shape[:2] != (1, 1):
        raise NotInteger("it pads more than the image")
    return _gathered(b, node, x, result[0, 0].astype(np.int64) - 1)


_MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def moved_constant(b: Builder, node: Node) -> QuantizedConstant | None:
    """A quantized constant that is transposed or reshaped; None where it is not, or its scales do not lie along a side any more."""
    if node.op_type not in _MOVERS or node.inputs[0] not in b.quantized:
        return None
    rest = [b.constant(name) for name in node.inputs[1:]]
    return b.quantized[node.inputs[0]].moved(lambda array: b.run(node, [array, *rest])[0])


RULES: dict[str, Rule] = {
    "Quant": quantizers.quant,
    "BipolarQuant": quantizers.bipolar_quant,
    "QuantizeLinear": quantizers.quantize_linear,
    "DequantizeLinear": quantizers.dequantize_linear,
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": batch_normalization,
    "Mul": multiply,
    "Div": divide,
    "Sub": subtract,
    "Add": add,
    "Relu": relu,
    "Clip": clip,
    "MaxPool": max_pool,
    "GlobalMaxPool": global_max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "ReduceMean": reduce_mean,
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Identity": identity,
    "Dropout": identity,
    "Concat": concat,
    "Resize": resize,
    "Upsample": resize,
    "Pad": pad,
}
