"""Sizes and windows of convolutions and pooling, as torch defines them, and torch's words where they do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ulp._validate import integer

from .graph import Indices, Pair, Shape, Sides

IntOrPair: TypeAlias = int | Sequence[int]

_LARGEST = 4096


class LayerError(ValueError, RuntimeError):
    """The input does not fit a layer, or the layer is not ready. Torch raises RuntimeError here, numpy ValueError: this is both.

    layer: where it happened, if that is known; name: the layer's name in the network that was called.
    """

    layer: object = None
    name: str = ""

    def __str__(self) -> str:
        return f"layer {self.name!r}: {super().__str__()}" if self.name else super().__str__()


def pair(value: object, name: str, low: int) -> Pair:
    """An int, or a sequence of one or two, as a pair; each from `low` to 4096."""
    if isinstance(value, (tuple, list)):
        if len(value) not in (1, 2):
            raise ValueError(f"{name}={value!r}: expected an int or two of them, (height, width)")
        first = integer(value[0], f"{name}[0]", low, _LARGEST)
        return first, integer(value[-1], f"{name}[{len(value) - 1}]", low, _LARGEST)
    both = integer(value, name, low, _LARGEST)
    return both, both


def numbers(value: object, name: str, low: int, count: int) -> tuple[int, ...]:
    """As `pair` for two; for one, an int or a sequence of one, as a tuple."""
    if count == 2:
        return pair(value, name, low)
    if isinstance(value, (tuple, list)):
        if len(value) != 1:
            raise ValueError(f"{name}={value!r}: expected an int")
        value = value[0]
    return (integer(value, name, low, _LARGEST),)


def shape_text(shape: Sequence[int]) -> str:
    """[1, 3, 8, 8]"""
    return "[" + ", ".join(str(side) for side in shape) + "]"


def dimension(dim: int, ndim: int) -> int:
    """`dim` of an array of `ndim` dimensions as 0 or more. LayerError, in torch's words, where there is no such dimension."""
    if not -ndim <= dim < ndim:
        raise LayerError(f"Dimension out of range (expected to be in range of [{-ndim}, {ndim - 1}], but got {dim})")
    return dim % ndim


def as_pair(given: Sequence[int], other: int) -> Pair:
    """One number per side of an image; of a sequence, which is an image of one row, with `other` for that."""
    return (given[0], given[1]) if len(given) == 2 else (other, given[0])


def same_padding(kernel: Pair, dilation: Pair) -> Sides:
    """Torch's padding='same': an odd pixel goes to the bottom and to the right."""
    total_y, total_x = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    return total_y // 2, total_x // 2, total_y - total_y // 2, total_x - total_x // 2


def conv_size(size: Pair, kernel: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Pair:
    """(height, width) of a convolution's result."""
    top, left, bottom, right = padding
    padded = size[0] + top + bottom, size[1] + left + right
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    if padded[0] < reach[0] or padded[1] < reach[1]:
        raise LayerError(
            f"Calculated padded input size per channel: ({padded[0]} x {padded[1]}). Kernel size: ({reach[0]} x {reach[1]}). "
            f"Kernel size can't be greater than actual input size"
        )
    return (padded[0] - reach[0]) // stride[0] + 1, (padded[1] - reach[1]) // stride[1] + 1


def pool_size(shape: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> Pair:
    """(height, width) of a pooling of one image (C, H, W). With ceil_mode a last window may hang over the end, but must begin before it."""
    channels, *size = shape
    out = []
    for s, k, step, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        free = s + 2 * p - d * (k - 1) - 1
        count = (-(-free // step) if ceil_mode else free // step) + 1
        if ceil_mode and (count - 1) * step >= s + p:
            count -= 1
        out.append(count)
    if min(out) < 1:
        raise LayerError(
            f"Given input size: ({channels}x{size[0]}x{size[1]}). Calculated output size: ({channels}x{out[0]}x{out[1]}). "
            f"Output size is too small"
        )
    return out[0], out[1]


def pool_windows(size: int, count: int, kernel: int, stride: int, padding: int, dilation: int) -> Indices:
    """int32 (count, 2): where each window begins and ends, clipped to 0..size and still on its steps of `dilation`.

    begin >= end says that all of a (dilated) window lies in the padding.
    """
    start = np.arange(count) * stride - padding
    end = np.minimum(start + dilation * (kernel - 1) + 1, size)
    outside = np.maximum(0, -start)
    return np.stack([start + -(-outside // dilation) * dilation, end], axis=1).astype(np.int32)


def average_divisors(size: Pair, out: Pair, kernel: Pair, stride: Pair, padding: Pair) -> npt.NDArray[np.float32]:
    """float32 `out`: the pixels of each window with the padding counted, but never what ceil_mode lets hang over the padding."""
    sides = []
    for s, n, k, step, p in zip(size, out, kernel, stride, padding, strict=True):
        start = np.arange(n) * step - p
        sides.append(np.minimum(start + k, s + p) - start)
    return np.outer(*sides).astype(np.float32)


def adaptive_windows(size: int, count: int) -> Indices:
    """int32 (count, 2): `count` windows that cover 0..size, as torch's adaptive pooling lays them."""
    i = np.arange(count)
    return np.stack([i * size // count, -(-(i + 1) * size // count)], axis=1).astype(np.int32)


def areas(rows: Indices, columns: Indices) -> npt.NDArray[np.float32]:
    """float32 (rows, columns): the pixels in each window."""
    return np.outer(rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0]).astype(np.float32)


def check_sequence(shape: Shape, layer: str, given: Shape) -> None:
    """LayerError unless `shape`, of one sequence, has two dimensions; `given` is what the caller passed."""
    if len(shape) != 2 or len(given) > 3:
        raise LayerError(f"Expected 2D (unbatched) or 3D (batched) input to {layer}, but got input of size: {shape_text(given)}")


def check_image(shape: Shape, layer: str, given: Shape) -> None:
    """LayerError unless `shape`, of one image, has three dimensions; `given` is what the caller passed."""
    if len(shape) != 3 or len(given) > 4:
        raise LayerError(f"Expected 3D (unbatched) or 4D (batched) input to {layer}, but got input of size: {shape_text(given)}")
