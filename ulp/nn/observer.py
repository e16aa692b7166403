"""What a calibration records of a tensor: its extremes and a histogram whose range grows with the values."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .quantizer import FloatArray, Quantizer, from_range

METHODS = ("minmax", "percentile", "mse")

# Bins per side. The histogram reaches to a power of two, so at least half of them are used: finer than 8 bits by a factor of 16.
_BINS = 4096


class Observer:
    """The smallest and largest value, and a histogram of 2 * 4096 equal bins around 0. Exact zeros are counted apart."""

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.zeros = 0
        self.counts = np.zeros(2 * _BINS, np.int64)
        self._reach = 0.0  # the bins lie between -reach and reach, a power of two

    def add(self, x: FloatArray) -> None:
        """Count values. ValueError where one is not finite."""
        if x.size == 0:
            return
        low, high = float(x.min()), float(x.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("the input of a calibration holds a NaN or an infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if largest > 0:
            self._grow(largest)
            bins = np.floor(x.ravel() * np.float64(_BINS / self._reach)).astype(np.int32)
            np.clip(bins, -_BINS, _BINS - 1, out=bins)
            self.counts += np.bincount(bins + _BINS, minlength=2 * _BINS)
        zeros = x.size - int(np.count_nonzero(x))
        self.zeros += zeros
        if largest > 0:
            self.counts[_BINS] -= zeros

    def _grow(self, largest: float) -> None:
        if self._reach == 0:
            self._reach = 2.0 ** math.ceil(math.log2(largest))
        while largest > self._reach:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[_BINS // 2 : _BINS // 2 + _BINS] = merged
            self._reach *= 2

    @property
    def seen(self) -> bool:
        """Whether any value has been counted."""
        return self.high >= self.low

    def quantizer(self, bits: int, signed: bool | None, asymmetric: bool, method: str, percentile: float) -> Quantizer:
        """The quantizer that `method`, one of METHODS, finds (see `ulp.nn.calibrate`). Precondition: `seen`."""
        if signed is None:
            signed = self.low < 0 and bits > 1
        if method == "minmax":
            return from_range(self.low, self.high, bits, signed, asymmetric)
        if method == "percentile":
            return from_range(self._percentile(100 - percentile), self._percentile(percentile), bits, signed, asymmetric)
        return self._by_squared_error(bits, signed, asymmetric)

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Values in ascending order with their counts: the middle of each bin that is not empty, and 0."""
        width = self._reach / _BINS
        values = np.insert((np.arange(-_BINS, _BINS) + 0.5) * width, _BINS, 0.0)
        counts = np.insert(self.counts, _BINS, self.zeros)
        used = counts > 0
        return np.clip(values[used], self.low, self.high), counts[used]

    def _percentile(self, percentile: float) -> float:
        values, counts = self.points()
        if percentile >= 100:
            return self.high
        if percentile <= 0:
            return self.low
        total = np.cumsum(counts)
        return float(values[min(len(values) - 1, int(np.searchsorted(total, percentile / 100 * total[-1])))])

    def _by_squared_error(self, bits: int, signed: bool, asymmetric: bool) -> Quantizer:
        values, counts = self.points()
        points = values.astype(np.float32)
        best, min_error = from_range(self.low, self.high, bits, signed, asymmetric), math.inf
        # With heavy tails, 2 bits are best on a small share of the range, 6 bits and more on nearly all of it.
        for share in np.geomspace(1 / 64, 1, 128):
            candidate = from_range(self.low * share, self.high * share, bits, signed, asymmetric)
            error = float((np.square(points - candidate.round_trip(points), dtype=np.float64) * counts).sum())
            if error < min_error:
                best, min_error = candidate, error
        return best
