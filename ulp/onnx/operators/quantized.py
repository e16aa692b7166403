"""Operators of quantized models. Products of integers are exact: `ulp.gemm` makes them.

Codes of 2 and 4 bits come in int8 and uint8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp._gemm import gemm
from ulp._validate import interval
from ulp.nn.floats import windows
from ulp.onnx.model import OnnxError
from ulp.onnx.weights import nbits_weights
from ulp.packed import PackedMatrix, pack

from .registry import Array, Attribute, Call, integer, operator
from .shaping import axis_of
from .windows import CONV_ATTRIBUTES, prepare_conv

# Of TensorProto.DataType: bits, and whether signed.
_CODE_TYPES = {2: (8, False), 3: (8, True), 4: (16, False), 5: (16, True), 21: (4, False), 22: (4, True), 25: (2, False), 26: (2, True)}
_FLOAT_TYPES: dict[int, npt.DTypeLike] = {1: np.float32, 10: np.float16, 11: np.float64}

# Products of 8-bit values less their zero points are at most 255 * 255: so many fit int32.
_LARGEST_K = (2**31 - 1) // (255 * 255)


def check_factor(scale: Array, name: str) -> None:
    """OnnxError unless all scales are finite and not 0: ONNX's own may be negative."""
    wrong = ~(np.isfinite(scale) & (scale != 0))
    if wrong.any():
        raise OnnxError(f"{name} holds {scale[wrong][0]}: expected finite scales other than 0")


