"""Resize and Upsample: interpolation along one axis after the other, each by a table of source elements and their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ulp.onnx.model import OnnxError

from .registry import Array, Call, integer, integers, number, operator, string
from .shaping import axes_of, vector

_Doubles = npt.NDArray[np.float64]

_COORDINATES = string(
    "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"
)
_NEAREST = string("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class _Method:
    """How all axes are interpolated."""

    mode: str
    coordinates: str
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0


@dataclass(frozen=True)
class _Axis:
    """`side` elements become `out`. roi: begin and end of what is looked at, as fractions; for tf_crop_and_resize."""

    side: int
    out: int
    scale: float
    roi: tuple[float, float]


def _coordinates(axis: _Axis, mode: str) -> _Doubles:
    """Where each element of the result lies in the source."""
    y = np.arange(axis.out, dtype=np.float64)
    last = axis.side - 1
    if mode == "asymmetric":
        return y / axis.scale
    if mode == "tf_half_pixel_for_nn":
        return (y + 0.5) / axis.scale
    if mode == "align_corners":
        length = axis.scale * axis.side
        return np.zeros(axis.out) if length == 1 else y * last / (length - 1)
    if mode == "pytorch_half_pixel" and axis.out == 1:
        return np.zeros(1)
    if mode == "tf_crop_and_resize":
        begin, end = axis.roi
        return np.full(1, (begin + end) * last / 2) if axis.out == 1 else begin * last + y * (end - begin) * last / (axis.out - 1)
    x = (y + 0.5) / axis.scale - 0.5
    if mode == "half_pixel_symmetric":
        # The centres of both lie on each other, where scale * side is no integer.
        x += axis.side / 2 * (1 - axis.out / (axis.scale * axis.side))
    return x


def _nearest(x: _Doubles, mode: str, shrinks: bool) -> _Doubles:
    """The index nearest to each coordinate. shrinks: whether the axis becomes smaller."""
    # A coordinate that is a pixel, or the middle of two, was computed with roundings.
    halves = np.rint(2 * x) / 2
    x = np.where(np.abs(x - halves) < 1e-9, halves, x)
    if mode == "floor":
        return np.floor(x)
    if mode == "ceil":
        return np.ceil(x)
    if mode == "before opset 11":  # as onnxruntime has it
        return np.ceil(x) if shrinks else np.floor(x)
    return np.ceil(x - 0.5) if mode == "round_prefer_floor" else np.floor(x + 0.5)


def _cubic(distance: _Doubles, a: float) -> _Doubles:
    """Keys' kernel, of a radius of 2."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _interpolate(call: Call, x: Array, along: int, axis: _Axis, method: _Method) -> Array:
    """x with its axis `along` resized."""
    where = _coordinates(axis, method.coordinates)
    call.allow([axis.out if i == along else side for i, side in enumerate(x.shape)], x.dtype)
    if method.mode == "nearest":
        result = np.take(x, np.clip(_nearest(where, method.nearest, axis.scale < 1), 0, axis.side - 1).astype(np.int64), along)
    else:
        indices, weights = _taps(call, where, axis, method)
        shape = [-1 if i == along else 1 for i in range(x.ndim)]
        result = np.zeros([axis.out if i == along else side for i, side in enumerate(x.shape)], x.dtype)
        for index, weight in zip(indices, weights, strict=True):
            result += np.take(x, index, along) * weight.reshape(shape).astype(x.dtype)
    if method.coordinates == "tf_crop_and_resize":
        outside = (where < 0) | (where > axis.side - 1)
        result[(slice(None),) * along + (outside,)] = method.extrapolation
    return result


def _taps(call: Call, where: _Doubles, axis: _Axis, method: _Method) -> tuple[Array, _Doubles]:
    """(taps, out) source elements, and how much of each."""
    squeeze = min(axis.scale, 1.0) if method.antialias else 1.0
    radius = 2 if method.mode == "cubic" else 1
    first = math.floor(-radius / squeeze) + 1
    taps = np.arange(first, 2 - first)[:, None]
    call.allow([len(taps), axis.out], np.float64)
    indices = np.ceil(where) - 1 + taps
    distance = (indices - where) * squeeze
    weights = _cubic(distance, method.cubic_a) if method.mode == "cubic" else np.clip(1 - np.abs(distance), 0, 1)
    if method.exclude_outside:
        weights = np.where((indices < 0) | (indices >= axis.side), 0.0, weights)
    if method.exclude_outside or method.antialias:
        total = weights.sum(0)
        weights = weights / np.where(total == 0, 1.0, total)
    return np.clip(indices, 0, axis.side - 1).astype(np.int64), weights


