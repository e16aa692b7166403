"""Integers and scales of weights: per output channel, symmetric, by the smallest squared error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ulp.onnx.model import Array

from .prepare import Layer

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class QuantizedWeight:
    """Integers of `bits` bits, of the shape of the layer's weights, and float32 scales that broadcast to it. One bit: -1 and +1."""

    integers: npt.NDArray[np.int8]
    scale: Array
    bits: int

    def values(self) -> Array:
        """float32: the integers times the scales."""
        return np.asarray(self.integers * self.scale, np.float32)


@dataclass(frozen=True)
class Settled:
    """What a layer has in the quantized network: its weights, and another bias (O,); None: its own."""

    weight: QuantizedWeight
    bias: Array | None


def rows_of(weight: Array, axis: int) -> Array:
    """(O, K): one row per side of `axis`, that of the outputs."""
    return np.ascontiguousarray(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1)


def limits(bits: int) -> tuple[int, int]:
    """The smallest and the largest integer. One bit: -1 and +1."""
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def rounded(rows: Doubles, scale: Doubles, bits: int) -> Doubles:
    """The nearest integers of rows (O, K) at scales (O, 1)."""
    if bits == 1:
        return np.asarray(np.where(rows >= 0, 1.0, -1.0))
    low, high = limits(bits)
    return np.asarray(np.minimum(np.maximum(np.rint(rows / scale), low), high))  # np.clip's checks take longer than short rows


def scales_by_error(rows: Doubles, bits: int, importance: Doubles | None = None, *, minmax: bool = False) -> Doubles:
    """(O, 1): the scale of each row with the smallest sum of importance * error^2 among some fractions of the one that clips nothing.

    importance: (K,) or (O, K), such as the mean square of what each weight multiplies.
    """
    low, high = limits(bits)
    if bits == 1:
        weight = np.ones_like(rows) if importance is None else np.broadcast_to(importance, rows.shape)
        scale = (np.abs(rows) * weight).sum(1, keepdims=True) / np.maximum(weight.sum(1, keepdims=True), 1e-30)
        return np.asarray(np.maximum(scale, 1e-12))
    full: Doubles = np.maximum(rows.max(1, keepdims=True, initial=0) / high, rows.min(1, keepdims=True, initial=0) / low)
    full = np.maximum(full, 1e-12)
    if minmax:
        return full
    best: Doubles = full
    least = np.full_like(full, np.inf)
    for share in np.linspace(1.0, 0.3 if bits < 5 else 0.7, 48):
        scale = full * share
        error = np.square(rows - rounded(rows, scale, bits) * scale)
        total = (error if importance is None else error * importance).sum(1, keepdims=True)
        better = total < least
        best, least = np.where(better, scale, best), np.where(better, total, least)
    return best


def as_weight(integers: Doubles, scale: Doubles, bits: int, shape: tuple[int, ...], axis: int) -> QuantizedWeight:
    """Rows (O, K) of integers and scales (O, 1) in the layer's own shape."""
    outputs = shape[axis]
    moved = integers.reshape(outputs, *(side for i, side in enumerate(shape) if i != axis))
    sides = tuple(outputs if i == axis else 1 for i in range(len(shape)))
    return QuantizedWeight(np.ascontiguousarray(np.moveaxis(moved, 0, axis).astype(np.int8)), scale.reshape(sides).astype(np.float32), bits)


def quantized_weight(layer: Layer, weight: Array, bits: int, *, minmax: bool = False) -> QuantizedWeight:
    """The layer's weights at the nearest integers, of the scales with the smallest squared error (minmax: that clip nothing)."""
    rows = rows_of(weight.astype(np.float64), layer.axis)
    scale = scales_by_error(rows, bits, minmax=minmax)
    return as_weight(rounded(rows, scale, bits), scale, bits, layer.shape, layer.axis)


def signal_to_noise(signal: float, noise: float) -> float:
    """10 log10(signal / noise), in dB; inf where there is no noise."""
    return 10 * math.log10(max(signal, 1e-300) / noise) if noise > 0 else math.inf
