"""Operands of the benchmarks and the exact reference that every result is held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SEED = 20220829
ZERO = 128  # zero point of requantized results

U8 = npt.NDArray[np.uint8]
S8 = npt.NDArray[np.int8]
I64 = npt.NDArray[np.int64]


def activations(m: int, k: int, bits: int, seed: int = SEED) -> U8:
    """(m, k) uint8, uniform over 0 .. 2**bits - 1."""
    return np.random.default_rng((seed, m, k, bits)).integers(0, 2**bits, (m, k), dtype=np.uint8)


def weights(k: int, n: int, bits: int, seed: int = SEED) -> S8:
    """(k, n) int8, uniform over -2**(bits-1) .. 2**(bits-1) - 1; at 1 bit bipolar, -1 or +1."""
    rng = np.random.default_rng((seed, k, n, bits, 1))
    if bits == 1:
        return (2 * rng.integers(0, 2, (k, n), dtype=np.int8) - 1).astype(np.int8)
    return rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (k, n), dtype=np.int8)


def reference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> I64:
    """a (m, k) @ b (k, n) in int64, exact.

    Computed in float64, which BLAS multiplies 20 times faster than numpy multiplies int64: products of 8-bit values stay below 2**16, so
    that every partial sum of up to 2**37 of them is an integer below 2**53, which float64 holds exactly.
    """
    if a.shape[-1] >= 2**37:
        raise ValueError(f"k is {a.shape[-1]}; the float64 sums are exact below 2**37")
    return np.rint(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def requantization_step(accumulators: I64) -> float:
    """The power of two by which accumulators must be divided to fit -127 .. 127; as a power of two it divides without rounding."""
    largest = int(np.abs(accumulators).max(initial=0))
    return float(2 ** max(0, int(np.ceil(np.log2(max(largest, 1) / 127)))))


def requantized(accumulators: I64, step: float, zero: int = ZERO) -> I64:
    """clamp(rint(accumulators / step) + zero, 0, 255), half to even: what quantized linear layers compute."""
    return np.clip(np.rint(accumulators / step).astype(np.int64) + zero, 0, 255)
