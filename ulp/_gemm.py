"""`gemm`: from what users pass to the native call, and back.

The usual calls of inference, a plain 8-bit activation matrix or vector against packed weights, with or without an epilogue of plain
arrays, go to the core after a handful of comparisons, because on a 16 x 16 x 16 product every Python statement shows. Everything else takes
`_gemm_general`. What takes a pass over scale or bias to check is checked in the core, for both.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from . import _core, config
from ._gpu.arrays import on_gpu
from ._gpu.packed import CudaPackedMatrix, common_device
from ._validate import (
    INT32_MAX,
    IntArray,
    as_array,
    as_int32,
    bit_pair,
    integer,
    interval,
    operand,
    out_of_range,
    zero_points,
)
from .packed import PackedMatrix, pack_array

_UINT8 = np.dtype(np.uint8)
_INT8 = np.dtype(np.int8)
_INT32 = np.dtype(np.int32)
_FLOAT32 = np.dtype(np.float32)
_PLAIN_SCALARS = frozenset({float, np.float32, np.float64})

# Bound once: an attribute of a module costs as much as a comparison.
_native = _core.gemm
_native_fused: Callable[..., npt.NDArray[Any]] = _core.gemm_fused  # untyped: mypy does not see what _is_plain_epilogue finds out
_OutOfRange = _core.OutOfRange
_ndarray = np.ndarray


@overload
def gemm(
    a: npt.ArrayLike,
    b: npt.ArrayLike | PackedMatrix,
    *,
    bits: int | tuple[int, int] | None = ...,
    a_zero: int = ...,
    b_zero: int | npt.ArrayLike = ...,
    out: npt.NDArray[np.int32] | None = ...,
    kernel: str | None = ...,
    scale: None = ...,
    device: None = ...,
) -> npt.NDArray[np.int32]: ...
@overload
def gemm(
    a: npt.ArrayLike,
    b: npt.ArrayLike | PackedMatrix,
    *,
    bits: int | tuple[int, int] | None = ...,
    a_zero: int = ...,
    b_zero: int | npt.ArrayLike = ...,
    out: npt.NDArray[Any] | None = ...,
    kernel: str | None = ...,
    scale: npt.ArrayLike,
    bias: npt.ArrayLike | None = ...,
    out_bits: int | None = ...,
    out_zero: int = ...,
    out_signed: bool = ...,
    relu: bool = ...,
    device: None = ...,
) -> npt.NDArray[Any]: ...
@overload
def gemm(
    a: Any,
    b: Any,
    *,
    bits: int | tuple[int, int] | None = ...,
    a_zero: int = ...,
    b_zero: Any = ...,
    out: Any = ...,
    kernel: str | None = ...,
    scale: Any = ...,
    bias: Any = ...,
    out_bits: int | None = ...,
    out_zero: int = ...,
    out_signed: bool = ...,
    relu: bool = ...,
    device: str | None = ...,
) -> Any: ...
def gemm(
    a: Any,
    b: Any,
    *,
    bits: int | tuple[int, int] | None = None,
    a_zero: int = 0,
    b_zero: Any = 0,
    out: Any = None,
    kernel: str | None = None,
    scale: Any = None,
    bias: Any = None,
    out_bits: int | None = None,
    out_zero: int = 0,
    out_signed: bool = False,
    relu: bool = False,
    device: str | None = None,
) -> Any:
    """Multiply matrices of 1- to 8-bit integers, exactly: sum over k of (a - a_zero) * (b - b_zero).

    Args:
        a: (..., M, K), or (K,) as in numpy.matmul. uint8 is unsigned, 0..2^bits-1; int8 is signed, -2^(bits-1)..2^(bits-1)-1, and at 1 bit
            -1 and +1. bool counts as unsigned; any other integer dtype is unsigned if all values fit so, else signed. Strides are free.
        b: (K, N) under the same rules, or `ulp.pack(b, bits=...)`, which saves the packing in every call.
        bits: an int for both, or (a_bits, b_bits). With a packed b it may be left out: a then has b's bits.
        a_zero: zero point of a, taken off every value.
        b_zero: zero point of b; an int, or N of them, one a column.
        out: array for the result, of the result's shape and dtype; any strides, and it may overlap a.
        kernel: name of the kernel to use (`ulp.kernels()`); by default the fastest one that measurements know.
        scale: given, the result is requantized while it is still in cache: a float, or N of them. The sum, as float32, is multiplied by it.
        bias: needs scale. N integers, added to the sum before scaling; or, without out_bits, N floats, added after scaling.
        out_bits: 1..8: round half to even, add out_zero, clamp to the interval of out_bits. Without it the result is float32.
        out_zero: zero point of the result.
        out_signed: the result is int8 and its interval signed, -2^(out_bits-1)..2^(out_bits-1)-1; out_bits >= 2.
        relu: clamp from below at what stands for zero: 0, or out_zero.
        device: "cuda" or "cuda:<number>" multiplies on that GPU, where numpy arrays are copied to it and the result back. By default where
            the operands are.

    On a GPU:
        a, b and out may be arrays in its memory, of torch, cupy, or with `__cuda_array_interface__` or `__dlpack__`; b a
        `CudaPackedMatrix`; b_zero, scale and bias may be there too, as int32, float32 and int32 or float32. The call goes to the current
        stream of a's library and is not waited for; b packed and all arrays on the device, it can be captured in a CUDA graph. The result
        is of a's type. Arrays there are uint8, int8 or bool, and their values are taken on trust: a must lie in its interval, b_zero in
        that of b, sums with bias in int32. `ULP_CUDA_CHECK=1` waits and checks.

    Returns:
        (..., M, N), or (N,) for a (K,): int32; float32 with scale; uint8 or int8 with out_bits. `out` itself if given.

    Raises:
        TypeError: an operand of floats (quantize first) or of no numbers, an argument of the wrong type.
        ValueError: a value outside its interval (with its index), shapes that do not fit, an unknown kernel or one that cannot run, and
            sums that could leave int32: K * max|a - a_zero| * max|b - b_zero| must not exceed 2^31 - 1. Operands on different devices.
        RuntimeError: no GPU can be used, or it failed.
        MemoryError: its memory is full.
    """
    if (
        type(a) is _ndarray
        and type(b) is PackedMatrix
        and (a.dtype is _UINT8 or a.dtype is _INT8)
        and (a.ndim == 2 or (a.ndim == 1 and out is None))
        and type(b_zero) is int
        and type(a_zero) is int
        and -65536 < a_zero < 65536
        and -65536 < b_zero < 65536
        and (kernel is None or type(kernel) is str)
        and device is None
        and not config.verbose
    ):
        a_bits = _plain_bits(bits, b._bits)
        matrix = a if a.ndim == 2 else a[None]
        try:
            if scale is None:
                plain = bias is None and out_bits is None and not (out_zero or out_signed or relu)
                if a_bits and plain and (out is None or _is_plain_target(out, _INT32, a, b)):
                    result = _native(matrix, b._packed, a_bits, a_zero, b_zero, kernel, out)
                    return result if matrix is a else result[0]
            elif a_bits and _is_plain_epilogue(scale, bias, out_bits, out_zero, out_signed, relu):
                dtype = _FLOAT32 if out_bits is None else _INT8 if out_signed else _UINT8
                if out is None or _is_plain_target(out, dtype, a, b):
                    fused = _native_fused(
                        matrix, b._packed, a_bits, a_zero, b_zero, kernel, out, scale, bias, relu, out_bits or 0, out_signed, out_zero
                    )
                    return fused if matrix is a else fused[0]
        except _OutOfRange:
            raise out_of_range(a, "a", a_bits) from None
    if device is not None or type(b) is CudaPackedMatrix or on_gpu(a) or (type(b) is not PackedMatrix and on_gpu(b)):
        from ._gpu import gemm as gpu

        index = common_device(device, {"a": a, "b": b})
        if index is not None:
            return gpu.gemm(a, b, bits, a_zero, b_zero, out, kernel, scale, bias, out_bits, out_zero, out_signed, relu, index)
    return _gemm_general(a, b, bits, a_zero, b_zero, out, kernel, scale, bias, out_bits, out_zero, out_signed, relu)


def _plain_bits(bits: object, b_bits: int) -> int:
    """a's bits where `bits` is None or a plain (int, int) or int that fits b; else 0, and the general path finds out what is wrong."""
    if bits is None or (bits == b_bits and type(bits) is int):
        return b_bits
    if type(bits) is tuple and len(bits) == 2 and type(bits[0]) is int and bits[1] == b_bits and 1 <= bits[0] <= 8:
        return bits[0]
    return 0


