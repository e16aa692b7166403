"""`gemm`: the quick path of small calls, and the way of all others.

The usual calls of inference, a plain 8-bit activation matrix or vector against packed weights, with or without an epilogue of plain
arrays, are checked and run by the core in one step, because on a 16 x 16 x 16 product every Python statement shows. All others become a
checked `Call`, which the CPU or a GPU runs.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import numpy.typing as npt

from . import _core, _cpu, config
from ._call import make_call
from ._gpu.arrays import on_gpu
from ._gpu.packed import CudaPackedMatrix, common_device
from ._tensors import as_numpy, is_tensor, like
from .packed import PackedMatrix

_quick = _core.quick_gemm  # bound once: an attribute of a module costs as much as a comparison


@overload
def gemm(
    a: npt.ArrayLike,
    b: npt.ArrayLike | PackedMatrix,
    *,
    bits: int | str | tuple[int, int] | None = ...,
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
    bits: int | str | tuple[int, int] | None = ...,
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
    bits: int | str | tuple[int, int] | None = ...,
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
    bits: int | str | tuple[int, int] | None = None,
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
        bits: an int for both, (a_bits, b_bits), or "W3A8" for (8, 3). With a packed b it may be left out: a then has b's bits.
        a_zero: zero point of a, subtracted from every value.
        b_zero: zero point of b; an int, or N of them, one per column.
        out: array for the result, of the result's shape and dtype; any strides, and it may overlap a.
        kernel: name of the kernel to use (`ulp.kernels()`); by default the fastest one by measurement (`ulp.explain`).
        scale: a float, or N of them. The sum, as float32, is multiplied by it while it is still in cache.
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
        is of a's type. Arrays there are uint8, int8 or bool, and their values are not checked: a must lie in its interval, b_zero in
        that of b, sums with bias in int32. `ULP_CUDA_CHECK=1` waits and checks.

    Returns:
        (..., M, N), or (N,) for a (K,): int32; float32 with scale; uint8 or int8 with out_bits. A torch tensor if a is one. `out` itself
        if given.

    Raises:
        TypeError: an operand of floats (quantize first) or of no numbers, an argument of the wrong type.
        ValueError: a value outside its interval (with its index), shapes that do not fit, an unknown kernel or one that cannot run, and
            sums that could leave int32: K * max|a - a_zero| * max|b - b_zero| must not exceed 2^31 - 1. Operands on different devices.
        RuntimeError: no GPU can be used, or it failed.
        MemoryError: its memory is full.
    """
    if type(b) is PackedMatrix and device is None and not config.verbose:
        result = _quick(a, b._packed, bits, a_zero, b_zero, kernel, out, scale, bias, out_bits, out_zero, out_signed, relu)
        if result is not None:
            return result

    index = None
    if device is not None or type(b) is CudaPackedMatrix or on_gpu(a) or (type(b) is not PackedMatrix and on_gpu(b)):
        index = common_device(device, {"a": a, "b": b})
    if index is None:
        operands, run = _cpu.operands(a, b, bits), _cpu.run
    else:
        from ._gpu.gemm import Gpu  # imported lazily: most processes use no GPU

        gpu = Gpu(index)
        operands, run = gpu.operands(a, b, bits), gpu.run
        b_zero, scale, bias = gpu.columns(operands.rhs, b_zero, scale, bias)
    call = make_call(
        operands,
        a_zero=a_zero,
        b_zero=b_zero,
        kernel=kernel,
        scale=scale,
        bias=bias,
        out_bits=out_bits,
        out_zero=out_zero,
        out_signed=out_signed,
        relu=relu,
    )
    if index is None and (is_tensor(a) or is_tensor(out)):
        result = run(call, None if out is None else as_numpy(out, "out"))
        return like(a, result) if out is None else out
    return run(call, out)
