"""Multi-thresholds: the code of a sum by comparisons of integers, exact where the float32 rule rounds.

A step's code is, over the real numbers,

    code(acc) = clamp(rint(clamp(acc * m + b, low, high) / s) + zero, 0, 2^bits - 1),    halves to even

with m, b, low, high and s the exact values of its float32 parameters (halves to odd for a quantizer with `ties_to_odd`). It rises with acc
where m > 0 and falls where m < 0, so it is known from the sums at which it steps: code = how many thresholds are <= acc, or
<= ~acc = -acc - 1 for m < 0.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ulp._validate import INT32_MAX, INT32_MIN

from .quantizer import FloatArray, Quantizer


def thresholds(
    scale: FloatArray, bias: FloatArray, low: float, high: float, quantizer: Quantizer
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """(int32 (N, 2^bits - 1) ascending, flip bool (N,)) for finite float32 scale m and bias b of shape (N,).

    A threshold of -2^31 is always reached, one of 2^31 - 1 never: plans refuse sums that large.
    """
    if quantizer.bipolar:  # 0.0 reaches codes 1 and 2, nothing reaches 3
        even = np.ones(3, np.bool_)
        bounds = np.array([0.0, 0.0, np.inf])
    else:
        steps = np.arange(1, quantizer.levels + 1) - quantizer.zero  # rint(v / s) must be at least this
        even = (steps % 2 == 0) != quantizer.ties_to_odd  # then a tie rounds up to it
        bounds = (steps - 0.5) * np.float64(quantizer.scale)  # exact: 10 bits times 24
    m, b = scale.astype(np.float64)[:, None], bias.astype(np.float64)[:, None]
    flip = scale < 0

    with np.errstate(divide="ignore", invalid="ignore"):
        at = (bounds - b) / m  # two roundings: off by less than |at| * 2^-51
        found = np.where(flip[:, None], -np.floor(at) - 1, np.ceil(at))
        near = np.abs(at - np.rint(at)) <= np.abs(at) * 2.0**-50
    for channel, j in np.argwhere(near & (m != 0) & (np.abs(at) < 2.0**40)):
        exact = (Fraction(float(bounds[j])) - Fraction(float(b[channel, 0]))) / Fraction(float(m[channel, 0]))
        found[channel, j] = _first(exact, bool(flip[channel]), bool(even[j]))

    reached = (b > bounds) | ((b == bounds) & even)
    found = np.where(m == 0, np.where(reached, -np.inf, np.inf), found)
    # Steps that the clamp alone decides.
    found[:, [_reaches(low, bound, bool(e)) for bound, e in zip(bounds, even, strict=True)]] = -np.inf
    found[:, [not _reaches(high, bound, bool(e)) for bound, e in zip(bounds, even, strict=True)]] = np.inf
    return np.clip(found, INT32_MIN, INT32_MAX).astype(np.int32), flip


def _first(at: Fraction, flip: bool, even: bool) -> int:
    """The smallest acc (or ~acc) that reaches the step whose boundary is the sum `at`; a tie reaches it if the step is even."""
    if flip:
        last = math.floor(at)  # the largest sum that still reaches it
        if last == at and not even:
            last -= 1
        return -last - 1
    first = math.ceil(at)
    return first + 1 if first == at and not even else first


def _reaches(value: float, bound: float, even: bool) -> bool:
    return value > bound or (value == bound and even)