def _is_plain_epilogue(scale: Any, bias: Any, out_bits: object, out_zero: object, out_signed: object, relu: object) -> bool:
    """Whether the types are those that the core takes, and all else but lengths, values and the interval of out_zero, which it checks."""
    return (
        (type(scale) in _PLAIN_SCALARS or (type(scale) is _ndarray and scale.dtype is _FLOAT32))
        and type(relu) is bool
        and (bias is None or (type(bias) is _ndarray and (bias.dtype is _INT32 or (bias.dtype is _FLOAT32 and out_bits is None))))
        and (
            out_zero == 0 and type(out_zero) is int and out_signed is False
            if out_bits is None
            else type(out_bits) is int
            and 1 <= out_bits <= 8
            and type(out_zero) is int
            and -128 <= out_zero <= 255
            and (out_signed is False or (out_signed is True and out_bits > 1))
        )
    )


def _is_plain_target(out: object, dtype: np.dtype[Any], a: npt.NDArray[Any], b: PackedMatrix) -> bool:
    """Whether `out` is a C-contiguous matrix of the result's shape and dtype."""
    return type(out) is _ndarray and out.dtype is dtype and out.flags.carray and out.shape == (a.shape[0], b._packed.n)


def _gemm_general(
    a: object,
    b: object,
    bits: object,
    a_zero: object,
    b_zero: object,
    out: object,
    kernel: str | None,
    scale: object,
    bias: object,
    out_bits: object,
    out_zero: object,
    out_signed: object,
    relu: object,
) -> npt.NDArray[Any]:
    packing_seconds = 0.0
    if isinstance(b, PackedMatrix):
        a_bits, _ = bit_pair(bits, b.bits)
        packed = b._packed
    else:
        a_bits, b_bits = bit_pair(bits)
        start = perf_counter()
        packed = pack_array(b, b_bits)
        packing_seconds = perf_counter() - start
    if isinstance(a, PackedMatrix):
        raise TypeError("a is a PackedMatrix: only b can be packed")
    given = as_array(a, "a")
    codes = _matrix(given, packed, a_bits)
    m, n = codes.shape[0], packed.n
    shape = (n,) if given.ndim == 1 else (*given.shape[:-1], n)
    zero_a = integer(a_zero, "a_zero", -(2**31), INT32_MAX, "a zero point")
    zero_b = zero_points(b_zero, "b_zero", n)
    check_kernel(kernel)
    epilogue = make_epilogue(scale, bias, out_bits, out_zero, out_signed, relu, n)
    dtype = np.dtype(np.int32) if epilogue is None else result_dtype(epilogue)
    target = None if out is None else make_target(out, (m, n), shape, dtype)

    start = perf_counter()
    try:
        if epilogue is None:
            result: IntArray = _core.gemm(codes, packed, a_bits, zero_a, zero_b, kernel, target)
        else:
            result = _core.gemm_fused(codes, packed, a_bits, zero_a, zero_b, kernel, target, *epilogue)
    except _OutOfRange:
        raise out_of_range(codes.reshape(given.shape), "a", a_bits) from None
    if config.verbose:
        _report(codes, packed, a_bits, dtype, perf_counter() - start, packing_seconds)

    if out is None:
        return result.reshape(shape)
    assert isinstance(out, np.ndarray)  # make_target has checked it
    if target is None:
        out[...] = result.reshape(shape)
    return out


