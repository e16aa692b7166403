"""Operators that slide a window: convolution, transposed convolution, pooling. Of one side, two, or any number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ulp.nn.floats import conv as convolve
from ulp.nn.floats import windows
from ulp.onnx.model import OnnxError

from .registry import Array, Attribute, Call, integer, integers, operator, string

AUTO_PAD = string("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def _inner(indices: Iterable[Any], lead: int = 2) -> tuple[Any, ...]:
    """Indices of the sides of an image, behind `lead` axes that are taken whole."""
    return (*(slice(None),) * lead, *indices)


@dataclass(frozen=True)
class Geometry:
    """How windows lie over an image: tuples of one number per side. before, after: the padding, which out has taken into account."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    out: tuple[int, ...]

    def pad(self, call: Call, x: Array, value: Any) -> Array:
        """X in a frame that ends where the last window does."""
        axes = zip(self.kernel, self.stride, self.dilation, self.out, strict=True)
        frame = [(n - 1) * s + d * (k - 1) + 1 for k, s, d, n in axes]
        call.allow([*x.shape[:2], *frame], x.dtype)
        x = x[_inner(slice(0, max(0, length - low)) for length, low in zip(frame, self.before, strict=True))]
        widths = [(low, max(0, n - low - side)) for n, low, side in zip(frame, self.before, x.shape[2:], strict=True)]
        return np.pad(x, [(0, 0), (0, 0), *widths], constant_values=value) if any(map(any, widths)) else x


def _per_side(given: Sequence[int] | None, count: int, default: int, name: str) -> tuple[int, ...]:
    values = (default,) * count if given is None else tuple(given)
    if len(values) != count:
        raise OnnxError(f"{name} has {len(values)} numbers, expected {count}")
    return values


def _image_sides(x: Array) -> tuple[int, ...]:
    if x.ndim < 3:
        raise OnnxError(f"X has shape {list(x.shape)}: expected (N, C, ...) of three dimensions or more")
    return x.shape[2:]


