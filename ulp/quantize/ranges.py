"""Quantizers of activations from what a calibration counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from ulp.nn.observer import Observer
from ulp.nn.quantizer import Quantizer

Doubles = npt.NDArray[np.float64]
Function = Callable[[Doubles], Doubles]
Ranges = Literal["minmax", "percentile", "mse", "entropy"]
RANGES = ("minmax", "percentile", "mse", "entropy")

# Values that a histogram is brought down to, and fractions of the full range that are tried.
_POINTS, _SHARES = 2048, np.geomspace(1 / 16, 1, 64)
# Zero points that are tried with many bits; with up to 4 all that are even.
_ZEROS = 9
# Places at which a function is known.
_GRID = 4097
# By "mse", so many bits clip nothing, unless that would make the squared error so many times as large.
_FINE, _SPARED = 7, 16.0


def quantizer_of(observer: Observer, bits: int, ranges: Ranges, percentile: float, function: Function | None = None) -> Quantizer:
    """Unsigned where nothing is negative; else with the zero point that fits: even, since rounding then needs no correction for ties.

    function: what is computed of the codes, value by value. By "mse" the error is that of its results, and values at an end of the range
    that it makes all alike, such as those below -3 of a hard-swish, do not widen the range.
    """
    values, counts = points(observer)
    low, high = min(observer.low, 0.0), max(observer.high, 0.0)
    if function is not None and ranges == "mse" and bits > 1:
        return _behind(function, values, counts, low, high, bits)
    if ranges == "percentile":
        total = np.cumsum(counts) / counts.sum()
        ends = np.searchsorted(total, [1 - percentile / 100, percentile / 100]).clip(0, len(values) - 1)
        low, high = min(0.0, float(values[ends[0]])), max(0.0, float(values[ends[1]]))
    if ranges in ("minmax", "percentile"):
        return _covering(low, high, bits)
    measure = _divergence if ranges == "entropy" else _squared_error
    best, least = _covering(low, high, bits), np.inf
    for zero in zeros_of(low, high, bits):
        for scale in _scales(low, high, bits, zero):
            error = measure(values, counts, float(scale), zero, bits)
            if error < least:
                best, least = Quantizer(bits, float(scale), zero), error
    if ranges == "mse" and bits >= _FINE:
        # What is rare can be what the network looks for: a detector's boxes are a few values among millions.
        whole = _covering(low, high, bits)
        if _squared_error(values, counts, whole.scale, whole.zero, bits) <= _SPARED * least:
            return whole
    return best


def _behind(function: Function, values: Doubles, counts: Doubles, low: float, high: float, bits: int) -> Quantizer:
    """The quantizer with the smallest squared error of the function's results."""
    margin = (high - low) / 8  # a range that does not fit its zero point is longer than from low to high
    grid = np.linspace(low - margin, high + margin, _GRID)
    results = function(grid)
    inside = (grid >= low) & (grid <= high)
    low, high = _moving(grid[inside], results[inside], bits)
    low, high = min(low, 0.0), max(high, 0.0)
    exact = np.interp(values, grid, results)

    def error(quantizer: Quantizer) -> float:
        codes = np.clip(np.rint(values / quantizer.scale), -quantizer.zero, quantizer.levels - quantizer.zero)
        return float(counts @ np.square(exact - np.interp(codes * quantizer.scale, grid, results)))

    whole = _covering(low, high, bits)
    best, least = whole, np.inf
    for zero in zeros_of(low, high, bits):
        for scale in _scales(low, high, bits, zero):
            candidate = Quantizer(bits, float(scale), zero)
            if (found := error(candidate)) < least:
                best, least = candidate, found
    return whole if bits >= _FINE and error(whole) <= _SPARED * least else best


