"""Operators that bring an axis together: reductions, softmax, normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ulp.onnx.model import OnnxError

from .registry import Array, Call, integer, integers, number, operator
from .shaping import axes_of, axis_of, vector

_Reduction = Callable[..., Any]


def _mean(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    # numpy warns of a mean of nothing.
    count = math.prod(x.shape[a] for a in axis)
    total = x.sum(axis, dtype=np.float64 if x.dtype.kind != "f" else None, keepdims=keepdims)
    return np.asarray(total / x.dtype.type(count)) if x.dtype.kind == "f" else np.asarray(total / max(count, 1))


def _extreme(function: np.ufunc, lowest: bool) -> _Reduction:
    """The largest or the smallest element; of none, what every element would beat."""

    def reduce(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
        if x.dtype.kind == "b":
            initial: Any = not lowest
        elif x.dtype.kind == "f":
            initial = -math.inf if lowest else math.inf
        else:
            initial = np.iinfo(x.dtype).min if lowest else np.iinfo(x.dtype).max
        return np.asarray(function.reduce(x, axis=axis, keepdims=keepdims, initial=initial))

    return reduce


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    largest = np.max(x, axis=axis, keepdims=True, initial=-math.inf)
    largest = np.where(np.isfinite(largest), largest, 0)
    total = np.log(np.sum(np.exp(x - largest), axis=axis, keepdims=True)) + largest
    return np.asarray(total if keepdims else total.squeeze(axis))


def _reduction(name: str, word: str, function: _Reduction, axes_since: int) -> None:
    """A row with the axes as an attribute, and one from opset `axes_since` on with the axes as an input."""

    def reduce(x: Array, axes: Sequence[int] | None, call: Call) -> Array:
        axis = tuple(range(x.ndim)) if not axes else axes_of(axes, x.ndim)
        return np.asarray(function(x, axis=axis, keepdims=bool(call["keepdims"]))).astype(x.dtype, copy=False)

    @operator(name, f"data:{word}", axes=integers(), keepdims=integer(1))
    def by_attribute(call: Call, x: Array) -> Array:
        return reduce(x, call["axes"], call)

    @operator(name, f"data:{word} axes:int?", since=axes_since, keepdims=integer(1), noop_with_empty_axes=integer(0))
    def by_input(call: Call, x: Array, axes: Array | None = None) -> Array:
        along = None if axes is None else vector(axes, "axes")
        if not along and call["noop_with_empty_axes"]:
            return np.asarray(function(x, axis=(), keepdims=True)).astype(x.dtype, copy=False)
        return reduce(x, along, call)


for _name, _word, _function, _axes_since in (
    ("ReduceMean", "number", _mean, 18),
    ("ReduceSum", "number", np.sum, 13),
    ("ReduceProd", "number", np.prod, 18),
    ("ReduceMax", "any", _extreme(np.maximum, True), 18),
    ("ReduceMin", "any", _extreme(np.minimum, False), 18),
    ("ReduceL1", "number", lambda x, axis, keepdims: np.abs(x).sum(axis, keepdims=keepdims), 18),
    ("ReduceL2", "number", lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis, keepdims=keepdims)), 18),
    ("ReduceSumSquare", "number", lambda x, axis, keepdims: np.square(x).sum(axis, keepdims=keepdims), 18),
    ("ReduceLogSum", "number", lambda x, axis, keepdims: np.log(x.sum(axis, keepdims=keepdims)), 18),
    ("ReduceLogSumExp", "float", _log_sum_exp, 18),
):
    _reduction(_name, _word, _function, _axes_since)


def _argument(name: str, function: Callable[..., Any]) -> None:
    @operator(name, "data:number", axis=integer(0), keepdims=integer(1), select_last_index=integer(0))
    def apply(call: Call, x: Array) -> Array:
        axis = axis_of(call["axis"], x.ndim)
        if call["select_last_index"]:
            found = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis, keepdims=bool(call["keepdims"]))
        else:
            found = function(x, axis=axis, keepdims=bool(call["keepdims"]))
        return np.asarray(found, np.int64)


_argument("ArgMax", np.argmax)
_argument("ArgMin", np.argmin)


@operator("TopK", "X:number K:int", since=10, outputs=2, axis=integer(-1), largest=integer(1), sorted=integer(1))
def top_k(call: Call, x: Array, k: Array) -> tuple[Array, Array]:
    """The K largest (or smallest) elements along an axis, in order, and where they were. Of equal ones the first."""
    axis = axis_of(call["axis"], x.ndim)
    if k.size != 1 or not 0 <= int(k.reshape(())) <= x.shape[axis]:
        raise OnnxError(f"K={k.reshape(-1)[:3].tolist()} of {x.shape[axis]} elements")
    count = int(k.reshape(()))
    if call["largest"]:
        # A stable sort of the reversed axis, read backwards: descending, and the first of equals first.
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    indices = np.take(order, range(count), axis)
    return np.take_along_axis(x, indices, axis), indices.astype(np.int64)


def _soften(x: Array, axes: tuple[int, ...], logarithm: bool) -> Array:
    if x.size == 0:
        return x
    shifted = x - x.max(axes, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axes, keepdims=True)
    return np.asarray(shifted - np.log(total) if logarithm else exponentials / total)


def _softmax(name: str, logarithm: bool) -> None:
    @operator(name, "X:float", axis=integer(1))
    def over_the_rest(call: Call, x: Array) -> Array:
        # Until opset 12 all axes from this one on count as one.
        axis = call["axis"] if call["axis"] == x.ndim else axis_of(call["axis"], x.ndim)
        return _soften(x, tuple(range(axis, x.ndim)), logarithm)

    @operator(name, "X:float", since=13, axis=integer(-1))
    def along_axis(call: Call, x: Array) -> Array:
        return _soften(x, (axis_of(call["axis"], x.ndim),), logarithm)


_softmax("Softmax", False)
_softmax("LogSoftmax", True)


def _channelwise(x: Array, *vectors: Array) -> list[Array]:
    """Vectors of one element per channel, so that they broadcast with X of (N, C, ...)."""
    if x.ndim < 2:
        raise OnnxError(f"X has shape {list(x.shape)}: expected (N, C, ...)")
    channels = x.shape[1]
    for v in vectors:
        if v.shape != (channels,):
            raise OnnxError(f"a vector of shape {list(v.shape)} for {channels} channels")
    return [v.reshape(1, channels, *(1,) * (x.ndim - 2)) for v in vectors]


@operator(
    "BatchNormalization",
    "X:float scale:float2 B:float2 mean:float3 var:float3",
    epsilon=number(1e-5),
    momentum=number(0.9),
    spatial=integer(1),
    training_mode=integer(0),
)
def batch_normalization(call: Call, x: Array, *parameters: Array) -> Array:
    """(X - mean) / sqrt(var + epsilon) * scale + B, a value of each a channel."""
    if call["training_mode"] or not call["spatial"]:
        raise OnnxError("training_mode=1 and spatial=0 are not supported: export the model in eval mode")
    scale, shift, mean, variance = _channelwise(x, *(p.astype(np.float64) for p in parameters))
    factor = scale / np.sqrt(variance + call["epsilon"])
    return np.asarray(x * factor.astype(x.dtype) + (shift - mean * factor).astype(x.dtype))


@operator("InstanceNormalization", "X:float scale:float B:float", epsilon=number(1e-5))
def instance_normalization(call: Call, x: Array, scale: Array, shift: Array) -> Array:
    """Each channel of each image by its own mean and variance."""
    scale, shift = _channelwise(x, scale, shift)
    return _standardized(x, tuple(range(2, x.ndim)), call["epsilon"])[0] * scale + shift


@operator(
    "LayerNormalization", "X:float Scale:float B:float?", since=17, outputs=3, axis=integer(-1), epsilon=number(1e-5), stash_type=integer(1)
)
def layer_normalization(call: Call, x: Array, scale: Array, shift: Array | None = None) -> tuple[Array, Array, Array]:
    """Everything from `axis` on by its own mean and variance; these are the other results."""
    axes = tuple(range(axis_of(call["axis"], x.ndim), x.ndim))
    for parameter in (scale, shift):
        if parameter is not None and np.broadcast_shapes(parameter.shape, x.shape) != x.shape:
            raise OnnxError(f"a parameter of shape {list(parameter.shape)} does not broadcast to X of {list(x.shape)}")
    standard, mean, inverse = _standardized(x, axes, call["epsilon"])
    result = standard * scale
    return result if shift is None else result + shift, mean, inverse


def _standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """(X - mean) / sqrt(variance + epsilon), the mean, and 1 / sqrt(variance + epsilon)."""
    mean = _mean(x, axes, True)
    centred = x - mean
    inverse = 1 / np.sqrt(_mean(centred * centred, axes, True) + x.dtype.type(epsilon))
    return centred * inverse, mean, inverse


@operator("LRN", "X:float", alpha=number(1e-4), beta=number(0.75), bias=number(1.0), size=integer(low=1, required=True))
def local_response_normalization(call: Call, x: Array) -> Array:
    """X / (bias + alpha / size * sum of squares of `size` channels around)^beta."""
    if x.ndim < 2:
        raise OnnxError(f"X has shape {list(x.shape)}: expected (N, C, ...)")
    channels, size = x.shape[1], call["size"]
    before = (size - 1) // 2
    # Sums of windows as differences of running sums, which start with a zero.
    running = np.zeros((x.shape[0], channels + 1, *x.shape[2:]))
    np.cumsum(np.square(x, dtype=np.float64), axis=1, out=running[:, 1:])
    centre = np.arange(channels)
    sums = running[:, np.minimum(centre + size - before, channels)] - running[:, np.maximum(centre - before, 0)]
    return np.asarray((x / (call["bias"] + call["alpha"] / size * sums) ** call["beta"]).astype(x.dtype))
