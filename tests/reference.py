"""What the results must be, in a few lines of numpy that share nothing with ulp; and how a difference is shown."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ALL_PAIRS = list(itertools.product(range(1, 9), repeat=2))
SIGNS = [(a_signed, b_signed) for a_signed in (False, True) for b_signed in (False, True)]


def interval(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest value; one signed bit is bipolar."""
    if signed and bits == 1:
        return -1, 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def dtype(signed: bool) -> type[np.int8 | np.uint8]:
    return np.int8 if signed else np.uint8


def random_matrix(rng: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool) -> Array:
    """Uniform values of the whole interval."""
    low, high = interval(bits, signed)
    if signed and bits == 1:
        return rng.choice(np.array([-1, 1], dtype=np.int8), size=shape)
    return rng.integers(low, high + 1, size=shape, dtype=np.int64).astype(dtype(signed))


def matmul(a: Array, b: Array, a_zero: int = 0, b_zero: int | Array = 0) -> Array:
    """sum (a - a_zero) * (b - b_zero) in int64.

    Larger products go through float64, because numpy has no fast integer product: exact, as every partial sum stays far below 2^53.
    """
    x = a.astype(np.int64) - a_zero
    y = b.astype(np.int64) - b_zero
    if x.size * y.shape[1] < 20_000:
        return np.asarray(x @ y)
    assert x.shape[-1] * int(np.abs(x).max()) * int(np.abs(y).max()) < 2**53
    return np.asarray((x.astype(np.float64) @ y.astype(np.float64)).astype(np.int64))


def requantize(acc: Array, scale: Array | float, bias: Array | None, bits: int, signed: bool, zero: int, relu: bool) -> Array:
    """float32 product, round half to even, add the zero point, clamp."""
    low, high = interval(bits, signed)
    total = acc if bias is None else acc + bias
    scaled = total.astype(np.float32) * np.asarray(scale, dtype=np.float32)
    rounded = np.rint(scaled).astype(np.float64) + zero
    return np.clip(rounded, max(low, zero) if relu else low, high).astype(dtype(signed))


def assert_exact(actual: Array, expected: Array, what: str) -> None:
    """Equal shapes and elements; else the first wrong element, what lies around it, and where the wrong ones are."""
    __tracebackhide__ = True
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if np.array_equal(actual, expected):
        return
    wrong = np.atleast_1d(actual != expected)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    where = np.argwhere(wrong)
    around = tuple(slice(max(0, i - 2), i + 3) for i in index)
    lines = [
        f"{what}: {int(wrong.sum())} of {wrong.size} elements are wrong, in the box {where.min(axis=0)} .. {where.max(axis=0)}",
        f"first at {index}: got {np.atleast_1d(actual)[index]}, expected {np.atleast_1d(expected)[index]}",
        f"actual around it:\n{np.atleast_1d(actual)[around]}",
        f"expected:\n{np.atleast_1d(expected)[around]}",
    ]
    if wrong.size <= 4096 and wrong.ndim == 2:
        lines.append("map:\n" + "\n".join("".join(".X"[int(bad)] for bad in row[:120]) for row in wrong[:40]))
    raise AssertionError("\n".join(lines))