def _moving(grid: Doubles, results: Doubles, bits: int) -> tuple[float, float]:
    """The part of the grid outside of which results differ by less than half of a step that so many bits make of them all."""
    least = (results.max() - results.min()) / 2 ** (bits + 1)
    from_low, from_high = (np.flatnonzero(np.abs(results - end) > least) for end in (results[0], results[-1]))
    if not len(from_low):
        return float(grid[0]), float(grid[-1])
    return float(grid[max(from_low[0] - 1, 0)]), float(grid[min(from_high[-1] + 1, len(grid) - 1)])


def spread(observer: Observer, share: float) -> float:
    """The largest magnitude over the quantile below which `share` of all magnitudes but 0 lie; 1 where all is 0."""
    values, counts = observer.points()
    values, counts = np.abs(values[values != 0]), counts[values != 0]
    if not len(values):
        return 1.0
    order = np.argsort(values, kind="stable")
    total = np.cumsum(counts[order])
    return float(max(-observer.low, observer.high) / values[order[np.searchsorted(total, share * total[-1])]])


def points(observer: Observer) -> tuple[Doubles, Doubles]:
    """At most some thousand values in ascending order, with how often they are there."""
    values, counts = observer.points()
    if len(values) <= _POINTS:
        return values, counts.astype(np.float64)
    places = np.unique(np.linspace(0, len(values), _POINTS + 1).astype(int))[:-1]
    total = np.add.reduceat(counts.astype(np.float64), places)
    return np.add.reduceat(values * counts, places) / total, total


def zeros_of(low: float, high: float, bits: int) -> Sequence[int]:
    """Zero points worth trying for values between low and high, all even; with one bit 0."""
    levels = 2**bits - 1
    if low >= 0 or bits == 1:
        return [0]
    if bits <= 4:
        return range(0, levels, 2)
    shares = np.linspace(0.5, 1.5, _ZEROS) * -low / max(high - low, 1e-30)
    return sorted({int(min(levels - 1, 2 * round(share * levels / 2))) for share in shares} | {2 ** (bits - 1)})


def _covering(low: float, high: float, bits: int) -> Quantizer:
    """The finest quantizer that clips neither end."""
    return min((Quantizer(bits, _full(low, high, bits, zero), zero) for zero in zeros_of(low, high, bits)), key=lambda q: q.scale)


def _full(low: float, high: float, bits: int, zero: int) -> float:
    """The scale with which this zero point covers low .. high, or the part of it that it can."""
    levels = 2**bits - 1
    above = high / (levels - zero) if high > 0 else 0.0
    below = -low / zero if zero and low < 0 else 0.0
    return float(np.clip(max(above, below), 1e-30, 1e30))


def _scales(low: float, high: float, bits: int, zero: int) -> Doubles:
    return _full(low, high, bits, zero) * _SHARES


def _squared_error(values: Doubles, counts: Doubles, scale: float, zero: int, bits: int) -> float:
    codes = np.clip(np.rint(values / scale), -zero, 2**bits - 1 - zero)
    return float(counts @ np.square(values - codes * scale))


def _divergence(values: Doubles, counts: Doubles, scale: float, zero: int, bits: int) -> float:
    """Kullback-Leibler divergence of the values from those of the codes, each code's share spread over what it stands for."""
    codes = np.clip(np.rint(values / scale), -zero, 2**bits - 1 - zero).astype(int) + zero
    # What is clipped counts at the ends, as in TensorRT's calibration.
    inside = (values >= (-zero - 0.5) * scale) & (values <= (2**bits - 0.5 - zero) * scale)
    if not inside.any():
        return np.inf
    clipped = counts * inside
    first, last = np.flatnonzero(inside)[[0, -1]]
    clipped[first] += counts[:first].sum()
    clipped[last] += counts[last + 1 :].sum()
    weight = np.bincount(codes[inside], counts[inside], 2**bits)
    members = np.bincount(codes[inside], minlength=2**bits)
    p, q = clipped[inside], (weight / np.maximum(members, 1))[codes[inside]]
    return float((p * np.log(np.maximum(p, 1e-30) / np.maximum(q / q.sum() * p.sum(), 1e-30))).sum() / p.sum())
