"""Recognising quantizers: QONNX's Quant and BipolarQuant, and QuantizeLinear, Clip and DequantizeLinear, as quantizers of activations and
as integers of constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ulp.nn import graph as ir
from ulp.nn.quantizer import Quantizer
from ulp.onnx import views
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.operators import OPERATORS
from ulp.onnx.operators.elementwise import cast_type
from ulp.onnx.operators.qonnx import quant_steps
from ulp.onnx.operators.registry import Call
from ulp.onnx.parts import Integers, Part, Value, comes_from_sums
from ulp.onnx.scope import Scope
from ulp.onnx.stages import Codes
from ulp.onnx.weights import NotInteger, QuantizedConstant, along

from .steps import RINT, by_rounding, codes_by_steps, grid_of_thresholds, interval_of, rounding_of, truncated

# What moves elements of its first input and changes none.
_MOVES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "DepthToSpace", "SpaceToDepth", "Slice", "Split", "Gather")


def _quantizer(low: int, high: int, zero: float, scale: float) -> tuple[Quantizer, float]:
    """The quantizer of integers low..high, and the largest value that it may give: inf where that is its last code's."""
    if not low <= zero <= high or zero != int(zero):
        raise NotInteger(f"its zero point {zero:g} is no integer from {low} to {high}")
    if high - low > 255:
        raise NotInteger(f"its integers from {low} to {high} do not fit 8 bits")
    bits = max(1, (high - low).bit_length())
    try:
        quantizer = Quantizer(bits, float(np.float32(scale)), int(zero) - low)
    except ValueError as error:
        raise NotInteger(str(error)) from error
    return quantizer, np.inf if high - low == quantizer.levels else (high - zero) * quantizer.scale


def _codes_of(scope: Scope, node: Node, part: Part, source: ir.Node, quantizer: Quantizer, highest: float) -> ir.Node:
    if highest != np.inf:
        source = scope.add(node, ir.Clamp(-np.inf, highest), [source], part, source.shape)
    return scope.add(node, ir.Quantize(quantizer), [source], part, source.shape)


def _quantize(scope: Scope, node: Node, quantizer: Quantizer, highest: float, dtype: np.dtype[Any] | None, low: int) -> Value:
    """A quantizer's node behind the first input, which may be a float tensor outside of all parts. dtype: that of integers."""
    x = node.inputs[0]
    relu = scope.float_nodes.get(x)
    if relu is not None and relu.op_type == "Relu" and quantizer.zero == 0:
        x = relu.inputs[0]  # codes begin at 0.0 anyway
    if x in scope.values or x in scope.grids:
        value = scope.value(x)
        if value.integers is not None:
            raise NotInteger("it quantizes integers")
        part, source = value.part, value.node
    else:
        part = scope.part(x)
        source = part.input(x)
    integers = None if dtype is None else Integers(dtype, low, source)
    return Value(part, _codes_of(scope, node, part, source, quantizer, highest), quantizer, integers)


def _quant_parameters(scope: Scope, node: Node) -> tuple[float, float, float]:
    """(scale, zero point, bit width) of a Quant. NotInteger unless each is one constant."""
    scale, zero, bits = (scope.scalar(node.input(i), what) for i, what in ((1, "scale"), (2, "zero point"), (3, "bit width")))
    return scale, zero, bits


def _is_bipolar(node: Node, bits: float) -> bool:
    """Whether a Quant gives -scale and +scale: so QONNX defines one bit with a sign."""
    return bits == 1 and bool(node.attributes.get("signed", 1))


