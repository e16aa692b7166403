"""Operators that move elements: shapes, slices, concatenation, padding, constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ulp.onnx.model import OnnxError

from .registry import Array, Attribute, Call, integer, integers, number, operator, string

# The maximum number of elements of shapes, axes and sizes.
_LONGEST = 2**14


def axis_of(axis: int, rank: int, name: str = "axis") -> int:
    """The axis from 0 up; negative ones count from the end."""
    if not -rank <= axis < rank:
        raise OnnxError(f"{name}={axis}: expected {-rank} to {rank - 1} for {rank} dimensions")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Different axes, from 0 up."""
    found = tuple(axis_of(int(axis), rank, "axes") for axis in axes)
    if len(set(found)) != len(found):
        raise OnnxError(f"axes={list(map(int, axes))}: one is named twice")
    return found


def vector(array: Array, name: str) -> list[int]:
    """The elements of a list that came as an input: shapes, axes, sizes."""
    if array.ndim > 1 or array.size > _LONGEST:
        raise OnnxError(f"{name} has shape {list(array.shape)}: expected one dimension of {_LONGEST} elements at most")
    return [int(element) for element in array.reshape(-1)]


@operator("Identity", "X:any")
def identity(_: Call, x: Array) -> Array:
    """X."""
    return x


@operator("Reshape", "X:any shape:int", allowzero=integer(0))
def reshape(call: Call, x: Array, shape: Array) -> Array:
    """0 keeps X's side (unless allowzero), -1 is what remains."""
    sides = vector(shape, "shape")
    if not call["allowzero"]:
        if any(side == 0 and i >= x.ndim for i, side in enumerate(sides)):
            raise OnnxError(f"shape {sides} keeps a side that X of {list(x.shape)} does not have")
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    known = math.prod(side for side in sides if side != -1)
    if min(sides, default=0) < -1 or sides.count(-1) > 1:
        raise OnnxError(f"shape {sides}: expected sides of 0 or more, and -1 once at most")
    if (-1 in sides and (known == 0 or x.size % known)) or (-1 not in sides and known != x.size):
        raise OnnxError(f"X of shape {list(x.shape)} has {x.size} elements, which shape {sides} does not")
    return x.reshape(sides)


@operator("Flatten", "X:any", axis=integer(1))
def flatten(call: Call, x: Array) -> Array:
    """Two dimensions: the sides before `axis`, and the others."""
    axis = call["axis"]
    if not -x.ndim <= axis <= x.ndim:
        raise OnnxError(f"axis={axis}: expected {-x.ndim} to {x.ndim}")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose", "X:any", perm=integers())
def transpose(call: Call, x: Array) -> Array:
    """Axes in the order of perm; reversed without."""
    perm = call["perm"]
    if perm is not None and sorted(perm) != list(range(x.ndim)):
        raise OnnxError(f"perm={list(perm)}: expected each of 0 to {x.ndim - 1} once")
    return np.asarray(x.transpose(perm))


@operator("Squeeze", "X:any", axes=integers())
def squeeze_by_attribute(call: Call, x: Array) -> Array:
    """Until opset 12 the axes are an attribute."""
    return _squeeze(x, call["axes"])


@operator("Squeeze", "X:any axes:int?", since=13)
def squeeze(_: Call, x: Array, axes: Array | None = None) -> Array:
    """Without the sides of 1 at `axes`, or all of them."""
    return _squeeze(x, None if axes is None else vector(axes, "axes"))


def _squeeze(x: Array, axes: Sequence[int] | None) -> Array:
    return x.squeeze() if axes is None else x.squeeze(axes_of(axes, x.ndim))


@operator("Unsqueeze", "X:any", axes=integers(required=True))
def unsqueeze_by_attribute(call: Call, x: Array) -> Array:
    """Until opset 12 the axes are an attribute."""
    return _unsqueeze(x, call["axes"])


@operator("Unsqueeze", "X:any axes:int", since=13)
def unsqueeze(_: Call, x: Array, axes: Array) -> Array:
    """With sides of 1, which the result has at `axes`."""
    return _unsqueeze(x, vector(axes, "axes"))


def _unsqueeze(x: Array, axes: Sequence[int]) -> Array:
    return np.expand_dims(x, axes_of(axes, x.ndim + len(axes)))


@operator("Expand", "X:any shape:int", since=8)
def expand(call: Call, x: Array, shape: Array) -> Array:
    """Broadcast X with an array of this shape."""
    result = np.broadcast_shapes(x.shape, tuple(vector(shape, "shape")))
    call.allow(result, x.dtype)
    return np.broadcast_to(x, result)


@operator("Tile", "X:any repeats:int")
def tile(call: Call, x: Array, repeats: Array) -> Array:
    """X side by side, as often as `repeats` says of each axis."""
    times = vector(repeats, "repeats")
    if len(times) != x.ndim or min(times, default=0) < 0:
        raise OnnxError(f"repeats={times}: expected {x.ndim} numbers of 0 or more")
    call.allow([side * count for side, count in zip(x.shape, times, strict=True)], x.dtype)
    return np.tile(x, times)


