"""Products on the CPU: operands as the native core takes them, and the call of it."""

from __future__ import annotations

import math
import sys
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core, config
from ._call import Call, Operands, make_target
from ._matrix import Matrix
from ._validate import as_array, bit_pair, operand, out_of_range
from .grouped import GroupedMatrix
from .packed import PackedMatrix, pack_array

_INT8 = np.dtype(np.int8)


def operands(a: object, b: object, bits: object) -> Operands:
    """a as uint8 or int8 codes of its own shape; b packed. TypeError, ValueError."""
    seconds = 0.0
    if isinstance(b, PackedMatrix):
        a_bits, _ = bit_pair(bits, b.bits)
        packed = b._packed
    else:
        if isinstance(b, GroupedMatrix):
            raise TypeError("b is a GroupedMatrix, whose results are floats: b.linear(x) multiplies floats, b.product(a, scale) integers")
        a_bits, b_bits = bit_pair(bits)
        start = perf_counter() if config.verbose else 0.0
        packed = pack_array(b, b_bits)
        if config.verbose:
            seconds = perf_counter() - start
    if isinstance(a, Matrix):
        raise TypeError(f"a is a {type(a).__name__}: only b can be packed")
    codes = operand(as_array(a, "a"), "a", a_bits)
    return Operands(codes, codes.shape, codes.dtype == _INT8, a_bits, packed, seconds)


def run(call: Call, out: Any) -> Any:
    """The product: `out`, or a new array. ValueError for a value of a outside its interval."""
    codes, shape, _, a_bits, packed, _ = call.operands
    # Leading dimensions are folded into M. Copies only where no view will do.
    matrix = codes if len(shape) == 2 else codes.reshape(math.prod(shape[:-1]), shape[-1])
    target = None if out is None else make_target(out, call.shape, call.dtype)
    start = perf_counter() if config.verbose else 0.0
    try:
        if call.epilogue is None:
            result: npt.NDArray[Any] = _core.gemm(matrix, packed, a_bits, call.a_zero, call.b_zero, call.kernel, target)
        else:
            result = _core.gemm_fused(matrix, packed, a_bits, call.a_zero, call.b_zero, call.kernel, target, call.epilogue)
    except _core.OutOfRange:
        raise out_of_range(codes, "a", a_bits) from None
    if config.verbose:
        _report(call, perf_counter() - start)
    if out is None:
        return result if matrix is codes else result.reshape(call.shape)
    if target is None:
        out[...] = result.reshape(call.shape)
    return out


def _report(call: Call, seconds: float) -> None:
    """One line on stderr, in one write, so that lines of several threads do not mix."""
    _, shape, signed, a_bits, packed, packing_seconds = call.operands
    m, k, n = math.prod(shape[:-1]), packed.k, packed.n
    signs = "s" if signed else "u", "s" if packed.signed else "u"
    rate = m * n * k / seconds / 1e9 if seconds > 0 else 0.0
    packing = f" (+ {packing_seconds * 1e3:.3f} ms to pack b)" if packing_seconds else ""
    sys.stderr.write(
        f"ulp: {_core.last_kernel() or 'none'} MxNxK={m}x{n}x{k} a={signs[0]}{a_bits} b={signs[1]}{packed.bits} -> {call.dtype} "
        f"{seconds * 1e3:.3f} ms {rate:.2f} GMAC/s{packing}\n"
    )