def geometry(call: Call, sides: tuple[int, ...], kernel: Sequence[int], ceil: bool = False) -> Geometry:
    """From a node's strides, pads, dilations and auto_pad. ceil: a last window may hang over the end, but must begin before it."""
    count = len(sides)
    kernel = _per_side(kernel, count, 1, "kernel_shape")
    stride = _per_side(call["strides"], count, 1, "strides")
    dilation = _per_side(call["dilations"], count, 1, "dilations")
    pads = _per_side(call["pads"], 2 * count, 0, "pads")
    before, after, out = [], [], []
    for i, (side, k, s, d) in enumerate(zip(sides, kernel, stride, dilation, strict=True)):
        reach = d * (k - 1) + 1
        low, high = pads[i], pads[count + i]
        if call["auto_pad"] == "VALID":
            low, high = 0, 0
        elif call["auto_pad"] != "NOTSET":
            total = max(0, (-(-side // s) - 1) * s + reach - side)
            low = total // 2 if call["auto_pad"] == "SAME_UPPER" else total - total // 2
            high = total - low
        free = side + low + high - reach
        windows_ = (-(-free // s) if ceil else free // s) + 1
        if ceil and (windows_ - 1) * s >= side + low:
            windows_ -= 1
        if windows_ < 1:
            raise OnnxError(f"a kernel that reaches over {reach} does not fit {side} elements padded by {low} and {high}")
        before.append(low)
        after.append(high)
        out.append(windows_)
    call.allow([side + low + high for side, low, high in zip(sides, before, after, strict=True)], np.float32)
    return Geometry(kernel, stride, dilation, tuple(before), tuple(after), tuple(out))


def check_conv(call: Call, x: Array, w: Array, bias: Array | None, *, channels: int, outputs: int) -> None:
    """OnnxError unless X (N, C, ...), the weight and the bias fit; channels, outputs: what the weight is for."""
    _image_sides(x)
    if w.ndim != x.ndim:
        raise OnnxError(f"W has shape {list(w.shape)} and X {list(x.shape)}: expected as many dimensions")
    if call["kernel_shape"] is not None and tuple(call["kernel_shape"]) != w.shape[2:]:
        raise OnnxError(f"kernel_shape={list(call['kernel_shape'])}, but W has shape {list(w.shape)}")
    if x.shape[1] != channels or len(w) % call["group"] or outputs < 1 or math.prod(w.shape[2:]) < 1:
        raise OnnxError(f"W of shape {list(w.shape)} in {call['group']} groups does not fit X of {list(x.shape)}")
    if bias is not None and bias.shape != (outputs,):
        raise OnnxError(f"B has shape {list(bias.shape)}, expected [{outputs}]")


CONV_ATTRIBUTES: dict[str, Attribute] = {
    "auto_pad": AUTO_PAD,
    "dilations": integers(low=1),
    "group": integer(1, low=1),
    "kernel_shape": integers(low=1),
    "pads": integers(low=0),
    "strides": integers(low=1),
}


def prepare_conv(call: Call, x: Array, w: Array, bias: Array | None, padding: Any = 0) -> tuple[Array, Geometry]:
    """The padded image and the geometry of a checked convolution, whose unrolled windows are not too large."""
    check_conv(call, x, w, bias, channels=w.shape[1] * call["group"], outputs=len(w))
    shape = geometry(call, x.shape[2:], w.shape[2:])
    call.allow([x.shape[0], len(w), *shape.out], np.float32)
    call.allow([math.prod(w.shape[1:]), *shape.out], w.dtype)
    return shape.pad(call, x, padding), shape


@operator("Conv", "X:float W:float B:float?", CONV_ATTRIBUTES)
def conv(call: Call, x: Array, w: Array, bias: Array | None = None) -> Array:
    """Convolution by BLAS, of the windows of one image after the other."""
    padded, shape = prepare_conv(call, x, w, bias)
    return convolve(padded, w, bias, shape.stride, shape.dilation, call["group"])


@operator("ConvTranspose", "X:float W:float B:float?", CONV_ATTRIBUTES, output_padding=integers(low=0), output_shape=integers(low=1))
def conv_transpose(call: Call, x: Array, w: Array, bias: Array | None = None) -> Array:
    """Each element of X adds its multiple of the kernel to the result. W is (C, O / group, ...)."""
    groups, own = call["group"], w.shape[1] if w.ndim > 1 else 0
    check_conv(call, x, w, bias, channels=len(w), outputs=own * groups)
    sides, kernel = x.shape[2:], w.shape[2:]
    stride, dilation, first, out = transposed_window(call, sides, kernel)
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(sides, stride, dilation, kernel, strict=True)]
    larger = [max(f, b + n) for f, b, n in zip(full, first, out, strict=True)]
    call.allow([x.shape[0], own * groups, *larger], x.dtype)
    call.allow([own * groups, *x.shape[:1], *sides], x.dtype)
    result = np.zeros((x.shape[0], groups, own, *larger), x.dtype)
    grouped, weights = x.reshape(x.shape[0], groups, -1, math.prod(sides)), w.reshape(groups, -1, own, *kernel)
    for tap in product(*map(range, kernel)):
        part = np.matmul(weights[_inner(tap, 3)].swapaxes(1, 2), grouped).reshape(x.shape[0], groups, own, *sides)
        window = (slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilation, sides, stride, strict=True))
        result[_inner(window, 3)] += part
    cut = result[_inner((slice(b, b + n) for b, n in zip(first, out, strict=True)), 3)].reshape(x.shape[0], own * groups, *out)
    return np.asarray(cut if bias is None else cut + bias.reshape(-1, *(1,) * len(sides)))


def transposed_window(
    call: Call, sides: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(stride, dilation, where the result begins in the full one, its sides)."""
    count = len(sides)
    stride = _per_side(call["strides"], count, 1, "strides")
    dilation = _per_side(call["dilations"], count, 1, "dilations")
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(sides, stride, dilation, kernel, strict=True)]
    extra = _per_side(call["output_padding"], count, 0, "output_padding")
    pads = _per_side(call["pads"], 2 * count, 0, "pads")
    first, out = list(pads[:count]), [f + e - b - a for f, e, b, a in zip(full, extra, pads[:count], pads[count:], strict=True)]
    wanted = call["output_shape"]
    if wanted is None and call["auto_pad"] in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(sides, stride, strict=True)]
    if wanted is not None:
        out = list(_per_side(wanted[-count:], count, 0, "output_shape"))
        total = [max(0, f + e - n) for f, e, n in zip(full, extra, out, strict=True)]
        if call["output_shape"] is None:  # with strides above the kernel's reach there may be less than wanted, as in onnxruntime
            out = [f + e - t for f, e, t in zip(full, extra, total, strict=True)]
        first = [t // 2 if call["auto_pad"] == "SAME_UPPER" else t - t // 2 for t in total]
    if min(out) < 1:
        raise OnnxError(f"pads leave a result of {out}")
    return stride, dilation, tuple(first), tuple(out)


_POOL_ATTRIBUTES: dict[str, Attribute] = {
    "auto_pad": AUTO_PAD,
    "ceil_mode": integer(0),
    "dilations": integers(low=1),
    "kernel_shape": integers(low=1, required=True),
    "pads": integers(low=0),
    "strides": integers(low=1),
}


def _slide(function: np.ufunc, x: Array, shape: Geometry) -> Array:
    """Windows of a padded X brought together by a ufunc, one side after the other."""
    for i, (k, s, d, n) in enumerate(zip(shape.kernel, shape.stride, shape.dilation, shape.out, strict=True)):
        if n < k:  # few windows of many taps
            inputs = [x[_inner([slice(o * s, o * s + d * (k - 1) + 1, d)], 2 + i)] for o in range(n)]
            x = np.stack([function.reduce(window, axis=2 + i) for window in inputs], axis=2 + i)
            continue
        taps = [x[_inner([slice(t * d, t * d + (n - 1) * s + 1, s)], 2 + i)] for t in range(k)]
        x = taps[0].copy()
        for tap in taps[1:]:
            function(x, tap, out=x)
    return x


@operator("MaxPool", "X:number", _POOL_ATTRIBUTES, outputs=2, storage_order=integer(0))
def max_pool(call: Call, x: Array) -> Array | tuple[Array, Array]:
    """The largest element of each window; the second result is its place in X, counted through all dimensions."""
    shape = geometry(call, _image_sides(x), call["kernel_shape"], bool(call["ceil_mode"]))
    lowest = -math.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = shape.pad(call, x, lowest)
    if call.outputs == 1:
        return _slide(np.maximum, padded, shape)
    call.allow([*x.shape[:2], *shape.out, *shape.kernel], x.dtype)
    taps = windows(padded, shape.kernel, shape.stride, shape.dilation).reshape(*x.shape[:2], *shape.out, -1)
    best = np.unravel_index(taps.argmax(-1), shape.kernel)
    place = np.zeros(best[0].shape, np.int64)
    sides = list(range(len(shape.kernel)))
    for i in reversed(sides) if call["storage_order"] else sides:
        along = (np.arange(shape.out[i]) * shape.stride[i] - shape.before[i]).reshape(-1, *(1,) * (len(sides) - 1 - i))
        place = place * x.shape[2 + i] + along + best[i] * shape.dilation[i]
    images = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * len(sides))
    return taps.max(-1), place + images * math.prod(x.shape[2:])


@operator("AveragePool", "X:float", _POOL_ATTRIBUTES, count_include_pad=integer(0))
def average_pool(call: Call, x: Array) -> Array:
    """The mean of each window; of what the padding adds only with count_include_pad."""
    sides = _image_sides(x)
    shape = geometry(call, sides, call["kernel_shape"], bool(call["ceil_mode"]))
    sums = _slide(np.add, shape.pad(call, x, 0), shape)
    divisor = np.ones((), x.dtype)
    for i, side in enumerate(sides):
        low, high = (shape.before[i], shape.after[i]) if call["count_include_pad"] else (0, 0)
        divisor = np.multiply.outer(divisor, _taps_within(shape, i, -low, side + high)).astype(x.dtype)
    return np.asarray(sums / divisor)


def _taps_within(shape: Geometry, i: int, low: int, high: int) -> Array:
    """How many taps of each window along side i lie from low up to high; at least 1, as what is divided is 0 there."""
    start = np.arange(shape.out[i]) * shape.stride[i] - shape.before[i]
    first = -(-np.maximum(0, low - start) // shape.dilation[i])
    last = np.minimum(shape.kernel[i], -((start - high) // shape.dilation[i]))
    return np.asarray(np.maximum(1, last - first))


@operator("GlobalAveragePool", "X:float")
def global_average_pool(_: Call, x: Array) -> Array:
    """The mean of each channel."""
    sides = _image_sides(x)
    return np.asarray(x.sum(tuple(range(2, x.ndim)), keepdims=True) / x.dtype.type(math.prod(sides)))


@operator("GlobalMaxPool", "X:float")
def global_max_pool(_: Call, x: Array) -> Array:
    """The largest element of each channel."""
    _image_sides(x)
    return np.asarray(x.max(tuple(range(2, x.ndim)), keepdims=True, initial=-math.inf))
