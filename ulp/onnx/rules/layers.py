"""Layers with weights: Conv, Gemm and MatMul of codes with integers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ulp.nn import graph as ir
from ulp.nn.quantizer import Quantizer
from ulp.nn.subpixel import spread, turned
from ulp.onnx import views
from ulp.onnx.chains import RowProduct
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.parts import Value, without_floats
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger, QuantizedConstant, layer_weights, nbits_weights

from . import groups
from .operands import (
    as_image,
    as_sequence,
    floats_of,
    known,
    quantized_of,
    quantized_weights,
    transposed_geometry,
    window_geometry,
    windowed,
)
from .sequences import floats_or_root, of_rows, product


def conv(scope: Scope, node: Node) -> Value:
    """Conv of codes with integers, over an image or a sequence (C, L), which is an image of one row."""
    given = floats_of(scope, node.inputs[0], viewed=True)
    given, factors = (given, None) if given.scaled is None else given.scaled
    if given.grid is None:
        raise NotInteger("its input is not quantized")
    x, image = windowed(given)
    assert x.grid is not None
    q = quantized_weights(scope, node.inputs[1])
    channels = image[0]
    groups = int(node.attributes.get("group", 1))
    if q.integers.ndim != 1 + len(image) or q.integers.shape[1] * groups != channels or len(q.integers) % groups:
        raise OnnxError(f"{node}: weights of shape {list(q.integers.shape)} in {groups} groups do not fit {channels} channels")
    if factors is not None:
        q = _with_factors(q, factors, groups)
    g = window_geometry(scope, node, image, q.integers.shape[2:])
    bias = known(scope, node.input(2), "bias") if node.input(2) else None
    weights = layer_weights(q, x.grid, bias)
    if len(image) == 2:
        weights = replace(weights, integers=weights.integers[:, :, None])
    before, after, stride, dilation = g.before, g.after, g.stride, g.dilation
    op = ir.Conv(
        weights,
        x.grid,
        as_image(stride, 1),
        (*as_image(before, 0), *as_image(after, 0)),
        as_image(dilation, 1),
        groups,
    )
    out = len(q.integers), *as_image(g.out, 1)
    return as_sequence(Value(x.part, scope.add(node, op, [x.node], x.part, out)), len(image))


def conv_transpose(scope: Scope, node: Node) -> Value:
    """ConvTranspose of codes with integers: a convolution of the image with zeros between its pixels, by the turned kernel."""
    x, image = windowed(quantized_of(scope, node.inputs[0], viewed=True))
    assert x.grid is not None
    q = quantized_weights(scope, node.inputs[1])
    groups = int(node.attributes.get("group", 1))
    if q.integers.ndim != 1 + len(image) or q.integers.shape[0] != image[0] or image[0] % groups:
        raise OnnxError(f"{node}: weights of shape {list(q.integers.shape)} in {groups} groups do not fit {image[0]} channels")
    kernel = q.integers.shape[2:]
    try:
        stride, dilation, first, out = transposed_geometry(scope, node, image[1:], kernel)
        scope.limits.check_tensor([q.integers.shape[1] * groups, *out], 4)
        scope.limits.check_tensor([image[0], *(n * s + d * k for n, s, d, k in zip(image[1:], stride, dilation, kernel, strict=True))], 1)
    except OnnxError as error:
        raise OnnxError(f"{node}: {error}") from error
    bias = known(scope, node.input(2), "bias") if node.input(2) else None
    weights = layer_weights(_turned(q, groups), x.grid, bias)
    if len(image) == 2:
        weights = replace(weights, integers=weights.integers[:, :, None])
    places, before, after = [], [], []
    for n, s, d, k, begin, size in zip(image[1:], stride, dilation, kernel, first, out, strict=True):
        at, around = spread(n, s, d, k, begin, size)
        if at.size == 0:
            raise NotInteger("its padding leaves nothing of the image")
        places.append(at)
        before.append(around[0])
        after.append(around[1])
    if len(image) == 2:
        places.insert(0, np.zeros(1, np.int32))
    source = x.node
    if any(not np.array_equal(index, np.arange(side)) for index, side in zip(places, source.shape[1:], strict=True)):
        source = scope.add(node, ir.Gather(*places), [source], x.part, (image[0], len(places[0]), len(places[1])))
    pads = (*as_image(before, 0), *as_image(after, 0))
    op = ir.Conv(weights, x.grid, (1, 1), pads, as_image(dilation, 1), groups)
    made = scope.add(node, op, [source], x.part, (len(weights.integers), *as_image(out, 1)))
    return as_sequence(Value(x.part, made), len(image))


def _turned(q: QuantizedConstant, groups: int) -> QuantizedConstant:
    """Weights (C, O / groups, ...) of a ConvTranspose as those (O, C / groups, ...) of a Conv."""
    shape = q.integers.shape
    parameters = []
    for array in (turned(np.broadcast_to(parameter, shape), groups) for parameter in (q.scale, q.zero)):
        rows = array.reshape(len(array), -1)
        if (rows != rows[:, :1]).any():
            raise NotInteger("the scale of its weights differs within an output channel")
        parameters.append(rows[:, 0].reshape(-1, *(1,) * (len(shape) - 1)))
    return QuantizedConstant(turned(q.integers, groups), *parameters)


def _with_factors(q: QuantizedConstant, factors: Array, groups: int) -> QuantizedConstant:
    """The weights of a layer whose input has these factors per channel, equal within each group, for the input without them."""
    of_groups = factors.reshape(groups, -1)
    if (of_groups != of_groups[:, :1]).any():
        raise NotInteger("its input has a scale per channel, and its sums are over several channels")
    per_output = np.repeat(of_groups[:, 0], len(q.integers) // groups)
    return QuantizedConstant(q.integers, q.scale * per_output.reshape(-1, *(1,) * (q.integers.ndim - 1)), q.zero)


def _product(scope: Scope, node: Node, weights: QuantizedConstant, bias: QuantizedConstant | Array | None) -> Value:
    """A linear layer with integers (O, features), of a vector, or of each pixel of what has its features last."""
    x = quantized_of(scope, node.inputs[0], viewed=True)
    grid = x.grid
    assert grid is not None
    shape = views.shape_of(x)
    if weights.integers.ndim != 2 or weights.integers.shape[1] != shape[-1]:
        raise OnnxError(f"{node}: weights of shape {list(weights.integers.shape)} do not fit {shape[-1]} features")
    outputs = len(weights.integers)
    if groups.has_groups(weights):
        return groups.in_groups(scope, node, x, weights, bias)
    made = layer_weights(weights, grid, bias)
    if len(shape) == 1:
        x = views.image(x)
        return Value(x.part, scope.add(node, ir.Linear(made, grid), [x.node], x.part, (outputs,)))
    x = views.tokens(x)
    op = ir.Conv(replace(made, integers=made.integers[:, :, None, None]), grid, (1, 1), (0, 0, 0, 0), (1, 1), 1)
    result = scope.add(node, op, [x.node], x.part, (outputs, *x.node.shape[1:]))
    places = views.ordered(outputs, math.prod(result.shape[1:])).T.reshape(*shape[:-1], outputs)
    return Value(x.part, result, view=places)


def _transposed(weights: QuantizedConstant) -> QuantizedConstant:
    return QuantizedConstant(weights.integers.T, weights.scale.T, weights.zero.T)


def _of_gemm(scope: Scope, node: Node) -> tuple[QuantizedConstant, QuantizedConstant | Array | None]:
    """Weights (O, features) and bias of a Gemm."""
    get = node.attributes.get
    if get("alpha", 1.0) != 1 or get("beta", 1.0) != 1 or get("transA", 0):
        raise NotInteger("its alpha or beta is not 1, or it transposes its input")
    weights = quantized_weights(scope, node.inputs[1])
    bias = known(scope, node.input(2), "bias") if node.input(2) else None
    shape = () if bias is None else bias.integers.shape if isinstance(bias, QuantizedConstant) else bias.shape
    if math.prod(shape) not in (1, shape[-1] if shape else 1):
        raise NotInteger("its bias differs by row")
    return weights if get("transB", 0) else _transposed(weights), bias


def gemm(scope: Scope, node: Node) -> Value:
    """Gemm of codes with integers."""
    return _product(scope, node, *_of_gemm(scope, node))


def row_product(scope: Scope, chain: RowProduct) -> Value:
    """Gemm or MatMul of rows that are quantized in the call; it may begin a part."""
    node = chain.product
    bias: QuantizedConstant | Array | None = None
    if node.op_type == "Gemm":
        weights, bias = _of_gemm(scope, node)
    else:
        weights = _transposed(quantized_weights(scope, node.inputs[1]))
    x = floats_or_root(scope, chain.source)
    features = views.shape_of(x)[-1]
    if weights.integers.ndim != 2 or weights.integers.shape[1] != features:
        raise NotInteger(f"its weights of shape {list(weights.integers.shape)} do not fit {features} features")
    bits = int(scope.scalar(chain.bits, "bit width"))
    floats = bias.values() if isinstance(bias, QuantizedConstant) else bias
    # Codes less any zero point.
    made = layer_weights(weights, Quantizer(bits, 1.0, 0), floats)
    if not chain.outliers:
        return of_rows(scope, node, x, ir.DynamicLinear(made, True, bits))
    columns, wide = scope.array(chain.outliers, "outliers"), scope.array(chain.outlier_weights, "weight")
    outputs = len(weights.integers)
    if wide.shape != (len(columns), outputs) or columns[-1] >= features or wide.dtype != np.float32 or not np.isfinite(wide).all():
        raise NotInteger("the weights of its outliers are not float32, one for each output")
    op = ir.DynamicLinear(made, True, bits, outliers=tuple(columns.tolist()), outlier_weights=np.ascontiguousarray(wide))
    result = of_rows(scope, node, x, op)
    for each in chain.nodes:
        scope.layers[each.name] = (result.node.op, result.node.shape)
    return result


# Multiply-accumulates of a layer in floats that a plan runs. With more, onnxruntime's kernels gain what calling them takes.
_SMALL = 8192


def small_product(scope: Scope, node: Node) -> Value:
    """Gemm or MatMul in floats of what layers of a part made, so small that calling onnxruntime for it would take longer."""
    get = node.attributes.get
    if node.op_type not in ("Gemm", "MatMul") or get("alpha", 1.0) != 1 or get("beta", 1.0) != 1 or get("transA", 0):
        raise NotInteger("it is no plain product")
    matrix = scope.array(node.inputs[1], "weight")
    x = floats_of(scope, node.inputs[0])
    if matrix.ndim != 2 or matrix.size > _SMALL or len(x.node.shape) != 1:
        raise NotInteger("it is no small product with a matrix")
    matrix = matrix if get("transB", 0) else matrix.T
    if matrix.shape[1:] != x.node.shape or not any(isinstance(made.op, (ir.Conv, ir.Linear)) for made in x.part.graph.nodes):
        raise NotInteger("it does not follow layers in integers")
    bias = scope.array(node.input(2), "bias") if node.input(2) else np.zeros(1, np.float32)
    if matrix.dtype != np.float32 or bias.dtype != np.float32 or bias.size not in (1, len(matrix)):
        raise NotInteger("its parameters are not float32, one bias per output")
    if not (np.isfinite(matrix).all() and np.isfinite(bias).all()) or without_floats(x.node) is not None:
        raise NotInteger("its weights are not finite, or its input cannot be had as floats")
    op = ir.LinearFloats(np.ascontiguousarray(matrix), np.array(np.broadcast_to(bias.reshape(-1), len(matrix))))
    return Value(x.part, scope.add(node, op, [x.node], x.part, (len(matrix),)))


def matmul(scope: Scope, node: Node) -> Value:
    """MatMul of codes with integers, or of two computed tensors."""
    if not any(scope.is_constant(name) for name in node.inputs):
        return product(scope, node)
    weights = quantized_weights(scope, node.inputs[1])
    if weights.integers.ndim != 2:
        raise NotInteger("only matrices are multiplied by in integers, not stacks of them")
    return _product(scope, node, _transposed(weights), None)


def matmul_nbits(scope: Scope, node: Node) -> Value:
    """onnxruntime's MatMulNBits: of codes as they are; of floats with accuracy_level 4, each block of a row quantized in the call.

    So does onnxruntime, whose integers are those of max |x| / 127 per block, too. Without accuracy_level 4 a file asks for a product of
    floats.
    """
    get = node.attributes.get
    x = groups.source(scope, node)
    if node.input(4) or get("weight_prepacked", 0):
        raise NotInteger("its weights are in another order")
    arrays = [scope.array(name, "weight") if name else None for name in (node.inputs[1], node.inputs[2], node.input(3))]
    b, scales, zeros = arrays
    assert b is not None
    assert scales is not None
    if scales.dtype != np.float32:
        raise NotInteger(f"it computes in {scales.dtype}")
    sizes = (int(get(key, default)) for key, default in (("N", 0), ("K", 0), ("bits", 4), ("block_size", 32)))
    outputs, features, bits, block = sizes
    if block < 16 or outputs < 1 or features < 1:
        raise NotInteger(f"its sizes N={outputs}, K={features}, block_size={block} are out of range")
    try:
        integers, each, points = nbits_weights(b, scales, zeros, outputs, features, bits, block)
    except ValueError as error:
        raise NotInteger(str(error)) from error
    bias = known(scope, node.input(5), "bias") if node.input(5) else None
    one = not ((each != each[:, :1]).any() or (points != points[:, :1]).any() or (points % 1 != 0).any())
    if one and x.grid is not None:
        weights = QuantizedConstant(integers, each[:, :1].astype(np.float64), points[:, :1].astype(np.int64))
        return _product(scope, node, weights, bias)
    return groups.product(scope, node, x, groups.matrix_of(integers.T, bits, each, points, min(block, features)), bias)
