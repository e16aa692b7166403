"""Multi-thresholds: the code of a sum by comparisons of integers, exact where the float32 rule rounds.

A step's code is, over the real numbers,

    code(acc) = clamp(rint(clamp(acc * m + b, low, high) / s) + zero, 0, 2^bits - 1),    halves to even

with m, b, low, high and s the exact values of its float32 parameters (halves to odd for a quantizer with `ties_to_odd`), or how many of
the bounds of `Quantizer.steps` clamp(acc * m + b, low, high) reaches. It rises with acc where m > 0 and falls where m < 0, so it is known
from the sums at which it steps: code = how many thresholds are <= acc, or <= ~acc = -acc - 1 for m < 0.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ulp._validate import INT32_MAX, INT32_MIN

from .quantizer import FloatArray


def thresholds(
    scale: FloatArray, bias: FloatArray, low: float, high: float, bounds: npt.NDArray[np.float64], inclusive: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """(int32 (N, 2^bits - 1) ascending, flip bool (N,)) for finite float32 scale m and bias b of shape (N,).

    bounds, inclusive: of a quantizer (`Quantizer.bounds`), of the N channels or (1, ...) for all.
    A threshold of -2^31 is always reached, one of 2^31 - 1 never: plans refuse sums that large.
    """
    m, b = scale.astype(np.float64)[:, None], bias.astype(np.float64)[:, None]
    flip = scale < 0
    shape = (len(scale), bounds.shape[1])
    bounds, inclusive = np.broadcast_to(bounds, shape), np.broadcast_to(inclusive, shape)

    with np.errstate(divide="ignore", invalid="ignore"):
        at = (bounds - b) / m  # two roundings: off by less than |at| * 2^-51
        found = np.where(flip[:, None], -np.floor(at) - 1, np.ceil(at))
        near = np.abs(at - np.rint(at)) <= np.abs(at) * 2.0**-50
    for channel, j in np.argwhere(near & (m != 0) & (np.abs(at) < 2.0**40)):
        exact = (Fraction(float(bounds[channel, j])) - Fraction(float(b[channel, 0]))) / Fraction(float(m[channel, 0]))
        found[channel, j] = _first(exact, bool(flip[channel]), bool(inclusive[channel, j]))

    found = np.where(m == 0, np.where(_reaches(b, bounds, inclusive), -np.inf, np.inf), found)
    # Steps that the clamp alone decides.
    found[_reaches(low, bounds, inclusive)] = -np.inf
    found[~_reaches(high, bounds, inclusive)] = np.inf
    return np.clip(found, INT32_MIN, INT32_MAX).astype(np.int32), flip


def _first(at: Fraction, flip: bool, inclusive: bool) -> int:
    """The smallest acc (or ~acc) that reaches the step whose boundary is the sum `at`."""
    if flip:
        last = math.floor(at)  # the largest sum that still reaches it
        if last == at and not inclusive:
            last -= 1
        return -last - 1
    first = math.ceil(at)
    return first + 1 if first == at and not inclusive else first


def _reaches(
    value: float | npt.NDArray[np.float64], bounds: npt.NDArray[np.float64], inclusive: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    return np.asarray((bounds < value) | ((bounds == value) & inclusive))