@operator("Concat", "inputs:any*", axis=integer(required=True))
def concat(call: Call, *arrays: Array) -> Array:
    """One behind another."""
    axis = axis_of(call["axis"], arrays[0].ndim)
    length = sum(array.shape[axis] if array.ndim > axis else 0 for array in arrays)
    call.allow([length if i == axis else side for i, side in enumerate(arrays[0].shape)], arrays[0].dtype)
    return np.concatenate(arrays, axis)


def _split(call: Call, x: Array, sizes: Sequence[int] | None, parts: int) -> tuple[Array, ...]:
    axis = axis_of(call["axis"], x.ndim)
    side = x.shape[axis]
    if sizes is None:
        # The last part takes what is missing.
        size = -(-side // parts)
        sizes = [min(size, max(0, side - i * size)) for i in range(parts)]
        if call.opset < 18 and side % parts:
            raise OnnxError(f"{side} elements do not split into {parts} equal parts")
    if len(sizes) != call.outputs or min(sizes) < 0 or sum(sizes) != side:
        raise OnnxError(f"parts of {list(sizes)} for {call.outputs} outputs: expected one size each, {side} in all")
    ends = np.cumsum(sizes)
    return tuple(x[(slice(None),) * axis + (slice(end - size, end),)] for size, end in zip(sizes, ends, strict=True))


@operator("Split", "X:any", outputs=-1, axis=integer(0), split=integers())
def split_by_attribute(call: Call, x: Array) -> tuple[Array, ...]:
    """Until opset 12 the sizes are an attribute."""
    return _split(call, x, call["split"], call.outputs)


@operator("Split", "X:any split:int?", since=13, outputs=-1, axis=integer(0))
def split_equally(call: Call, x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
    """Parts of these sizes, or as many equal ones as there are outputs."""
    return _split(call, x, None if sizes is None else vector(sizes, "split"), call.outputs)


@operator("Split", "X:any split:int?", since=18, outputs=-1, axis=integer(0), num_outputs=integer(low=1))
def split(call: Call, x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
    """Parts of these sizes, or num_outputs of which the last may be smaller."""
    parts = call["num_outputs"]
    if (sizes is None) == (parts is None):
        raise OnnxError("expected either the input split or the attribute num_outputs")
    if parts is not None and parts != call.outputs:
        raise OnnxError(f"num_outputs={parts}, but the node has {call.outputs} outputs")
    return _split(call, x, None if sizes is None else vector(sizes, "split"), call.outputs)


@operator("Slice", "X:any", starts=integers(required=True), ends=integers(required=True), axes=integers())
def slice_by_attributes(call: Call, x: Array) -> Array:
    """Until opset 9 everything is an attribute, and steps are 1."""
    return _slice(x, call["starts"], call["ends"], call["axes"], None)


@operator("Slice", "X:any starts:index ends:index axes:index? steps:index?", since=10)
def slice_(_: Call, x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    """From starts up to ends in steps, along axes; negative numbers count from the end."""
    optional = [None if array is None else vector(array, name) for name, array in (("axes", axes), ("steps", steps))]
    return _slice(x, vector(starts, "starts"), vector(ends, "ends"), *optional)


def _slice(x: Array, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None, steps: Sequence[int] | None) -> Array:
    axes = axes_of(range(len(starts)) if axes is None else axes, x.ndim)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise OnnxError(f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps")
    if 0 in steps:
        raise OnnxError("a step of 0")
    window = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        window[axis] = _window(x.shape[axis], start, end, step)
    return x[tuple(window)]


def _window(side: int, start: int, end: int, step: int) -> slice:
    """ONNX's bounds as Python's: they are clipped to the axis, and backwards the end may lie before its first element."""
    start, end = (bound + side if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return slice(min(max(start, 0), side), min(max(end, 0), side), step)
    if side == 0 or end >= side - 1:
        return slice(0, 0)
    return slice(min(max(start, 0), side - 1), end if end >= 0 else None, step)


@operator("Gather", "X:any indices:index", axis=integer(0))
def gather(call: Call, x: Array, indices: Array) -> Array:
    """Elements along an axis; negative indices count from the end."""
    axis = axis_of(call["axis"], x.ndim)
    side = x.shape[axis]
    if indices.size and not (-side <= int(indices.min()) and int(indices.max()) < side):
        raise OnnxError(f"indices of {indices.min()} to {indices.max()} for {side} elements")
    call.allow(x.shape[:axis] + indices.shape + x.shape[axis + 1 :], x.dtype)
    return np.take(x, indices, axis)


def _pad(call: Call, x: Array, pads: Sequence[int], value: Array, axes: Sequence[int]) -> Array:
    """pads: the beginnings of all axes, then their ends. Negative ones cut off."""
    if len(pads) != 2 * len(axes):
        raise OnnxError(f"{len(pads)} pads for {len(axes)} axes: expected two each")
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[len(axes) + i])
    x = x[tuple(slice(max(0, -low), max(0, side - max(0, -high))) for side, (low, high) in zip(x.shape, widths, strict=True))]
    widths = [(max(0, low), max(0, high)) for low, high in widths]
    call.allow([side + low + high for side, (low, high) in zip(x.shape, widths, strict=True)], x.dtype)
    if call["mode"] == "constant":
        return np.pad(x, widths, constant_values=value)
    if any(max(width) and not side for side, width in zip(x.shape, widths, strict=True)):
        raise OnnxError(f"nothing to repeat in a side of 0: shape {list(x.shape)}")
    return np.pad(x, widths, mode=call["mode"])


@operator("Pad", "X:float", pads=integers(required=True), value=number(0.0), mode=string("constant", "reflect", "edge"))
def pad_by_attributes(call: Call, x: Array) -> Array:
    """Until opset 10 pads and value are attributes."""
    return _pad(call, x, call["pads"], np.asarray(call["value"], x.dtype), range(x.ndim))


@operator("Pad", "X:any pads:int constant_value:any? axes:index?", since=11, mode=string("constant", "reflect", "edge", "wrap"))
def pad(call: Call, x: Array, pads: Array, value: Array | None = None, axes: Array | None = None) -> Array:
    """Widen (or cut) X at both ends of its axes."""
    if value is not None and value.size != 1:
        raise OnnxError(f"constant_value has shape {list(value.shape)}: expected a scalar")
    along = range(x.ndim) if axes is None else axes_of(vector(axes, "axes"), x.ndim)
    return _pad(call, x, vector(pads, "pads"), np.zeros((), x.dtype) if value is None else value.reshape(()), along)


def _space(call: Call, x: Array, channels: int) -> int:
    if x.ndim != 4:
        raise OnnxError(f"X has shape {list(x.shape)}: expected (N, C, H, W)")
    block: int = call["blocksize"]
    if channels and (x.shape[1] % (block * block)):
        raise OnnxError(f"{x.shape[1]} channels do not divide by blocksize {block} squared")
    if not channels and (x.shape[2] % block or x.shape[3] % block):
        raise OnnxError(f"{x.shape[2]} x {x.shape[3]} does not divide by blocksize {block}")
    return block


@operator("DepthToSpace", "X:any", blocksize=integer(low=1, required=True), mode=string("DCR", "CRD"))
def depth_to_space(call: Call, x: Array) -> Array:
    """Channels to blocks of pixels: depth-column-row or column-row-depth."""
    b = _space(call, x, 1)
    n, c, h, w = x.shape
    if call["mode"] == "DCR":
        blocks = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return np.asarray(blocks.reshape(n, c // (b * b), h * b, w * b))


@operator("SpaceToDepth", "X:any", blocksize=integer(low=1, required=True), mode=string("DCR", "CRD"))
def space_to_depth(call: Call, x: Array) -> Array:
    """Blocks of pixels to channels."""
    b = _space(call, x, 0)
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 3, 5, 1, 2, 4) if call["mode"] == "DCR" else (0, 1, 3, 5, 2, 4)
    return np.asarray(blocks.transpose(order).reshape(n, c * b * b, h // b, w // b))


@operator("Shape", "X:any", start=integer(0), end=integer())
def shape_(call: Call, x: Array) -> Array:
    """The sides of X from start up to end."""
    return np.array(x.shape[call["start"] : call["end"]], np.int64)


@operator("Size", "X:any")
def size(_: Call, x: Array) -> Array:
    """How many elements X has."""
    return np.array(x.size, np.int64)


@operator(
    "Constant",
    "",
    value=Attribute("tensor"),
    value_float=number(),
    value_floats=Attribute("floats"),
    value_int=integer(),
    value_ints=integers(),
)
def constant(call: Call) -> Array:
    """The one attribute that there is."""
    given = [(name, value) for name, value in call.attributes.items() if value is not None]
    if len(given) != 1:
        raise OnnxError("expected one of value, value_float, value_floats, value_int, value_ints")
    name, value = given[0]
    return np.asarray(value, None if name == "value" else np.float32 if "float" in name else np.int64)


@operator("ConstantOfShape", "shape:int", since=9, value=Attribute("tensor"))
def constant_of_shape(call: Call, shape: Array) -> Array:
    """One value, 0.0 by default, everywhere."""
    sides = vector(shape, "shape")
    value = np.zeros(1, np.float32) if call["value"] is None else call["value"]
    if value.size != 1 or min(sides, default=0) < 0:
        raise OnnxError(f"shape {sides} of a value of {value.size} elements: expected sides of 0 or more and one element")
    call.allow(sides, value.dtype)
    return np.full(sides, value.reshape(()))


@operator("Range", "start:number limit:number delta:number", since=11)
def range_(call: Call, start: Array, limit: Array, delta: Array) -> Array:
    """start, start + delta, ... below limit."""
    first, last, step = (array.reshape(()).item() for array in (start, limit, delta))
    if step == 0 or not math.isfinite((last - first) / step):
        raise OnnxError(f"from {first} to {last} in steps of {step}")
    count = max(0, math.ceil((last - first) / step))
    call.allow([count], start.dtype)
    return np.asarray((first + np.arange(count) * step).astype(start.dtype))
