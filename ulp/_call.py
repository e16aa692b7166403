"""`Call`: one product with all that it needs, checked. `ulp.gemm` makes it once and hands it to the CPU (_cpu.py) or a GPU (_gpu/gemm.py).

Checked here: types, the shape of a, intervals of single numbers. What takes a pass over an array (values of a, scale, bias, b_zero) is
checked by the core, so that the quick path of `ulp.gemm`, which makes no `Call`, has the same checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ._validate import INT32_MAX, INT32_MIN, as_array, as_int32, integer, interval, zero_points

if TYPE_CHECKING:
    from ._core import Epilogue

_INT32 = np.dtype(np.int32)
_FLOAT32 = np.dtype(np.float32)
_UINT8 = np.dtype(np.uint8)
_INT8 = np.dtype(np.int8)


class Rhs(Protocol):
    """What a native matrix of packed weights says of itself: `_core.Packed` and `_cuda.Weights` do."""

    @property
    def k(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def bits(self) -> int: ...
    @property
    def signed(self) -> bool: ...


class Operands(NamedTuple):
    """a and b where they are to be multiplied."""

    lhs: Any
    """a as the device takes it."""
    shape: tuple[int, ...]
    """a's, as given."""
    signed: bool
    """Whether a is."""
    bits: int
    """a's."""
    rhs: Any
    """b, a native matrix: a `Rhs`."""
    packing_seconds: float
    """That packing b took in this call, for `ULP_VERBOSE`."""


class Call(NamedTuple):
    """A checked product. Fields are those of `ulp.gemm`."""

    operands: Operands
    a_zero: int
    b_zero: int | npt.NDArray[np.int32]
    kernel: str | None
    epilogue: Epilogue | None
    """None: the result is the int32 sums."""
    shape: tuple[int, ...]
    """Of the result."""
    dtype: np.dtype[Any]
    """Of the result."""


def make_call(
    operands: Operands,
    *,
    a_zero: object,
    b_zero: object,
    kernel: object,
    scale: object,
    bias: object,
    out_bits: object,
    out_zero: object,
    out_signed: object,
    relu: object,
) -> Call:
    """The call that these arguments of `ulp.gemm` describe. TypeError, ValueError."""
    n = operands.rhs.n
    shape = _result_shape(operands.shape, operands.rhs)
    zero_a = integer(a_zero, "a_zero", INT32_MIN, INT32_MAX, "a zero point")
    zero_b = zero_points(b_zero, "b_zero", n)
    if kernel is not None and not isinstance(kernel, str):
        raise TypeError(f"kernel={kernel!r}: expected the name of a kernel, see ulp.kernels()")
    if scale is None:
        if bias is not None or out_bits is not None or out_zero or out_signed or relu:
            raise TypeError(
                "bias, out_bits, out_zero, out_signed and relu belong to the scaled result: pass scale= as well (1.0 changes nothing)"
            )
        return Call(operands, zero_a, zero_b, kernel, None, shape, _INT32)
    epilogue = _epilogue(scale, bias, out_bits, out_zero, out_signed, relu, n)
    dtype = _FLOAT32 if "out_bits" not in epilogue else _INT8 if epilogue["out_signed"] else _UINT8
    return Call(operands, zero_a, zero_b, kernel, epilogue, shape, dtype)


def make_target(out: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """`out` as the (M, N) numpy array that the core can write to, or None where it cannot: then the result is copied into `out`.

    TypeError, ValueError unless `out` is a writable numpy array of this shape and dtype.
    """
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
        return out.reshape(-1, shape[-1]) if out.flags.c_contiguous else None
    columns_adjacent = out.strides[1] == dtype.itemsize and out.strides[0] >= shape[1] * dtype.itemsize
    return out if out.flags.c_contiguous or columns_adjacent else None


def _result_shape(shape: tuple[int, ...], rhs: Rhs) -> tuple[int, ...]:
    """The result's shape. ValueError unless an a of this shape can be multiplied by b."""
    if len(shape) == 0:
        raise ValueError("a is a scalar: expected (..., M, K) or (K,)")
    if shape[-1] != rhs.k:
        hint = "; b is (K, N): did you mean b.T?" if shape[-1] == rhs.n else ""
        raise ValueError(f"a has K = {shape[-1]} (shape {shape}) but b has K = {rhs.k} (shape ({rhs.k}, {rhs.n})){hint}")
    return (*shape[:-1], rhs.n)


def _epilogue(scale: object, bias: object, out_bits: object, out_zero: object, out_signed: object, relu: object, n: int) -> Epilogue:
    for name, flag in (("out_signed", out_signed), ("relu", relu)):
        if not isinstance(flag, (bool, np.bool_)):
            raise TypeError(f"{name}={flag!r}: expected True or False")
    factors = _scale(scale, n)
    if out_bits is None:
        if out_zero or out_signed:
            raise TypeError("out_zero and out_signed shape a quantized result: pass out_bits= as well")
        return {"scale": factors, "bias": _bias(bias, floats=True), "relu": bool(relu)}
    width, signed = integer(out_bits, "out_bits", 1, 8, "a bit width"), bool(out_signed)
    if signed and width == 1:
        raise ValueError("out_bits=1 with out_signed=True: a bipolar result has no zero to round to; take out_bits=2 or unsigned")
    zero = integer(out_zero, "out_zero", *interval(width, signed), "a zero point of the result")
    shifts = _bias(bias, floats=False)
    return {"scale": factors, "bias": shifts, "relu": bool(relu), "out_bits": width, "out_signed": signed, "out_zero": zero}


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
