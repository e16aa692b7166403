"""Transposed convolutions as convolutions of the image without zeros between its pixels: one for each place of a result's pixel.

    y[s q + r] = sum over k of w[k] z[s q + r + k - pad],   z[u] = x[(u + first) / s] where s divides u + first, else 0

has a product for every s-th k only: k = k0 + s t, and x[q + b + t] there. The results y[s q + r] of all r lie side by side as channels,
until a step moves them to their pixels. (Shi et al., 2016, "Is the deconvolution layer the same as a convolutional layer?")
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from . import graph as ir

_MAX_PLACES = 16


@dataclass(frozen=True)
class SubPixels:
    """source: the image without zeros. parts: convolutions of it, whose results are the channels of an image of `size`, one after another.

    rows, columns, channels: where the elements of the result lie in that image, as `ir.Rearrange` has it.
    """

    source: ir.Node
    parts: list[ir.Conv]
    size: ir.Pair
    rows: ir.Indices
    columns: ir.Indices
    channels: ir.Indices


@dataclass(frozen=True)
class _Axis:
    """One side: its stride, how many results of each place there are, and per place (k0, taps of zero before, taps in all, padding)."""

    stride: int
    count: int
    places: list[tuple[int, int, int, tuple[int, int]]]


def turned(weights: npt.NDArray[Any], groups: int) -> npt.NDArray[Any]:
    """(C, O / groups, ...) of a transposed convolution as (O, C / groups, ...) of the convolution that it is, and back."""
    inputs, outputs, *kernel = weights.shape
    grouped = weights.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    whole = grouped.reshape(groups * outputs, inputs // groups, *kernel)
    return np.ascontiguousarray(np.flip(whole, tuple(range(2, whole.ndim))))


def spread(side: int, stride: int, dilation: int, kernel: int, first: int, size: int) -> tuple[ir.Indices, ir.Pair]:
    """One side of a transposed convolution: which pixel of the image, or -1 for a zero, each pixel of the spread one is, and its padding.

    first, size: where its result begins in that without padding, and how long it is. No pixels where the result sees none.
    """
    reach, length = dilation * (kernel - 1), (side - 1) * stride + 1
    before = reach - first
    after = size - length - before + reach
    at = np.arange(max(0, -before), length - max(0, -after))
    return np.where(at % stride == 0, at // stride, -1).astype(np.int32), (max(0, before), max(0, after))


def sub_pixels(node: ir.Node) -> SubPixels | None:
    """How a convolution of an image with zeros between its pixels can do without them; None where it is none, or cannot."""
    op = node.op
    if not isinstance(op, ir.Conv) or len(node.shape) != 3:
        return None
    spread = node.inputs[0]
    if isinstance(spread.op, ir.Quantize) and spread.op.quantizer == op.quantizer:
        spread = spread.inputs[0]
    if not isinstance(spread.op, ir.Gather):
        return None
    w = op.weights
    depthwise = op.groups == len(w.integers) == node.inputs[0].shape[0] > 1
    if depthwise and not -128 <= int(w.integers.min()) - w.zero <= int(w.integers.max()) - w.zero <= 127:  # what a depthwise step takes
        return None
    if op.stride != (1, 1) or op.dilation != (1, 1) or not (depthwise or (op.groups == 1 and w.integers.shape[1] >= 4)):
        return None
    sides = spread.inputs[0].shape[1:]
    axes = [
        _axis(index, side, w.integers.shape[2 + i], op.padding[i], node.shape[1 + i])
        for i, (index, side) in enumerate(zip((spread.op.rows, spread.op.columns), sides, strict=True))
    ]
    y, x = axes
    if y is None or x is None or not 1 < y.stride * x.stride <= _MAX_PLACES:
        return None
    # One bit has no zero.
    if w.bits == 1 and any(
        _kept(axis, place, w.integers.shape[2 + i]) < place[2] for i, axis in enumerate((y, x)) for place in axis.places
    ):
        return None
    parts = [(_taps(op, y, i, x, j), (y.places[i][3], x.places[j][3])) for i in range(y.stride) for j in range(x.stride)]
    outputs = node.shape[0]
    rows, columns, channels = (np.zeros((n, 3), np.int32) for n in (node.shape[1], node.shape[2], outputs))
    for places, axis, column, step in ((rows, y, 0, x.stride * outputs), (columns, x, 1, outputs)):
        at = np.arange(len(places))
        places[:, column] = at // axis.stride
        places[:, 2] = at % axis.stride * step
    channels[:, 2] = np.arange(outputs)
    return SubPixels(spread.inputs[0], _joined(op, parts), (y.count, x.count), rows, columns, channels)


def _axis(index: ir.Indices, side: int, kernel: int, padding: int, size: int) -> _Axis | None:
    there = np.flatnonzero(index >= 0)
    if not len(there):
        return None
    if len(there) < 2 and len(index) > 1:
        return None
    stride = int(there[1] - there[0]) if len(there) > 1 else 1
    if stride > _MAX_PLACES or (np.diff(there) != stride).any() or (np.diff(index[there]) != 1).any():
        return None
    first = int(index[there[0]]) * stride - int(there[0])
    count = -(-size // stride)
    places = []
    for r in range(stride):
        k0 = (padding - first - r) % stride
        taps = max(0, -(-(kernel - k0) // stride))
        begin = (r + k0 - padding + first) // stride
        zeros = max(0, begin)
        before = max(0, -begin)
        total = max(1, taps + zeros)
        total = max(total, side + before - count + 1)  # with more taps there are no more results than these
        places.append((k0, zeros, total, (before, count + total - 1 - before - side)))
    return _Axis(stride, count, places)


def _kept(axis: _Axis, place: tuple[int, int, int, tuple[int, int]], kernel: int) -> int:
    """How many taps of a place are the kernel's own."""
    return max(0, -(-(kernel - place[0]) // axis.stride))


def _taps(op: ir.Conv, y: _Axis, i: int, x: _Axis, j: int) -> npt.NDArray[np.integer]:
    """The weights of the results at one place."""
    integers = op.weights.integers
    (y0, above, height, _), (x0, left, width, _) = y.places[i], x.places[j]
    own = integers[:, :, y0 :: y.stride, x0 :: x.stride]
    taps = np.full((*integers.shape[:2], height, width), op.weights.zero, integers.dtype)
    taps[:, :, above : above + own.shape[2], left : left + own.shape[3]] = own
    return taps


_Part = tuple[npt.NDArray[np.integer], tuple[tuple[int, int], tuple[int, int]]]


def _joined(op: ir.Conv, parts: list[_Part]) -> list[ir.Conv]:
    """The convolutions; neighbours of one geometry are one."""
    w, made = op.weights, []
    begin = 0
    while begin < len(parts):
        end = begin + 1
        taps, padding = parts[begin]
        while op.groups == 1 and end < len(parts) and parts[end][1] == padding and parts[end][0].shape == taps.shape:
            end += 1
        count = end - begin
        weights = replace(
            w,
            integers=np.concatenate([part for part, _ in parts[begin:end]]),
            scale=np.tile(w.scale, count),
            bias=np.tile(w.bias, count),
            start=None if w.start is None else np.tile(w.start, count),
        )
        (top, bottom), (left, right) = padding
        made.append(replace(op, weights=weights, padding=(top, left, bottom, right)))
        begin = end
    return made