def quant(scope: Scope, node: Node) -> Value:
    """QONNX Quant: (round(clamp(x / scale + zero)) - zero) * scale."""
    mode = rounding_of(node, "ROUND")
    scale, zero, bits = _quant_parameters(scope, node)
    if _is_bipolar(node, bits):
        if zero:
            raise NotInteger(f"it gives -1 and +1 less a zero point of {zero:g}")
        return codes_by_steps(scope, node, _quantizer_of_signs(scale))
    low, high = interval_of(node, bits, 1, mode)
    quantizer, highest = _quantizer(low, high, zero, scale)
    if mode not in RINT:
        return codes_by_steps(scope, node, by_rounding(quantizer, low, high, mode))
    if zero % 2:
        # rint(x / scale + zero) = rint(x / scale) + zero, but for ties.
        value = scope.value(node.inputs[0])
        if not comes_from_sums(value.node):
            return codes_by_steps(scope, node, by_rounding(quantizer, low, high, mode))
        quantizer = replace(quantizer, ties_to_odd=True)
    return _quantize(scope, node, quantizer, highest, None, low)


def _quantizer_of_signs(scale: float) -> Quantizer:
    """scale where x >= 0, else -scale."""
    try:
        return Quantizer(2, scale, 1, bipolar=True)
    except ValueError as error:
        raise NotInteger(str(error)) from error


def bipolar_quant(scope: Scope, node: Node) -> Value:
    """QONNX BipolarQuant: scale where x >= 0, else -scale."""
    return codes_by_steps(scope, node, _quantizer_of_signs(scope.scalar(node.input(1), "scale")))


def _stored(scope: Scope, node: Node) -> tuple[np.dtype[Any], int, int, float]:
    """(dtype, lowest, highest, zero point) of a QuantizeLinear's or DequantizeLinear's integers."""
    zero = 0.0
    dtype, bits = np.dtype(np.uint8), 8
    name = node.input(2)
    if name:
        zero = scope.scalar(name, "zero point")
        array = scope.constant(name)
        assert array is not None
        dtype = array.dtype
        bits = scope.bits.get(name, dtype.itemsize * 8)
    elif node.op_type == "DequantizeLinear":
        dtype = scope.sample(node.inputs[0]).dtype
        bits = dtype.itemsize * 8
    if dtype.kind not in "iu" or bits > 8:
        raise NotInteger(f"its integers are {dtype}, and codes have 8 bits")
    low = -(2 ** (bits - 1)) if dtype.kind == "i" else 0
    return dtype, low, low + 2**bits - 1, zero


def quantize_linear(scope: Scope, node: Node) -> Value:
    """rint(x / scale) + zero, clamped to the dtype."""
    dtype, low, high, zero = _stored(scope, node)
    return _quantize(scope, node, *_quantizer(low, high, zero, scope.scalar(node.input(1), "scale")), dtype, low)


def clip_integers(scope: Scope, node: Node, value: Value, low: float, high: float) -> Value:
    """Clip between QuantizeLinear and DequantizeLinear, which says that there are fewer bits."""
    assert value.integers is not None
    assert value.grid is not None
    first = value.integers.low
    if value.integers.origin is None:
        raise NotInteger("it clips integers that are not a QuantizeLinear's")
    lowest, last = int(max(low, first)), int(min(high, first + value.grid.levels))
    quantizer, highest = _quantizer(lowest, last, value.grid.zero + first, value.grid.scale)
    node_of_codes = _codes_of(scope, node, value.part, value.integers.origin, quantizer, highest)
    return Value(value.part, node_of_codes, quantizer, replace(value.integers, low=lowest))


def cast(scope: Scope, node: Node) -> Value:
    """A Cast to the type that its input has, or of integers from outside of all parts to floats."""
    name = node.inputs[0]
    if name not in scope.values and scope.is_byte(name) and cast_type(int(node.attributes["to"])) == np.float32:
        low = Codes.whole(scope.sample(name).dtype).low
        return _coded(scope, node, Quantizer(8, 1.0, -low))
    value = scope.value(name)
    dtype = np.dtype(np.float32) if value.integers is None else value.integers.dtype
    if cast_type(int(node.attributes["to"])) != dtype or node.attributes.get("through", 0):
        raise NotInteger(f"it makes another type of {dtype}")
    return value


