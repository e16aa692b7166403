"""Random operands and the exact results: numpy alone, the same on a device and on the emulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def interval(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest value; one signed bit is bipolar, -1 or +1."""
    if signed and bits == 1:
        return -1, 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def matrix(rng: np.random.Generator, shape: tuple[int, int], bits: int, signed: bool) -> Array:
    """Uniform over the interval; uint8, signed int8."""
    low, high = interval(bits, signed)
    if signed and bits == 1:
        return (2 * rng.integers(0, 2, shape, dtype=np.int8) - 1).astype(np.int8)
    return rng.integers(low, high + 1, shape, dtype=np.int16).astype(np.int8 if signed else np.uint8)


@dataclass(frozen=True)
class Epilogue:
    """What follows the sum, as `ulp.gemm` takes it. scale: a number or (n,). bias: (n,) int32. float_bias: (n,) float32."""

    kind: str = "int32"
    scale: float | Array = 1.0
    bias: Array | None = None
    float_bias: Array | None = None
    relu: bool = False
    out_bits: int = 8
    out_signed: bool = False
    out_zero: int = 0

    @property
    def dtype(self) -> Any:
        """Of the result."""
        if self.kind == "quantized":
            return np.dtype(np.int8 if self.out_signed else np.uint8)
        return np.dtype(self.kind)

    def expected(self, sums: npt.NDArray[np.int64]) -> Array:
        """The result of exact sums (m, n): every float operation rounded once, in the order of the CPU's kernels."""
        if self.kind == "int32":
            return sums.astype(np.int32)
        biased = sums if self.bias is None else sums + self.bias
        value = biased.astype(np.float32) * np.asarray(self.scale, dtype=np.float32)
        if self.kind == "float32":
            if self.float_bias is not None:
                value = value + self.float_bias
            return np.maximum(value, np.float32(0)) if self.relu else value
        low, high = interval(self.out_bits, self.out_signed)
        low = max(low, self.out_zero) if self.relu else low
        return np.clip(np.rint(value).astype(np.float64) + self.out_zero, low, high).astype(self.dtype)


