"""Layers with weights: Conv, Gemm and MatMul of codes with integers."""

from __future__ import annotations

import math

import numpy as np

from ulp.nn import graph as ir
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger, QuantizedConstant, layer_weights, nbits_weights

from .operands import floats_of, image_of, known, quantized_of, quantized_weights, window_geometry


def conv(scope: Scope, node: Node) -> Value:
    """Conv of codes with integers."""
    given = floats_of(scope, node.inputs[0])
    x, factors = (given, None) if given.scaled is None else given.scaled
    if x.grid is None:
        raise NotInteger("its input is not quantized")
    q = quantized_weights(scope, node.inputs[1])
    channels, *sides = image_of(x)
    groups = int(node.attributes.get("group", 1))
    if q.integers.ndim != 4 or q.integers.shape[1] * groups != channels or len(q.integers) % groups:
        raise OnnxError(f"{node}: weights of shape {list(q.integers.shape)} in {groups} groups do not fit {channels} channels")
    if factors is not None:
        q = _with_factors(q, factors, groups)
    g = window_geometry(scope, node, (channels, *sides), q.integers.shape[2:])
    bias = known(scope, node.input(2), "bias") if node.input(2) else None
    op = ir.Conv(
        layer_weights(q, x.grid, bias),
        x.grid,
        (g.stride[0], g.stride[1]),
        (g.before[0], g.before[1], g.after[0], g.after[1]),
        (g.dilation[0], g.dilation[1]),
        groups,
    )
    return Value(x.part, scope.add(node, op, [x.node], x.part, (len(q.integers), *g.out)))


def _with_factors(q: QuantizedConstant, factors: Array, groups: int) -> QuantizedConstant:
    """The weights of a layer whose input has these factors per channel, equal within each group, for the input without them."""
    of_groups = factors.reshape(groups, -1)
    if (of_groups != of_groups[:, :1]).any():
        raise NotInteger("its input has a scale per channel, and its sums are over several channels")
    per_output = np.repeat(of_groups[:, 0], len(q.integers) // groups)
    return QuantizedConstant(q.integers, q.scale * per_output.reshape(-1, *(1,) * (q.integers.ndim - 1)), q.zero)


def _product(scope: Scope, node: Node, weights: QuantizedConstant, bias: QuantizedConstant | Array | None) -> Value:
    """A linear layer with integers (O, features)."""
    x = quantized_of(scope, node.inputs[0])
    assert x.grid is not None
    if len(x.node.shape) != 1:
        raise NotInteger("only matrices are multiplied in integers, not stacks of them")
    if weights.integers.ndim != 2 or weights.integers.shape[1] != x.node.shape[0]:
        raise OnnxError(f"{node}: weights of shape {list(weights.integers.shape)} do not fit {x.node.shape[0]} features")
    op = ir.Linear(layer_weights(weights, x.grid, bias), x.grid)
    return Value(x.part, scope.add(node, op, [x.node], x.part, (len(weights.integers),)))


def _transposed(weights: QuantizedConstant) -> QuantizedConstant:
    return QuantizedConstant(weights.integers.T, weights.scale.T, weights.zero.T)


def gemm(scope: Scope, node: Node) -> Value:
    """Gemm of codes with integers."""
    get = node.attributes.get
    if get("alpha", 1.0) != 1 or get("beta", 1.0) != 1 or get("transA", 0):
        raise NotInteger("its alpha or beta is not 1, or it transposes its input")
    weights = quantized_weights(scope, node.inputs[1])
    bias = known(scope, node.input(2), "bias") if node.input(2) else None
    shape = () if bias is None else bias.integers.shape if isinstance(bias, QuantizedConstant) else bias.shape
    if math.prod(shape) not in (1, shape[-1] if shape else 1):
        raise NotInteger("its bias differs by row")
    return _product(scope, node, weights if get("transB", 0) else _transposed(weights), bias)


def matmul(scope: Scope, node: Node) -> Value:
    """MatMul of codes with integers."""
    weights = quantized_weights(scope, node.inputs[1])
    if weights.integers.ndim != 2:
        raise NotInteger("only matrices are multiplied in integers, not stacks of them")
    return _product(scope, node, _transposed(weights), None)


def matmul_nbits(scope: Scope, node: Node) -> Value:
    """onnxruntime's MatMulNBits of codes, where the scale of its weights does not differ within an output."""
    quantized_of(scope, node.inputs[0])
    get = node.attributes.get
    if node.input(4) or get("weight_prepacked", 0):
        raise NotInteger("its weights are in another order")
    arrays = [scope.array(name, "weight") if name else None for name in (node.inputs[1], node.inputs[2], node.input(3))]
    b, scales, zeros = arrays
    assert b is not None
    assert scales is not None
    sizes = (int(get(key, default)) for key, default in (("N", 0), ("K", 0), ("bits", 4), ("block_size", 32)))
    try:
        integers, each, points = nbits_weights(b, scales, zeros, *sizes)
    except (ValueError, ZeroDivisionError) as error:
        raise NotInteger(str(error)) from error
    if (each != each[:, :1]).any() or (points != points[:, :1]).any() or (points % 1 != 0).any():
        raise NotInteger("the scale of its weights differs within an output channel")
    weights = QuantizedConstant(integers, each[:, :1].astype(np.float64), points[:, :1].astype(np.int64))
    return _product(scope, node, weights, known(scope, node.input(5), "bias") if node.input(5) else None)
