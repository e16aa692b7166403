"""Operators that bring an axis together: reductions and softmax; and the normalization of batches."""

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
):
    _reduction(_name, _word, _function, _axes_since)


@operator("ArgMax", "data:number", axis=integer(0), keepdims=integer(1), select_last_index=integer(0))
def arg_max(call: Call, x: Array) -> Array:
    """Where the largest element along an axis is: the first of equal ones, or the last."""
    axis = axis_of(call["axis"], x.ndim)
    if call["select_last_index"]:
        found = x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis=axis, keepdims=bool(call["keepdims"]))
    else:
        found = np.argmax(x, axis=axis, keepdims=bool(call["keepdims"]))
    return np.asarray(found, np.int64)


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


def _soften(x: Array, axes: tuple[int, ...]) -> Array:
    if x.size == 0:
        return x
    exponentials = np.exp(x - x.max(axes, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axes, keepdims=True))


@operator("Softmax", "X:float", axis=integer(1))
def softmax_over_the_rest(call: Call, x: Array) -> Array:
    """Until opset 12 all axes from this one on count as one."""
    axis = call["axis"] if call["axis"] == x.ndim else axis_of(call["axis"], x.ndim)
    return _soften(x, tuple(range(axis, x.ndim)))


@operator("Softmax", "X:float", since=13, axis=integer(-1))
def softmax(call: Call, x: Array) -> Array:
    """Exponentials as shares of their sum along an axis."""
    return _soften(x, (axis_of(call["axis"], x.ndim),))


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