def _spread(call: Call, parameter: Array, x: Array, name: str) -> Array:
    """A scale or zero point so that it broadcasts with X: one for all, one per index along `axis`, or one per block there."""
    if parameter.size == 1:
        return parameter.reshape(())
    axis, block = axis_of(call["axis"], x.ndim), call["block_size"]
    if not block:
        if parameter.shape != (x.shape[axis],):
            raise OnnxError(
                f"{name} has shape {list(parameter.shape)}: expected a scalar or [{x.shape[axis]}], one for each index of axis {axis}"
            )
        return parameter.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    blocks = tuple(-(-side // block) if i == axis else side for i, side in enumerate(x.shape))
    if parameter.shape != blocks:
        raise OnnxError(f"{name} has shape {list(parameter.shape)}: expected {list(blocks)}, one per block of {block} along axis {axis}")
    return np.asarray(np.take(parameter, np.arange(x.shape[axis]) // block, axis))


_BLOCKS: dict[str, Attribute] = {"axis": integer(1), "block_size": integer(0, low=0)}


@operator(
    "QuantizeLinear",
    "x:real y_scale:float2 y_zero_point:code?",
    _BLOCKS,
    since=10,
    saturate=integer(1),
    output_dtype=integer(0),
    precision=integer(0),
)
def quantize_linear(call: Call, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """clamp(rint(x / y_scale) + y_zero_point), halves to even, to the interval of output_dtype or else of the zero point's type."""
    check_factor(scale, "y_scale")
    dtype, low, high = _code_interval(call["output_dtype"], zero)
    if call["precision"] not in (0, *_FLOAT_TYPES):
        raise OnnxError(f"precision={call['precision']}: expected one of {sorted(_FLOAT_TYPES)}")
    given = np.result_type(x if x.dtype.kind == "f" else scale, np.float32)
    precision = np.dtype(_FLOAT_TYPES.get(call["precision"], given))
    divisor = _spread(call, scale, x, "y_scale")
    steps = np.asarray(x.astype(precision, copy=False) / divisor.astype(precision, copy=False))
    np.rint(steps, out=steps)
    if zero is not None and zero.any():
        steps += _spread(call, zero, x, "y_zero_point").astype(precision)
    np.clip(steps, low, high, out=steps)
    if np.isnan(steps).any():
        raise OnnxError("x holds NaN, which no code stands for")
    return steps.astype(dtype)


def _code_interval(output_dtype: int, zero: Array | None) -> tuple[np.dtype[Any], int, int]:
    """The array's type of codes, their smallest and their largest."""
    if output_dtype:
        if output_dtype not in _CODE_TYPES:
            raise OnnxError(f"output_dtype={output_dtype}: expected one of {sorted(_CODE_TYPES)}, integers of 2, 4, 8 or 16 bits")
        bits, signed = _CODE_TYPES[output_dtype]
    else:
        dtype = np.dtype(np.uint8) if zero is None else zero.dtype
        bits, signed = 8 * dtype.itemsize, dtype.kind == "i"
    dtype = np.dtype(f"{'int' if signed else 'uint'}{max(8, bits)}")
    if zero is not None and zero.dtype != dtype:
        raise OnnxError(f"output_dtype={output_dtype}, but the zero point has type {zero.dtype}")
    return dtype, *interval(bits, signed)


@operator("DequantizeLinear", "x:stored x_scale:float x_zero_point:stored?", _BLOCKS, since=10, output_dtype=integer(0))
def dequantize_linear(call: Call, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """(x - x_zero_point) * x_scale, of output_dtype or else of the scale's type."""
    check_factor(scale, "x_scale")
    if call["output_dtype"] not in (0, *_FLOAT_TYPES):
        raise OnnxError(f"output_dtype={call['output_dtype']}: expected one of {sorted(_FLOAT_TYPES)}")
    dtype = np.dtype(_FLOAT_TYPES[call["output_dtype"]]) if call["output_dtype"] else scale.dtype
    # Codes of 16 bits and their differences are exact in float32, not in float16.
    wide = np.result_type(dtype, np.float32)
    call.allow(x.shape, wide)
    if zero is None or not zero.any():
        steps = x.astype(wide)
    elif x.dtype.itemsize < 4:
        steps = x.astype(wide)
        steps -= _spread(call, zero, x, "x_zero_point").astype(wide)
    else:
        steps = (x.astype(np.int64) - _spread(call, zero, x, "x_zero_point")).astype(wide)
    steps *= _spread(call, scale, x, "x_scale").astype(wide)
    return steps.astype(dtype, copy=False)


@operator("DynamicQuantizeLinear", "x:float", since=11, outputs=3)
def dynamic_quantize_linear(_: Call, x: Array) -> tuple[Array, Array, Array]:
    """uint8 codes, scale and zero point that just cover x and 0."""
    if not np.isfinite(x).all():
        raise OnnxError("x holds a NaN or an infinity")
    low, high = np.minimum(x.min(initial=0), 0), np.maximum(x.max(initial=0), 0)
    scale = np.asarray((high - low) / np.float32(255), np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8)
    return np.clip(np.rint(x / scale) + zero.astype(np.float32), 0, 255).astype(np.uint8), scale, zero


def _is_constant(array: Array) -> bool:
    """Whether nobody can have changed the array since it was last seen: it and what it is a view of are read-only."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None or isinstance(owner, bytes)


def _packed(call: Call, b: Array, g: int = 0) -> list[PackedMatrix]:
    """A matrix (K, N), or one of each group g, packed in parts whose sums fit int32. What is made of a constant is kept."""
    known = call.kept.get(g)
    if known is not None and known[0] is b:
        return list(known[1])
    parts = [b[k : k + _LARGEST_K] for k in range(0, len(b), _LARGEST_K)]
    low, high = (int(b.min()), int(b.max())) if b.size else (0, 0)
    bits = max(2, high.bit_length() if b.dtype == np.uint8 else max(high, -low - 1).bit_length() + 1)
    made = [pack(part, bits) for part in parts]
    if _is_constant(b):
        call.kept[g] = b, made
    return made


def _products(a: Array, b: list[PackedMatrix], a_zero: int, b_zero: int | npt.NDArray[np.int32], columns: int) -> npt.NDArray[np.int32]:
    """Exact (M, K) x (K, columns). Where a sum could leave int32 it wraps, as ONNX lets it."""
    if len(b) == 1:
        return np.asarray(gemm(a, b[0], bits=(8, b[0].bits), a_zero=a_zero, b_zero=b_zero))
    total = np.zeros((len(a), columns), np.int32)
    for i, part in enumerate(b):
        k = slice(i * _LARGEST_K, (i + 1) * _LARGEST_K)
        total += gemm(a[:, k], part, bits=(8, part.bits), a_zero=a_zero, b_zero=b_zero)
    return total


def _zero_point(zero: Array | None, length: int, name: str) -> npt.NDArray[np.int32]:
    """A zero point for all, or `length` of them, as int32 of shape () or (length,)."""
    if zero is None:
        return np.zeros((), np.int32)
    if zero.size != 1 and zero.shape != (length,):
        raise OnnxError(f"{name} has shape {list(zero.shape)}: expected a scalar or [{length}]")
    return zero.astype(np.int32).reshape(() if zero.size == 1 else (length,))


def _columns(zeros: npt.NDArray[np.int32]) -> int | npt.NDArray[np.int32]:
    return zeros if zeros.ndim else int(zeros)


def _packed_filters(call: Call, w: Array, g: int, own: int) -> list[PackedMatrix]:
    """The `own` filters of group g as a packed matrix (taps, own)."""
    known = call.kept.get(("w", g))
    if known is not None and known[0] is w:
        return list(known[1])
    made = _packed(call, w[g * own : (g + 1) * own].reshape(own, -1).T, g)
    if _is_constant(w):
        call.kept["w", g] = w, made
    return made


def _conv_sums(call: Call, x: Array, w: Array, x_zero: Array | None, w_zero: Array | None) -> npt.NDArray[np.int32]:
    """The sums of a convolution of integers, exact; padding is with x's zero point."""
    before = int(_zero_point(x_zero, 1, "x_zero_point"))
    zeros = _zero_point(w_zero, len(w), "w_zero_point")
    padded, shape = prepare_conv(call, x, w, None, before)
    view = windows(padded, shape.kernel, shape.stride, shape.dilation)
    sides, groups = len(shape.out), call["group"]
    each, own, pixels = w.shape[1], len(w) // groups, math.prod(shape.out)
    sums = np.empty((x.shape[0], len(w), pixels), np.int32)
    for g in range(groups):
        outputs = slice(g * own, (g + 1) * own)
        columns = _packed_filters(call, w, g, own)
        for i in range(x.shape[0]):
            # (channels, pixels, taps) -> (pixels, channels, taps)
            part = np.moveaxis(view[i, g * each : (g + 1) * each], 0, sides).reshape(pixels, -1)
            sums[i, outputs] = _products(part, columns, before, _columns(zeros[outputs] if zeros.ndim else zeros), own).T
    return sums.reshape(x.shape[0], len(w), *shape.out)


@operator("ConvInteger", "x:byte w:byte2 x_zero_point:byte? w_zero_point:byte2?", CONV_ATTRIBUTES, since=10)
def conv_integer(call: Call, x: Array, w: Array, x_zero: Array | None = None, w_zero: Array | None = None) -> Array:
    """int32 sums of (x - x_zero_point) * (w - w_zero_point); w_zero_point: one, or one per output channel."""
    return _conv_sums(call, x, w, x_zero, w_zero)


def _matmul_sums(call: Call, a: Array, b: Array, a_zero: Array | None, b_zero: Array | None) -> npt.NDArray[np.int32]:
    """The sums of numpy.matmul, exact. Zero points: one, or one per row of a and one per column of b."""
    if a.ndim == 0 or b.ndim == 0:
        raise OnnxError("A and B have one dimension or more")
    left, right = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    (m, k), n = left.shape[-2:], right.shape[-1]
    if k != right.shape[-2]:
        raise OnnxError(f"A of shape {list(a.shape)} and B of {list(b.shape)} do not multiply")
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    call.allow([*batch, m, n], np.int32)
    row_zero = _zero_point(a_zero if a_zero is None or a_zero.size == 1 else a_zero.reshape(-1), m, "a_zero_point")
    column_zero = _zero_point(b_zero if b_zero is None or b_zero.size == 1 else b_zero.reshape(-1), n, "b_zero_point")
    if b.ndim == 2 and not row_zero.ndim:
        sums = _products(left.reshape(-1, k), _packed(call, b), int(row_zero), _columns(column_zero), n)
        return sums.reshape(*batch, *(() if a.ndim == 1 else (m,)), n)
    left, right = np.broadcast_to(left, (*batch, m, k)), np.broadcast_to(right, (*batch, k, n))
    sums = np.empty((*batch, m, n), np.int32)
    for i in np.ndindex(batch):
        packed = _packed(call, b if b.ndim == 2 else right[i])
        sums[i] = _products(left[i], packed, 0 if row_zero.ndim else int(row_zero), _columns(column_zero), n)
        if row_zero.ndim:
            sums[i] -= np.outer(row_zero, right[i].sum(0, dtype=np.int32) - np.int32(k) * column_zero).astype(np.int32)
    return sums.reshape(*batch, *(() if a.ndim == 1 else (m,)), *(() if b.ndim == 1 else (n,)))


@operator("MatMulInteger", "A:byte B:byte2 a_zero_point:byte? b_zero_point:byte2?", since=10)
def matmul_integer(call: Call, a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Array:
    """int32 sums of (A - a_zero_point) * (B - b_zero_point)."""
    return _matmul_sums(call, a, b, a_zero, b_zero)


@operator(
    "MatMulNBits",
    "A:float B:stored2 scales:float zero_points:parameter? g_idx:index? bias:float?",
    K=integer(required=True, low=1),
    N=integer(required=True, low=1),
    bits=integer(4, low=2),
    block_size=integer(required=True, low=16),
    accuracy_level=integer(0),
    weight_prepacked=integer(0, low=0),
)
def matmul_nbits(
    call: Call, a: Array, b: Array, scales: Array, zeros: Array | None = None, order: Array | None = None, bias: Array | None = None
) -> Array:
    """onnxruntime's A (..., K) times weights of 2, 4 or 8 bits, with a scale and a zero point for each block of an output's K weights."""
    outputs, features, block = call["N"], call["K"], call["block_size"]
    if order is not None or call["weight_prepacked"]:
        raise OnnxError("weights in another order (g_idx, weight_prepacked) are not supported")
    if a.ndim == 0 or a.shape[-1] != features:
        raise OnnxError(f"A has shape {list(a.shape)}: expected K={features} columns")
    call.allow([*a.shape[:-1], outputs], a.dtype)
    call.allow([outputs, features], np.float32)
    known = call.kept.get("floats")
    if known is None or not all(one is other for one, other in zip(known[0], (b, scales, zeros), strict=True)):
        try:
            integers, each, points = nbits_weights(b, scales, zeros, outputs, features, call["bits"], block)
        except ValueError as error:
            raise OnnxError(str(error)) from error
        known = (b, scales, zeros), np.empty((outputs, features), np.float32)
        for i in range(each.shape[1]):
            part = slice(i * block, (i + 1) * block)
            known[1][:, part] = (integers[:, part] - points[:, i : i + 1].astype(np.float32)) * each[:, i : i + 1].astype(np.float32)
        if _is_constant(b) and _is_constant(scales) and (zeros is None or _is_constant(zeros)):
            call.kept["floats"] = known
    y = a.astype(np.float32, copy=False) @ known[1].T
    return np.asarray(y if bias is None else y + bias).astype(a.dtype, copy=False)
