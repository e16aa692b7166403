"""Convolution and pooling of floats in numpy: what calibration runs, and what needs no integers. Arrays are float32 (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Indices, Pair
from .quantizer import FloatArray


def windows(x: npt.NDArray[Any], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> npt.NDArray[Any]:
    """A view (N, C, Ho, Wo, kh, kw) of all windows of x; so for any number of sides."""
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, x.ndim)))
    steps = (1, 1, *stride, *dilation)
    return view[tuple(slice(None, None, step) for step in steps)]


def conv(
    x: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> npt.NDArray[Any]:
    """x (N, C, H, W), already padded, with weight (O, C / groups, kh, kw); so for any number of sides, in x's type."""
    sides = x.ndim - 2
    view = windows(x, weight.shape[2:], stride, dilation)
    images, channels = view.shape[:2]
    out = np.empty((images, len(weight), *view.shape[2 : 2 + sides]), x.dtype)
    if groups == channels == len(weight):
        kept, taps = list(range(2 + sides)), list(range(2 + sides, 2 + 2 * sides))
        np.einsum(view, [*kept, *taps], weight[:, 0], [1, *taps], kept, out=out)
    else:
        each, own = channels // groups, len(weight) // groups
        axes = (tuple(range(1, 2 + sides)), (0, *range(1 + sides, 1 + 2 * sides)))
        for i in range(images):
            for g in range(groups):
                part = view[i, g * each : (g + 1) * each]
                product = np.tensordot(weight[g * own : (g + 1) * own], part, axes=axes)
                out[i, g * own : (g + 1) * own] = product
    return out if bias is None else out + bias.reshape(-1, *(1,) * sides)


@dataclass(frozen=True)
class PoolTaps:
    """A pooling of one size of image: the image in a frame of -inf, if it needs one, and the slices of it that are compared."""

    frame: Pair | None
    inner: tuple[slice, slice]
    taps: list[tuple[slice, slice]]


def pool_taps(size: Pair, out: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> PoolTaps:
    """`out`: the size of the result. -inf wherever a window reaches beyond the image."""
    reach = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(out, kernel, stride, dilation, strict=True)]
    needs = any(padding) or reach[0] > size[0] or reach[1] > size[1]
    rows, columns = (
        [slice(t * dilation[i], t * dilation[i] + (out[i] - 1) * stride[i] + 1, stride[i]) for t in range(kernel[i])] for i in (0, 1)
    )
    return PoolTaps(
        (max(reach[0], size[0] + 2 * padding[0]), max(reach[1], size[1] + 2 * padding[1])) if needs else None,
        (slice(padding[0], padding[0] + size[0]), slice(padding[1], padding[1] + size[1])),
        [(y, x) for y in rows for x in columns],
    )


def max_pool2d(x: FloatArray, pool: PoolTaps) -> FloatArray:
    """The largest value of each window. NaN wins, as in torch."""
    if pool.frame is not None:
        framed = np.full((*x.shape[:2], *pool.frame), -np.inf, np.float32)
        framed[:, :, pool.inner[0], pool.inner[1]] = x
        x = framed
    rows, columns = pool.taps[0]
    out: FloatArray = x[:, :, rows, columns].copy()
    for rows, columns in pool.taps[1:]:
        np.maximum(out, x[:, :, rows, columns], out=out)
    return out


def window_sums(x: npt.NDArray[np.float32] | npt.NDArray[np.int64], rows: Indices, columns: Indices) -> npt.NDArray[np.float64]:
    """Sums over windows, in float64: exact for codes."""
    table = np.zeros((*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1))
    np.cumsum(np.cumsum(x, axis=2, dtype=np.float64), axis=3, out=table[:, :, 1:, 1:])
    y0, y1, x0, x1 = rows[:, :1], rows[:, 1:], columns[:, 0], columns[:, 1]
    result: npt.NDArray[np.float64] = table[:, :, y1, x1] - table[:, :, y0, x1] - table[:, :, y1, x0] + table[:, :, y0, x0]
    return result