def dequantize_linear(scope: Scope, node: Node) -> Value:
    """The floats of integers: nothing to compute where scale and zero point are those by which they were quantized.

    Integers from outside of all parts are codes as they come.
    """
    name = node.inputs[0]
    if name not in scope.values:
        _, low, high, zero = _stored(scope, node)
        return _coded(scope, node, _quantizer(low, high, zero, scope.scalar(node.input(1), "scale"))[0])
    value = scope.value(name)
    if value.integers is None or value.grid is None:
        raise NotInteger("its input is not quantized")
    scale = np.float32(scope.scalar(node.input(1), "scale"))
    zero = scope.scalar(node.input(2), "zero point") if node.input(2) else 0
    if (scale, zero) != (np.float32(value.grid.scale), value.grid.zero + value.integers.low):
        raise NotInteger("its scale or zero point is not that of the QuantizeLinear before it")
    return Value(value.part, value.node, value.grid)


def _coded(scope: Scope, node: Node, quantizer: Quantizer) -> Value:
    """The values of the node's input, integers of one byte that no part makes."""
    name = node.inputs[0]
    if not scope.is_byte(name):
        raise NotInteger("its input is not quantized")
    part, source = scope.coded(name, quantizer)
    made = scope.add(node, ir.Quantize(quantizer), [source], part, source.shape)
    return Value(part, made, quantizer, view=views.root_view(source))


def grid_of(scope: Scope, node: Node) -> Quantizer | None:
    """The quantizer whose codes the result of a node that runs in floats holds, if there is one."""
    try:
        if node.op_type == "Quant":
            scale, zero, bits = _quant_parameters(scope, node)
            if _is_bipolar(node, bits):
                return None if zero else Quantizer(2, scale, 1)
            return _quantizer(*interval_of(node, bits, 1, rounding_of(node, "ROUND")), zero, scale)[0]
        if node.op_type == "BipolarQuant":
            return Quantizer(2, scope.scalar(node.input(1), "scale"), 1)
        if node.op_type == "MultiThreshold":
            return grid_of_thresholds(scope, node)
        if node.op_type == "DequantizeLinear":
            _, low, high, zero = _stored(scope, node)
            return _quantizer(low, high, zero, scope.scalar(node.input(1), "scale"))[0]
        if node.op_type == "Trunc":
            return replace(truncated(scope, node), steps=None)
    except (NotInteger, ValueError):
        return None
    if node.op_type in _MOVES:
        source = node.inputs[0]
        known = scope.values[source].grid if source in scope.values and scope.values[source].integers is None else scope.grids.get(source)
        return None if known is None else known.by_rint()
    return None


# Constants.


def constant(scope: Scope, node: Node) -> QuantizedConstant | None:
    """The integers of a quantizer whose inputs are all constants; None if it is no quantizer, or makes none of 8 bits."""
    rule = {"Quant": _constant_quant, "BipolarQuant": _constant_bipolar, "DequantizeLinear": _constant_dequantized}.get(node.op_type)
    if rule is None:
        return None
    arrays = [array for name in node.inputs if (array := scope.constant(name)) is not None]
    scale = arrays[1]
    usable = (scale != 0) if node.op_type == "DequantizeLinear" else (scale > 0)
    if not (np.isfinite(scale) & usable).all():
        return None  # its operator says what is wrong, if something is
    return rule(scope, node, arrays)