def _matrix(given: IntArray, packed: _core.Packed, bits: int) -> IntArray:
    """a as a two-dimensional array of uint8 or int8 codes, leading dimensions folded into M. Copies only where no view will do."""
    codes = operand(given, "a", bits)
    check_depth(given.shape, packed.k, packed.n)
    return codes if codes.ndim == 2 else codes.reshape(math.prod(codes.shape[:-1]), codes.shape[-1])


def check_depth(shape: tuple[int, ...], k: int, n: int) -> None:
    """ValueError unless an a of this shape goes with a (k, n) b."""
    if len(shape) == 0:
        raise ValueError("a is a scalar: expected (..., M, K) or (K,)")
    if shape[-1] != k:
        raise ValueError(f"a has K = {shape[-1]} (shape {shape}) but b has K = {k} (shape ({k}, {n}))")


def check_kernel(kernel: object) -> None:
    """TypeError unless it may be the name of a kernel."""
    if kernel is not None and not isinstance(kernel, str):
        raise TypeError(f"kernel={kernel!r}: expected the name of a kernel, see ulp.kernels()")


def make_target(out: object, matrix: tuple[int, int], shape: tuple[int, ...], dtype: np.dtype[Any]) -> IntArray | None:
    """`out` as the (M, N) array that the core writes to, or None where it cannot: then the result is copied into `out`."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out of type {type(out).__name__}: expected a numpy array of shape {shape} and dtype {dtype}")
    if out.dtype != dtype:
        raise TypeError(f"out has dtype {out.dtype}: this call gives {dtype}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}: this call gives {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if out.size == 0 or not out.flags.aligned:
        return None
    if out.ndim != 2:
        return out.reshape(matrix) if out.flags.c_contiguous else None
    columns_adjacent = out.strides[1] == dtype.itemsize and out.strides[0] >= matrix[1] * dtype.itemsize
    return out if out.flags.c_contiguous or columns_adjacent else None


Epilogue = tuple[float | npt.NDArray[np.float32], npt.NDArray[Any] | None, bool, int, bool, int]


def make_epilogue(
    scale: object, bias: object, out_bits: object, out_zero: object, out_signed: object, relu: object, n: int
) -> Epilogue | None:
    """The last six arguments of `_core.gemm_fused`, of the right types; None where the call wants the int32 sums."""
    if scale is None:
        if bias is not None or out_bits is not None or out_zero or out_signed or relu:
            raise TypeError(
                "bias, out_bits, out_zero, out_signed and relu belong to the scaled result: pass scale= as well (1.0 changes nothing)"
            )
        return None
    for name, flag in (("out_signed", out_signed), ("relu", relu)):
        if not isinstance(flag, (bool, np.bool_)):
            raise TypeError(f"{name}={flag!r}: expected True or False")
    factors = _scale(scale, n)
    if out_bits is None:
        if out_zero or out_signed:
            raise TypeError("out_zero and out_signed shape a quantized result: pass out_bits= as well")
        return factors, _bias(bias, floats=True), bool(relu), 0, False, 0
    width = integer(out_bits, "out_bits", 1, 8, "a bit width")
    if out_signed and width == 1:
        raise ValueError("out_bits=1 with out_signed=True: a bipolar result has no zero to round to; take out_bits=2 or unsigned")
    low, high = interval(width, bool(out_signed))
    zero = integer(out_zero, "out_zero", low, high, "a zero point of the result")
    return factors, _bias(bias, floats=False), bool(relu), width, bool(out_signed), zero


def result_dtype(epilogue: Epilogue) -> np.dtype[Any]:
    _, _, _, width, signed, _ = epilogue
    if width == 0:
        return np.dtype(np.float32)
    return _INT8 if signed else _UINT8


def _scale(value: object, n: int) -> float | npt.NDArray[np.float32]:
    """A float or a float32 array. The core checks its shape, and that it is finite."""
    array = as_array(value, "scale")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"scale has dtype {array.dtype}: expected a float or {n} of them")
    if array.ndim == 0:
        return float(array)
    with np.errstate(over="ignore"):  # to infinity, which the core refuses
        return array.astype(np.float32, copy=False)


def _bias(value: object, *, floats: bool) -> npt.NDArray[Any] | None:
    """None, an int32 array, or where `floats` allows it a float32 array. The core checks the shape, and that sums stay in int32."""
    if value is None:
        return None
    array = as_array(value, "bias")
    if array.dtype.kind in "iu":
        return as_int32(array, "bias")
    if array.dtype.kind != "f":
        raise TypeError(f"bias has dtype {array.dtype}: expected integers or floats")
    if not floats:
        raise TypeError(
            f"bias has dtype {array.dtype}: with out_bits it is added to the integer sum, so quantize it first: "
            "np.rint(bias / (a_scale * b_scale)).astype(np.int32)"
        )
    return array.astype(np.float32, copy=False)


def _report(codes: IntArray, packed: _core.Packed, a_bits: int, dtype: np.dtype[Any], seconds: float, packing_seconds: float) -> None:
    """One line on stderr, in one write, so that lines of several threads do not mix."""
    m, k = codes.shape
    a_sign = "s" if codes.dtype == _INT8 else "u"
    b_sign = "s" if packed.signed else "u"
    rate = m * packed.n * k / seconds / 1e9 if seconds > 0 else 0.0
    packing = f" (+ {packing_seconds * 1e3:.3f} ms to pack b)" if packing_seconds else ""
    sys.stderr.write(
        f"ulp: {_core.last_kernel() or 'none'} MxNxK={m}x{packed.n}x{k} a={a_sign}{a_bits} b={b_sign}{packed.bits} -> {dtype} "
        f"{seconds * 1e3:.3f} ms {rate:.2f} GMAC/s{packing}\n"
    )
