"""Typed view of the native core. `ulp` wraps it; nothing here is public.

Arrays that cross this border are numpy uint8 (unsigned codes) or int8 (two's complement, or -1/+1 at 1 bit); every other dtype is
brought to one of the two by `ulp._validate` first. Strides are free.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

class OutOfRange(ValueError):  # noqa: N818  # the name of the native class, which users meet as ValueError
    """A value of `a` or `b` lies outside its interval. Carries no index: the Python layer finds the first one and words the error."""

class Packed:
    """Weights stored densely, `bits` bits each, in the order every kernel expands from (csrc/pack/layout.h)."""

    @property
    def k(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def bits(self) -> int: ...
    @property
    def signed(self) -> bool: ...
    @property
    def nbytes(self) -> int:
        """Bytes of the dense data, without the column sums."""
    @property
    def data(self) -> npt.NDArray[np.uint8]:
        """The dense bytes, shape (nbytes,), a read-only view that keeps this object alive."""
    @property
    def column_sums(self) -> npt.NDArray[np.int32]:
        """Sum over k of the stored values modulo 2^32, shape (n,), a copy. That is how the epilogue uses them."""

def pack(b: npt.NDArray[Any], bits: int) -> Packed:
    """b: (k, n) uint8 or int8. Raises OutOfRange."""

def unpack(packed: Packed) -> npt.NDArray[Any]:
    """(k, n) in the dtype given to `pack`."""

def packed_nbytes(k: int, n: int, bits: int) -> int:
    """Bytes that `Packed.data` takes; raises ValueError where k, n or bits are impossible."""

def from_data(data: npt.NDArray[np.uint8], k: int, n: int, bits: int, signed: bool) -> Packed:
    """Rebuild from `Packed.data`. ValueError unless len(data) == packed_nbytes(k, n, bits).

    Padding is rewritten and sums are recomputed: any bytes are safe.
    """

def gemm(
    a: npt.NDArray[Any],
    packed: Packed,
    a_bits: int,
    a_zero: int,
    b_zero: int | npt.NDArray[np.int32],
    kernel: str | None,
    out: npt.NDArray[Any] | None,
) -> npt.NDArray[np.int32]:
    """sum_k (a - a_zero) * (b - b_zero): a (m, k) uint8 or int8 -> (m, n) int32.

    `out`: (m, n) int32, writable, last axis contiguous (any row stride); returned when given. It may overlap any input.
    Raises OutOfRange (a), ValueError (shapes, overflow bound, unknown or unfit kernel). Releases the GIL.
    """

def gemm_fused(
    a: npt.NDArray[Any],
    packed: Packed,
    a_bits: int,
    a_zero: int,
    b_zero: int | npt.NDArray[np.int32],
    kernel: str | None,
    out: npt.NDArray[Any] | None,
    scale: float | npt.NDArray[np.float32],
    bias: npt.NDArray[np.int32] | npt.NDArray[np.float32] | None,
    relu: bool,
    out_bits: int,
    out_signed: bool,
    out_zero: int,
) -> npt.NDArray[Any]:
    """The same accumulator, then the epilogue inside the tile.

    scale: a float, or float32 of shape (), (1,) or (n,); finite in float32.
    bias: None, int32 (n,) added to the accumulator before scaling, or (only with out_bits=0) float32 (n,) added after.
    ValueError, worded for the user, where shapes do not fit, scale is not finite, an int32 bias could carry a sum out of int32, or
    out_zero lies outside the interval of the result.
    out_bits=0: float32 (m, n) = float(acc + bias) * scale, or float(acc) * scale + bias; relu clamps at 0.
    out_bits 1..8: uint8 (int8 with out_signed) (m, n) = clamp(rint(float(acc + bias) * scale) + out_zero), half to even;
    relu clamps below at out_zero.
    The interval is 0..2^b-1, or -2^(b-1)..2^(b-1)-1 with out_signed (b >= 2).
    """

def kernels() -> list[dict[str, Any]]:
    """The table, best first.

    name, technique, isa, mr, nr (ints), available (this CPU and the ISA in force), pairs (list of (a_bits, b_bits)),
    local_lengths ({(a_bits, b_bits): steps between two spills of the narrow accumulators, in the kernel's own steps; 0 where it spills
    inside one}).
    """

def rank(m: int, n: int, k: int, a_bits: int, a_signed: bool, b_bits: int, b_signed: bool) -> list[tuple[str, bool, str, float]]:
    """(name, runnable, why not or "", predicted seconds or nan) for every kernel, in the order of preference."""

def last_kernel() -> str:
    """Name of the kernel that this thread's last gemm ran, "" before the first."""

def isas() -> list[str]:
    """Known to this build, best first, e.g. ["avx2", "baseline"]."""

def available_isas() -> list[str]:
    """Those of isas() that this CPU runs, best first."""

def isa() -> str:
    """The best ISA that kernels may use now."""

def set_isa(name: str) -> None:
    """ValueError for an unknown name (lists the known ones) or one this CPU lacks."""

def num_threads() -> int: ...
def set_num_threads(n: int) -> None:
    """1..1024, else ValueError."""

def build_info() -> dict[str, str]:
    """compiler, flags, build_type, version."""