def _constant_quant(scope: Scope, node: Node, arrays: list[Array]) -> QuantizedConstant | None:
    x, scale, *_ = arrays
    if len(arrays) < 4 or arrays[3].size != 1 or arrays[3].reshape(-1)[0] > 8 or scale.ndim > x.ndim or not (scale > 0).all():
        return None
    if (arrays[2] % 1 != 0).any():
        return None  # less such a zero point, the values are no integers times the scale
    row = OPERATORS["Quant"].row(scope.opset)
    with np.errstate(all="ignore"):
        step = scale.astype(np.float32)
        if not (np.isfinite(step * np.float32(max(255, np.abs(arrays[2]).max(initial=0)))) & (step > 0)).all():
            return None  # floats might overflow
        try:
            row.check_arrays(arrays)
            integers = _steps(row.call(node.attributes, scope.opset, 1, scope.limits), arrays[:4])
        except (OnnxError, ValueError):
            return None  # its operator says what is wrong
    if integers is None:
        return None
    broadcast = step.reshape((1,) * (x.ndim - scale.ndim) + scale.shape).astype(np.float64)
    return QuantizedConstant(integers, broadcast, np.zeros((1,) * x.ndim, np.int64))


def _steps(call: Call, arrays: list[Array]) -> Array | None:
    """How many steps of its scale each value of a constant `Quant` is; None where these are no integers within +-255."""
    x = arrays[0]
    bytes_do = not arrays[2].any() and (call["signed"] or arrays[3].reshape(-1)[0] <= 7)  # as nearly always
    integers: Array = np.empty(x.shape, np.int8 if bytes_do else np.int16)
    lowest = highest = 0.0
    for rows in _blocks(x):
        steps = quant_steps(call, *(a[rows] if a.ndim == x.ndim and a.ndim and len(a) > 1 else a for a in arrays))
        low, high = steps.min(initial=0), steps.max(initial=0)  # NaN where there is one
        if not (low >= -255 and high <= 255):
            return None
        lowest, highest = min(lowest, float(low)), max(highest, float(high))
        integers[rows] = steps
    return integers.astype(np.int8, copy=False) if lowest >= -128 and highest <= 127 else integers


# So many elements are computed at a time that they stay in the cache of a core.
_BLOCK = 2**16


def _blocks(x: Array) -> list[Any]:
    """Indices of pieces of an array along its first side."""
    if x.ndim == 0 or x.size <= _BLOCK:
        return [...]
    rows = max(1, _BLOCK // (x.size // len(x)))
    return [slice(i, i + rows) for i in range(0, len(x), rows)]


def _constant_bipolar(scope: Scope, node: Node, arrays: list[Array]) -> QuantizedConstant | None:
    x, scale, *_rest = arrays
    if scale.ndim > x.ndim:
        return None
    positive = scope.run(node, arrays)[0] > 0
    broadcast = scale.reshape((1,) * (x.ndim - scale.ndim) + scale.shape).astype(np.float64)
    return QuantizedConstant(np.where(positive, np.int8(1), np.int8(-1)), broadcast, np.zeros((1,) * x.ndim, np.int64))


def _constant_dequantized(_: Scope, node: Node, arrays: list[Array]) -> QuantizedConstant | None:
    x, scale, *rest = arrays
    zero = rest[0] if rest else np.zeros((), np.int64)
    axis = int(node.attributes.get("axis", 1))
    block = int(node.attributes.get("block_size", 0))
    if x.dtype.kind not in "iu" or scale.dtype != np.float32 or (scale.size != 1 and not -x.ndim <= axis < x.ndim):
        return None
    if block:
        blocks = tuple(-(-side // block) if i == axis % x.ndim else side for i, side in enumerate(x.shape))
        if scale.shape != blocks or (zero.size != 1 and zero.shape != blocks):
            return None
        scale, zero = (np.repeat(p, block, axis) if p.size > 1 else p for p in (scale, zero))
        index = tuple(slice(side) for side in x.shape)
        scale, zero = scale[index], zero[index] if zero.ndim else zero.reshape((1,) * x.ndim)
    else:
        if scale.size != 1 and (scale.ndim != 1 or scale.size != x.shape[axis]):
            return None
        if zero.size != 1 and zero.shape != scale.shape:
            return None
        scale, zero = along(axis, scale, x.ndim), along(axis, zero, x.ndim)
    return QuantizedConstant(x, scale.astype(np.float64), zero.astype(np.int64))
