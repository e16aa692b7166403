"""What layers must compute, written down naively: loops over output pixels, int64 sums, float32 operations one at a time.

Shares nothing with ulp.nn but the quantizers and the integers of the layers' weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp
from tools.reference.plan import ReferencePlan
from ulp.nn import lower

F32 = np.float32
BACKENDS = ("native", "reference")


@contextlib.contextmanager
def plans_of(backend: str) -> Iterator[None]:
    """Plans made inside are native ones, or numpy's."""
    with pytest.MonkeyPatch.context() as patch:
        if backend == "reference":
            patch.setattr(lower, "new_plan", ReferencePlan)
        yield


class Net(ulp.nn.Module):
    """A network of one function."""

    def __init__(self, forward: Callable[..., Any], **layers: ulp.nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


def images(rng: np.random.Generator, *shape: int, negative: bool = True) -> Array:
    """Normally distributed float32 values."""
    x = rng.standard_normal(shape).astype(F32)
    return x if negative else np.abs(x)


def steps_of(x: Array, q: ulp.nn.Quantizer) -> Array:
    """code - zero of every value, int64."""
    codes = np.rint(x * (F32(1) / F32(q.scale))) + F32(q.zero)
    return np.asarray(np.clip(codes, 0, 2**q.bits - 1).astype(np.int64) - q.zero)


def rounded(x: Array, q: ulp.nn.Quantizer) -> Array:
    return np.asarray(steps_of(x, q).astype(F32) * F32(q.scale))


def padded(x: Array, sides: tuple[int, int, int, int], mode: str) -> Array:
    """x with its last two dimensions padded top, left, bottom, right, pixel by pixel."""
    top, left, bottom, right = sides
    height, width = x.shape[-2:]

    def index(i: int, size: int) -> int | None:
        if 0 <= i < size:
            return i
        match mode:
            case "reflect":
                return -i if i < 0 else 2 * (size - 1) - i
            case "replicate":
                return min(max(i, 0), size - 1)
            case "circular":
                return i % size
        return None

    out = np.zeros((*x.shape[:-2], height + top + bottom, width + left + right), x.dtype)
    for y in range(out.shape[-2]):
        for column in range(out.shape[-1]):
            at = index(y - top, height), index(column - left, width)
            if None not in at:
                out[..., y, column] = x[..., at[0], at[1]]
    return out


def conv2d(x: Array, layer: ulp.nn.Conv2d) -> Array:
    """The layer's result by its definition: bit for bit."""
    assert layer.quantizer is not None
    a = steps_of(padded(x, layer.sides, layer.padding_mode), layer.quantizer)
    w = layer.weight_int.astype(np.int64)
    out_channels, each, kh, kw = w.shape
    dy, dx = layer.dilation
    sy, sx = layer.stride
    height = (a.shape[2] - dy * (kh - 1) - 1) // sy + 1
    width = (a.shape[3] - dx * (kw - 1) - 1) // sx + 1
    acc = np.zeros((len(x), out_channels, height, width), np.int64)
    for y in range(height):
        for column in range(width):
            window = a[:, :, y * sy : y * sy + dy * (kh - 1) + 1 : dy, column * sx : column * sx + dx * (kw - 1) + 1 : dx]
            for o in range(out_channels):
                g = o // (out_channels // layer.groups)
                acc[:, o, y, column] = (window[:, g * each : (g + 1) * each] * w[o]).sum(axis=(1, 2, 3))
    return scaled(acc, layer)


def linear(x: Array, layer: ulp.nn.Linear) -> Array:
    assert layer.quantizer is not None
    return scaled(steps_of(x, layer.quantizer) @ layer.weight_int.astype(np.int64).T, layer)


def scaled(acc: Array, layer: Any) -> Array:
    sides = (1,) * (acc.ndim - 2)
    m = (F32(layer.quantizer.scale) * layer.weight_scale).reshape(-1, *sides)
    bias = np.zeros(1, F32) if layer.bias is None else layer.bias.reshape(-1, *sides)
    return np.asarray(acc.astype(F32) * m + bias)


def windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> list[range]:
    """The indices under each window of a pooling, those in the padding included."""
    found: list[range] = []
    while True:
        start = len(found) * stride - padding
        reach = dilation * (kernel - 1) + 1
        # With ceil_mode a further window as long as the one before did not reach the end; but it must begin on the image or left of it.
        hangs = ceil_mode and start < size and (not found or found[-1][-1] < size + padding - 1)
        fits = hangs if ceil_mode else start + reach <= size + padding
        if not fits:
            return found
        found.append(range(start, start + reach, dilation))


def pool(x: Array, layer: Any, reduce: Any) -> Array:
    """reduce(values (N, C, pixels), pixels with the padding) for each window."""
    dilation = getattr(layer, "dilation", (1, 1))
    rows, columns = (
        windows(x.shape[2 + i], layer.kernel_size[i], layer.stride[i], layer.padding[i], dilation[i], layer.ceil_mode) for i in (0, 1)
    )
    out = np.empty((*x.shape[:2], len(rows), len(columns)), F32)
    for i, ys in enumerate(rows):
        for j, xs in enumerate(columns):
            inside = [(y, c) for y in ys for c in xs if 0 <= y < x.shape[2] and 0 <= c < x.shape[3]]
            counted = sum(y < x.shape[2] + layer.padding[0] for y in ys) * sum(c < x.shape[3] + layer.padding[1] for c in xs)
            values = np.stack([x[:, :, y, c] for y, c in inside], axis=2) if inside else np.empty((*x.shape[:2], 0), x.dtype)
            out[:, :, i, j] = reduce(values, counted)
    return out


def max_pool2d(x: Array, layer: ulp.nn.MaxPool2d) -> Array:
    return pool(x, layer, lambda values, _: values.max(axis=2, initial=-np.inf))


def avg_pool2d(x: Array, layer: ulp.nn.AvgPool2d) -> Array:
    q = layer.quantizer
    assert q is not None

    def mean(values: Array, counted: int) -> Array:
        divisor = layer.divisor_override or (counted if layer.count_include_pad else values.shape[2])
        return np.asarray(values.sum(axis=2).astype(F32) * (F32(q.scale) / F32(divisor)))

    return pool(steps_of(x, q), layer, mean)


def adaptive_avg_pool2d(x: Array, layer: ulp.nn.AdaptiveAvgPool2d) -> Array:
    q = layer.quantizer
    assert q is not None
    a = steps_of(x, q)
    height, width = (size if side is None else side for size, side in zip(x.shape[2:], layer.output_size, strict=True))
    out = np.empty((*x.shape[:2], height, width), F32)
    for i in range(height):
        for j in range(width):
            part = a[
                :,
                :,
                i * x.shape[2] // height : -(-(i + 1) * x.shape[2] // height),
                j * x.shape[3] // width : -(-(j + 1) * x.shape[3] // width),
            ]
            out[:, :, i, j] = part.sum(axis=(2, 3)).astype(F32) * (F32(q.scale) / F32(part.shape[2] * part.shape[3]))
    return out
