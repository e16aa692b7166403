"""Convolution and pooling of floats in numpy: what calibration runs, and what needs no integers. Arrays are float32 (N, C, H, W)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .graph import Indices, Pair
from .quantizer import FloatArray


def windows(x: npt.NDArray[np.float32], kernel: Pair, stride: Pair, dilation: Pair) -> FloatArray:
    """A view (N, C, Ho, Wo, kh, kw) of all windows of x."""
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def conv2d(x: FloatArray, weight: FloatArray, bias: FloatArray | None, stride: Pair, dilation: Pair, groups: int) -> FloatArray:
    """x, already padded, with weight (O, C / groups, kh, kw)."""
    view = windows(x, (weight.shape[2], weight.shape[3]), stride, dilation)
    images, channels, height, width = view.shape[:4]
    out = np.empty((images, len(weight), height, width), np.float32)
    if groups == channels == len(weight):
        np.einsum("nchwij,cij->nchw", view, weight[:, 0], out=out)
    else:
        each, own = channels // groups, len(weight) // groups
        for i in range(images):
            for g in range(groups):
                part = view[i, g * each : (g + 1) * each]
                product = np.tensordot(weight[g * own : (g + 1) * own], part, axes=((1, 2, 3), (0, 3, 4)))
                out[i, g * own : (g + 1) * own] = product
    return out if bias is None else out + bias[:, None, None]


def max_pool2d(x: FloatArray, kernel: Pair, rows: Indices, columns: Indices, dilation: Pair) -> FloatArray:
    """The largest value of each window; -inf where a window has no pixel. NaN wins, as in torch."""
    out = np.full((*x.shape[:2], len(rows), len(columns)), -np.inf, np.float32)
    for dy in range(kernel[0]):
        y, has_y = _tap(rows, dy * dilation[0])
        for dx in range(kernel[1]):
            column, has_x = _tap(columns, dx * dilation[1])
            part = x[:, :, y[:, None], column[None, :]]
            np.maximum(out, part, out=out, where=has_y[:, None] & has_x[None, :])
    return out


def _tap(windows: Indices, offset: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """The index `offset` behind each window's begin, and whether it is still in the window; else index 0."""
    at = windows[:, 0].astype(np.intp) + offset
    inside = at < windows[:, 1]
    return np.where(inside, at, 0), inside


def window_sums(x: npt.NDArray[np.float32] | npt.NDArray[np.int64], rows: Indices, columns: Indices) -> npt.NDArray[np.float64]:
    """Sums over windows, in float64: exact for codes."""
    table = np.zeros((*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1))
    np.cumsum(np.cumsum(x, axis=2, dtype=np.float64), axis=3, out=table[:, :, 1:, 1:])
    y0, y1, x0, x1 = rows[:, :1], rows[:, 1:], columns[:, 0], columns[:, 1]
    result: npt.NDArray[np.float64] = table[:, :, y1, x1] - table[:, :, y0, x1] - table[:, :, y1, x0] + table[:, :, y0, x0]
    return result