@dataclass(frozen=True)
class Problem:
    """One product with its operands: a (m, k), b (k, n), zero points (b's a number or (n,) int32), epilogue.

    offset, a_gap, out_gap: bytes before a's first row, bytes after each of its rows, elements after each row of the result.
    """

    a: Array
    b: Array
    a_bits: int
    b_bits: int
    a_zero: int = 0
    b_zero: int | Array = 0
    epilogue: Epilogue = field(default_factory=Epilogue)
    offset: int = 0
    a_gap: int = 0
    out_gap: int = 0

    @property
    def a_signed(self) -> bool:
        """Whether a is int8."""
        return bool(self.a.dtype == np.int8)

    @property
    def b_signed(self) -> bool:
        """Whether b is int8."""
        return bool(self.b.dtype == np.int8)

    @property
    def row_stride(self) -> int:
        """Bytes from row to row of a in memory. A single row's is rounded up to 16, as `ulp.gemm` passes it."""
        stride = int(self.a.shape[1]) + self.a_gap
        return stride if self.a.shape[0] > 1 else -(-stride // 16) * 16

    @property
    def b_zero_point(self) -> bool:
        """Whether some b_zero is not 0, or they come as an array."""
        return not isinstance(self.b_zero, int) or self.b_zero != 0

    @property
    def aligned(self) -> bool:
        """Whether all rows of a start at multiples of 16 bytes."""
        return self.offset % 16 == 0 and self.row_stride % 16 == 0

    def expected(self) -> Array:
        """The exact result. Sums are taken in float64, exact below 2^53, which BLAS multiplies fast."""
        a = self.a.astype(np.float64) - self.a_zero
        b = self.b.astype(np.float64) - self.b_zero
        return self.epilogue.expected(np.rint(a @ b).astype(np.int64))

    def words(self) -> str:
        """What it takes to build it again, but the values."""
        (m, k), n = self.a.shape, self.b.shape[1]
        signs = f"{'s' if self.a_signed else 'u'}{self.a_bits} x {'s' if self.b_signed else 'u'}{self.b_bits}"
        zero = "per column" if not isinstance(self.b_zero, int) else self.b_zero
        e = self.epilogue
        return (
            f"{m}x{n}x{k} {signs}, zero points {self.a_zero} and {zero}, {e.kind}{' relu' if e.relu else ''}, "
            f"a at +{self.offset} with gaps of {self.a_gap}, gaps of {self.out_gap} in the result"
        )


def random_problem(rng: np.random.Generator, shape: tuple[int, int, int], a: tuple[int, bool], b: tuple[int, bool]) -> Problem:
    """A problem of this (m, n, k) and these (bits, signed), int32, without zero points, rows of a at multiples of 16 bytes."""
    m, n, k = shape
    return Problem(matrix(rng, (m, k), *a), matrix(rng, (k, n), *b), a[0], b[0], a_gap=-k % 16)


def any_problem(rng: np.random.Generator, largest: tuple[int, int, int]) -> Problem:
    """Anything that a call allows, up to (m, n, k): pair, signs, zero points, epilogue, strides, alignment."""

    def some(limit: int) -> int:
        # Half of them small, where edges are dense.
        return int(rng.integers(1, min(limit, 20) + 1)) if rng.random() < 0.5 else int(rng.integers(1, limit + 1))

    m, n, k = (some(limit) for limit in largest)
    (a_bits, b_bits), (a_signed, b_signed) = (rng.integers(1, 9, 2).tolist(), (rng.random(2) < 0.5).tolist())
    a, b = matrix(rng, (m, k), a_bits, a_signed), matrix(rng, (k, n), b_bits, b_signed)
    a_zero = int(rng.integers(*interval(a_bits, a_signed), endpoint=True)) if rng.random() < 0.5 and not (a_signed and a_bits == 1) else 0
    b_zero: int | Array = 0
    if rng.random() < 0.5 and not (b_signed and b_bits == 1):
        zeros = rng.integers(*interval(b_bits, b_signed), n, endpoint=True, dtype=np.int32)
        b_zero = zeros if rng.random() < 0.5 else int(zeros[0])
    offset, a_gap = (0, -k % 16) if rng.random() < 0.7 else rng.integers(0, 20, 2).tolist()
    return Problem(a, b, a_bits, b_bits, a_zero, b_zero, _any_epilogue(rng, n, k, a_bits + b_bits), offset, a_gap, int(rng.integers(0, 6)))


def _any_epilogue(rng: np.random.Generator, n: int, k: int, sum_bits: int) -> Epilogue:
    kind = str(rng.choice(["int32", "float32", "quantized"]))
    if kind == "int32":
        return Epilogue()
    # About as large as the sums, so that results span their interval.
    spread = 2.0**sum_bits * k**0.5 / 8
    scale = (rng.uniform(0.5, 2, n) / spread * 64).astype(np.float32)
    bias = rng.integers(-int(spread) - 1, int(spread) + 1, n, dtype=np.int32) if rng.random() < 0.5 else None
    float_bias = rng.standard_normal(n, dtype=np.float32) if kind == "float32" and rng.random() < 0.5 else None
    bits, signed = int(rng.integers(2, 9)), bool(rng.random() < 0.5)
    zero = int(rng.integers(*interval(bits, signed), endpoint=True))
    chosen: float | Array = scale if rng.random() < 0.5 else float(scale[0])
    return Epilogue(kind, chosen, bias, float_bias, bool(rng.random() < 0.5), bits, signed, zero)


def extreme_problem(k: int, a: tuple[int, bool], b: tuple[int, bool], sign: int) -> Problem:
    """Every product the largest of its sign, so that sums of k of them reach as far as they can: 3 rows, 20 columns."""
    a_ends, b_ends = interval(*a), interval(*b)
    _, x, y = max((sign * x * y, x, y) for x in a_ends for y in b_ends)
    left = np.full((3, k), x, dtype=np.int8 if a[1] else np.uint8)
    right = np.full((k, 20), y, dtype=np.int8 if b[1] else np.uint8)
    return Problem(left, right, a[0], b[0], a_gap=-k % 16)


def longest_k(a: tuple[int, bool], b: tuple[int, bool]) -> int:
    """The largest K for which every sum of products fits int32."""
    products = [x * y for x in interval(*a) for y in interval(*b)]
    highest, lowest = max(*products, 0), min(*products, 0)
    limits = [(2**31 - 1) // highest if highest else 2**62, 2**31 // -lowest if lowest else 2**62]
    return min(limits)
