"""Tensors of a part whose shape or order is not that of the image that holds them.

A part holds images (C, H, W) and vectors. A sequence (C, L) or (T, C), and whatever reshapes and transposes make, is a view: the image's
node, and an array of the tensor's shape that says where in the image each element lies. Moves only change the view. When a layer needs the
elements in a certain order, and the image does not happen to have it, a step moves the codes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ulp.nn import graph as ir

from .parts import Value
from .weights import NotInteger

Places = npt.NDArray[np.int64]

# Of a tensor that is a view: each takes 8 bytes, some times over, while a model is built.
_MAX_ELEMENTS = 2**25


def ordered(*shape: int) -> Places:
    """Places of an image of this size, in order. NotInteger where there are too many."""
    if math.prod(shape) > _MAX_ELEMENTS:
        raise NotInteger(f"it has {math.prod(shape)} elements, and at most {_MAX_ELEMENTS} are moved")
    return np.arange(math.prod(shape)).reshape(shape)


def shape_of(value: Value) -> ir.Shape:
    """The tensor's shape for one image."""
    return value.node.shape if value.view is None else value.view.shape


def places_of(value: Value) -> Places:
    """Where each element lies in the image."""
    if value.view is not None:
        return value.view
    return ordered(*value.node.shape)


def root_view(node: ir.Node) -> Places | None:
    """The view of a part's input: one where the tensor is a sequence."""
    assert isinstance(node.op, ir.Input)
    return None if node.op.shape is None else ordered(*node.op.shape)


def in_order(places: Places) -> bool:
    """Whether the elements lie in the image as in the tensor."""
    return bool((places.reshape(-1) == np.arange(places.size)).all())


def is_tokens(value: Value) -> bool:
    """Whether the tensor's last side is the image's channels, and the others are its pixels in their order."""
    places = value.view
    if places is None or not is_whole(value) or value.node.shape[0] != places.shape[-1]:
        return False
    rows = places.reshape(-1, places.shape[-1])
    return bool((rows == np.arange(rows.shape[1]) * len(rows) + np.arange(len(rows))[:, None]).all())


def is_whole(value: Value) -> bool:
    """Whether the tensor has as many elements as the image."""
    return value.view is None or value.view.size == math.prod(value.node.shape)


def channel_axis(value: Value) -> int | None:
    """The tensor's side that is the image's channels; None where there is none, and where the tensor is a piece of the image."""
    if value.view is None:
        return 0
    if not is_whole(value):
        return None
    channels = value.node.shape[0]
    if value.view.shape[0] == channels and in_order(value.view):
        return 0
    return value.view.ndim - 1 if is_tokens(value) else None


def moved(value: Value, places: Places) -> Value:
    """The value with its elements in another order or shape."""
    if in_order(places) and places.size == math.prod(value.node.shape):
        if places.shape == value.node.shape:
            return _with(value, value.node, None)
        if places.ndim == 1:
            part, node = value.part, value.node
            return _with(value, part.graph.add(ir.Flatten(), [node], places.shape, node.name, "Flatten"), None)
    return _with(value, value.node, places)


def image(value: Value) -> Value:
    """The value as an image or a vector of its own: its elements are moved if they must be. NotInteger where it is a sequence."""
    if value.view is None:
        return value
    shape = value.view.shape
    if len(shape) == 1:
        made = _moved_image(value, value.view.reshape(-1, 1, 1))
        return _with(value, value.part.graph.add(ir.Flatten(), [made], shape, made.name, "Flatten"), None)
    if len(shape) != 3:
        raise NotInteger(f"its input has shape [N, {', '.join(map(str, shape))}], expected (N, F) or (N, C, H, W)")
    return _with(value, _moved_image(value, value.view), None)


def line(value: Value) -> Value:
    """A tensor (C, L) whose image is (C, 1, L)."""
    shape = shape_of(value)
    if len(shape) != 2:
        raise NotInteger(f"its input has shape [N, {', '.join(map(str, shape))}], expected (N, C, L)")
    places = places_of(value)
    wanted = ordered(*shape)
    if in_order(places) and value.node.shape == (shape[0], 1, shape[1]):
        return value
    return _with(value, _moved_image(value, places[:, None]), wanted)


def tokens(value: Value) -> Value:
    """A tensor (..., C) whose image has C channels, and the other sides as its pixels."""
    places = places_of(value)
    channels = places.shape[-1]
    if is_tokens(value):
        return value
    rows = places.reshape(-1, channels)
    made = _moved_image(value, rows.T[:, None])
    wanted = ordered(channels, len(rows)).T.reshape(places.shape)
    return _with(value, made, wanted)


def result(value: Value) -> ir.Node:
    """The node that gives the tensor's floats in its own shape, as an output of the part."""
    if value.view is None:
        return value.node
    part, shape = value.part, value.view.shape
    if not is_whole(value) or not (in_order(value.view) or is_tokens(value)):
        flat = value.view.reshape(-1, 1, 1) if len(shape) != 3 else value.view
        value = Value(part, _moved_image(value, flat), value.grid, view=ordered(*shape))
    assert value.view is not None
    return part.graph.add(ir.View(not in_order(value.view)), [value.node], shape, value.node.name, "View")


def _with(value: Value, node: ir.Node, view: Places | None) -> Value:
    same = node is value.node
    integers = value.integers if same or value.integers is None else type(value.integers)(value.integers.dtype, value.integers.low, None)
    return Value(value.part, node, value.grid, integers, value.function if same else None, view)


def _moved_image(value: Value, places: Places) -> ir.Node:
    """The image's elements as an image (C, H, W), where each comes from `places`. NotInteger where no step moves them so."""
    part, node = value.part, value.node
    if places.shape == node.shape and in_order(places):
        return node
    height, width, _ = ir.layout(node)
    # (y, x, c) of each element of the new image: a sum of what its row, its column and its channel say.
    sources = np.stack([places // width % height, places % width, places // (height * width)], axis=-1)
    first = sources[0, 0, 0]
    of_rows, of_columns, of_channels = sources[0, :, 0], sources[0, 0] - first, sources[:, 0, 0] - first
    if ((of_rows[:, None] + of_columns + of_channels[:, None, None]) != sources).any():
        raise NotInteger("it moves elements in another way than by rows, columns and channels")
    low = of_columns.min(axis=0) + of_channels.min(axis=0)
    rows, columns, picked = of_rows + low, of_columns - of_columns.min(axis=0), of_channels - of_channels.min(axis=0)
    moves = ir.Rearrange(*(np.ascontiguousarray(a, np.int32) for a in (rows, columns, picked)))
    made = part.graph.add(moves, [node], places.shape, node.name, "Transpose")
    if value.grid is None:
        return made
    return part.graph.add(ir.Quantize(value.grid), [made], made.shape, node.name, "Quantize")  # so that its floats are known