def _resize(call: Call, x: Array, axes: dict[int, _Axis], method: _Method) -> Array:
    if method.mode != "nearest" and x.dtype.kind != "f":
        raise OnnxError(f"X has type {x.dtype}: mode {method.mode!r} interpolates floats only")
    if method.mode == "nearest" and method.antialias:
        raise OnnxError("antialias=1 has no meaning with mode 'nearest'")
    call.allow([axes[i].out if i in axes else side for i, side in enumerate(x.shape)], x.dtype)
    # First what shrinks: whatever the order, no step is then larger than source and result.
    for along, axis in sorted(axes.items(), key=lambda item: item[1].scale):
        if axis.side == 0 and axis.out > 0:
            raise OnnxError("nothing to interpolate in a side of 0")
        crops = method.coordinates == "tf_crop_and_resize" and axis.roi != (0.0, 1.0)
        if axis.out != axis.side or axis.scale != 1 or crops:
            x = _interpolate(call, x, along, axis, method)
    return x


def _by_scales(x: Array, scales: Sequence[float], along: Sequence[int], rois: Sequence[tuple[float, float]]) -> dict[int, _Axis]:
    if len(scales) != len(along):
        raise OnnxError(f"{len(scales)} scales for {len(along)} axes")
    if not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise OnnxError(f"scales {list(scales)}: expected finite ones above 0")
    # In float32, as the scales are: 0.6 of 5 pixels are 3.
    return {
        i: _Axis(x.shape[i], math.floor(np.float32(scale) * np.float32(x.shape[i])), scale, roi)
        for i, scale, roi in zip(along, scales, rois, strict=True)
    }


def _by_sizes(x: Array, sizes: Sequence[int], along: Sequence[int], rois: Sequence[tuple[float, float]], policy: str) -> dict[int, _Axis]:
    if len(sizes) != len(along) or min(sizes, default=1) < 1:
        raise OnnxError(f"sizes {list(sizes)} for {len(along)} axes: expected one each, of 1 or more")
    if 0 in (x.shape[i] for i in along):
        raise OnnxError(f"X has shape {list(x.shape)}: nothing to interpolate in a side of 0")
    scales = [size / x.shape[i] for i, size in zip(along, sizes, strict=True)]
    if policy != "stretch" and scales:
        scales = [min(scales) if policy == "not_larger" else max(scales)] * len(scales)
        sizes = [math.floor(scale * x.shape[i] + 0.5) for i, scale in zip(along, scales, strict=True)]
    return {i: _Axis(x.shape[i], size, scale, roi) for i, size, scale, roi in zip(along, sizes, scales, rois, strict=True)}


def _method(call: Call) -> _Method:
    given = call.attributes
    return _Method(
        given["mode"],
        given["coordinate_transformation_mode"],
        given["nearest_mode"],
        given["cubic_coeff_a"],
        bool(given["exclude_outside"]),
        bool(given.get("antialias", 0)),
        given["extrapolation_value"],
    )


def _floats(array: Array | None) -> list[float]:
    if array is not None and array.size > 2 * 64:  # two each of as many axes as numpy can have
        raise OnnxError(f"{array.size} numbers for scales or roi: expected at most two per axis")
    return [] if array is None else [float(element) for element in array.reshape(-1)]


@operator("Upsample", "X:any scales:float2", since=9, mode=string("nearest", "linear"))
@operator("Resize", "X:any scales:float2", since=10, mode=string("nearest", "linear"))
def upsample(call: Call, x: Array, scales: Array) -> Array:
    """By scales, with pixels at integer coordinates."""
    method = _Method(call["mode"], "asymmetric", "before opset 11")
    return _resize(call, x, _by_scales(x, _floats(scales), range(x.ndim), [(0.0, 1.0)] * x.ndim), method)


@operator(
    "Resize",
    "X:any roi:float2? scales:float3? sizes:int?",
    since=11,
    antialias=integer(0),
    axes=integers(),
    coordinate_transformation_mode=_COORDINATES,
    cubic_coeff_a=number(-0.75),
    exclude_outside=integer(0),
    extrapolation_value=number(0.0),
    keep_aspect_ratio_policy=string("stretch", "not_larger", "not_smaller"),
    mode=string("nearest", "linear", "cubic"),
    nearest_mode=_NEAREST,
)
def resize(call: Call, x: Array, roi: Array | None = None, scales: Array | None = None, sizes: Array | None = None) -> Array:
    """By scales or to sizes, of all axes or of `axes`. Before opset 13 an empty tensor stands for what is left out."""
    along = range(x.ndim) if call["axes"] is None else axes_of(call["axes"], x.ndim)
    fractions = _floats(roi)
    if call["coordinate_transformation_mode"] != "tf_crop_and_resize":
        fractions = [0.0] * len(along) + [1.0] * len(along)
    if len(fractions) != 2 * len(along) or not all(map(math.isfinite, fractions)):
        raise OnnxError(f"roi has {len(fractions)} numbers, expected {2 * len(along)} finite ones")
    rois = list(zip(fractions[: len(along)], fractions[len(along) :], strict=True))
    has_scales, has_sizes = (array is not None and array.size > 0 for array in (scales, sizes))
    if has_scales == has_sizes and along:
        raise OnnxError("expected either scales or sizes")
    if sizes is not None and has_sizes:
        axes = _by_sizes(x, vector(sizes, "sizes"), along, rois, call["keep_aspect_ratio_policy"])
    else:
        axes = _by_scales(x, _floats(scales), along, rois)
    return _resize(call, x, axes, _method(call))
